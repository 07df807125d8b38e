//! `man`: prints the manual page, with every subcommand.

use super::error::Error;
use super::output::output;
use crate::guide::{TOPICS, Topic};
use crate::plan::target::Loader;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::io::{self, Write};

/// Prints the page. `keys` has the keys of the screen under their headings.
pub(super) fn run(
    command: clap::Command,
    keys: &[(String, Vec<(String, String)>)],
) -> Result<(), Error> {
    let mut page = Vec::new();
    render(&mut page, command, keys)?;
    let mut out = output();
    out.write_all(&page)?;
    Ok(out.flush()?)
}

fn render(
    page: &mut Vec<u8>,
    command: clap::Command,
    keys: &[(String, Vec<(String, String)>)],
) -> io::Result<()> {
    let mut command = command.display_name("quantscope");
    command.build();
    let man = Man::new(command.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    for subcommand in command.get_subcommands() {
        let man = Man::new(subcommand.clone());
        let mut part = Vec::new();
        man.render_synopsis_section(&mut part)?;
        man.render_description_section(&mut part)?;
        man.render_options_section(&mut part)?;
        // A subcommand's sections become subsections of its section.
        let part = String::from_utf8_lossy(&part).replace(".SH ", ".SS ");
        writeln!(page, ".SH \"QUANTSCOPE {}\"", subcommand.get_name().to_uppercase())?;
        page.write_all(part.as_bytes())?;
        if let Some(examples) = subcommand.get_after_help() {
            write!(page, "{}", examples_section(&examples.to_string()).to_roff())?;
        }
    }
    write!(page, "{}", loaders_section().to_roff())?;
    for topic in TOPICS.iter().filter(|topic| PRINTED_TOPICS.contains(&topic.name)) {
        write!(page, "{}", topic_section(topic).to_roff())?;
    }
    write!(page, "{}", manual_section().to_roff())?;
    write!(page, "{}", keys_section(keys).to_roff())?;
    man.render_extra_section(page)?;
    man.render_version_section(page)
}

/// Pages of the manual that the manual page contains.
const PRINTED_TOPICS: [&str; 3] = ["filters", "selection", "commands"];

/// The examples of a subcommand, line by line as they are.
fn examples_section(examples: &str) -> Roff {
    let mut section = Roff::new();
    section.control("SS", ["EXAMPLES"]);
    section.control("nf", []);
    for line in examples.lines().filter(|line| *line != "Examples:") {
        section.text([roman(line.trim_start())]);
    }
    section.control("fi", []);
    section
}

/// The loaders that `--for` takes.
fn loaders_section() -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["TARGETS"]);
    section.text([roman("Loaders for "), bold("--for"), roman(":")]);
    for loader in Loader::ALL {
        section.control("TP", []);
        section.text([bold(loader.name())]);
        section.text([roman(loader.summary())]);
    }
    section
}

/// A page of the manual, line by line as it is.
fn topic_section(topic: &Topic) -> Roff {
    let mut section = Roff::new();
    section.control("SH", [topic.name.to_uppercase().as_str()]);
    section.control("nf", []);
    for line in topic.text.lines().skip(1).filter(|line| !line.starts_with("```")) {
        section.text([roman(line)]);
    }
    section.control("fi", []);
    section
}

/// The topics that `quantscope help` shows.
fn manual_section() -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["MANUAL"]);
    section.text([roman("Shown by "), bold("quantscope help TOPIC"), roman(":")]);
    for topic in TOPICS {
        section.control("TP", []);
        section.text([bold(topic.name)]);
        section.text([roman(topic.summary())]);
    }
    section
}

/// The section with the keys of the screen.
fn keys_section(keys: &[(String, Vec<(String, String)>)]) -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["KEYS OF THE SCREEN"]);
    for (heading, bindings) in keys {
        section.control("SS", [heading.as_str()]);
        for (keys, help) in bindings {
            section.control("TP", []);
            section.text([bold(keys.as_str())]);
            section.text([roman(help.as_str())]);
        }
    }
    section
}
