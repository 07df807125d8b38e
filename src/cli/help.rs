//! `help`: shows and searches the pages of the manual and the help of subcommands.

use crate::cli::error::Error;
use crate::cli::output;
use crate::guide::TOPICS;
use clap::Args;
use signal_hook::consts::SIGINT;
use std::fmt::Write as _;
use std::io::{ErrorKind, IsTerminal, Write, stdout};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A heading with the keys below it and what they do.
type KeyGroup = (String, Vec<(String, String)>);

#[derive(Debug, Args)]
pub struct Help {
    /// A page of the manual or a subcommand; without it, a list of both
    #[arg(hide_possible_values = true)]
    topic: Option<String>,
    /// Show every line of the manual that contains WORD, in upper or lower case
    #[arg(long, value_name = "WORD", conflicts_with = "topic", allow_hyphen_values = true)]
    search: Option<String>,
}

/// A page that `help NAME` can show.
struct Page {
    name: String,
    text: String,
}

impl Help {
    /// `keys`: the keys of the screen, which are shown on the page `keys`.
    pub(super) fn run(self, command: clap::Command, keys: &[KeyGroup]) -> Result<(), Error> {
        match (self.topic, self.search) {
            (_, Some(word)) => show(&search(&pages(command, keys), &word)?),
            (Some(name), None) => {
                let page = pages(command, keys).into_iter().find(|page| page.name == name);
                show(&page.map(|page| page.text).unwrap_or_default())
            }
            (None, None) => show(&overview(command)),
        }
    }
}

/// The names of all pages of the manual and of all subcommands.
pub(super) fn page_names(command: &clap::Command) -> Vec<String> {
    let subcommands = command.get_subcommands().map(|command| command.get_name().to_owned());
    TOPICS.iter().map(|topic| topic.name.to_owned()).chain(subcommands).collect()
}

/// The subcommands and the pages of the manual, each with its summary.
fn overview(mut command: clap::Command) -> String {
    let mut text = command.render_help().to_string();
    text.push_str("\nManual, shown by `quantscope help TOPIC`:\n");
    let width = TOPICS.iter().map(|topic| topic.name.len()).max().unwrap_or(0);
    for topic in TOPICS {
        let _ = writeln!(text, "  {:width$}  {}", topic.name, topic.summary());
    }
    text.push_str("\n`quantscope help --search WORD` searches all of it.\n");
    text
}

/// Every page of the manual, then the help of every subcommand.
fn pages(mut command: clap::Command, keys: &[KeyGroup]) -> Vec<Page> {
    let manual = TOPICS.iter().map(|topic| {
        let mut text = topic.text.to_owned();
        if topic.name == "keys" {
            text.push_str(&key_list(keys));
        }
        Page { name: topic.name.to_owned(), text }
    });
    command.build();
    let subcommands = command.get_subcommands_mut().map(|subcommand| Page {
        name: subcommand.get_name().to_owned(),
        text: subcommand.render_long_help().to_string(),
    });
    manual.chain(subcommands).collect()
}

/// The keys of the screen below their headings, aligned.
fn key_list(groups: &[KeyGroup]) -> String {
    let mut text = String::new();
    let length = |keys: &String| keys.chars().count();
    let width = groups.iter().flat_map(|(_, keys)| keys).map(|(keys, _)| length(keys)).max();
    let width = width.unwrap_or(0);
    for (heading, keys) in groups {
        let _ = writeln!(text, "\n## {heading}\n");
        for (keys, meaning) in keys {
            let _ = writeln!(text, "    {keys:width$}  {meaning}");
        }
    }
    text
}

/// The lines that contain `word`, below the command that shows their page.
fn search(pages: &[Page], word: &str) -> Result<String, Error> {
    let lower = word.to_lowercase();
    let mut text = String::new();
    for page in pages {
        let lines = page.text.lines().filter(|line| line.to_lowercase().contains(&lower));
        let lines: Vec<&str> = lines.map(str::trim).collect();
        if lines.is_empty() {
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "quantscope help {}", page.name);
        for line in lines {
            let _ = writeln!(text, "    {line}");
        }
    }
    if text.is_empty() { Err(Error::NotInManual { word: word.to_owned() }) } else { Ok(text) }
}

/// Prints a text: through a pager to a terminal, as it is anywhere else.
fn show(text: &str) -> Result<(), Error> {
    let pager = if stdout().is_terminal() { start_pager() } else { None };
    let Some(mut pager) = pager else { return output::print(text) };
    // Ctrl-C belongs to the pager, which uses it to stop a search.
    let _ = signal_hook::flag::register(SIGINT, Arc::new(AtomicBool::new(false)));
    let written = match pager.stdin.take() {
        Some(mut stdin) => stdin.write_all(text.as_bytes()),
        None => Ok(()),
    };
    pager.wait()?;
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Starts `$PAGER`, or `less` if it is not set. `None` if it is empty or cannot be started.
fn start_pager() -> Option<Child> {
    let line = std::env::var("PAGER").unwrap_or_else(|_| "less".to_owned());
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next()?);
    command.args(words).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        // Quit if the text fits one screen, and leave it there.
        command.env("LESS", "FRX");
    }
    command.spawn().ok()
}
