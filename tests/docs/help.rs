//! `quantscope help`: every page is listed and names only options that exist.

use crate::markdown::{Document, guide, readme};
use crate::support::{failure, quantscope, stdout};
use regex::Regex;
use std::collections::BTreeSet;

/// The maximum width of the manual, which fits a terminal of 100 columns.
const MAX_COLUMNS: usize = 96;

fn topic(page: &Document) -> &str {
    page.name.trim_start_matches("src/guide/").trim_end_matches(".md")
}

fn subcommands() -> Vec<String> {
    let overview = stdout(&["--help"]);
    let list = overview.split("Commands:\n").nth(1).expect("a list of commands");
    let list = list.split("\n\n").next().expect("a list of commands");
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn help_lists_and_shows_every_page() {
    let overview = stdout(&["help"]);
    for page in guide() {
        let name = topic(&page);
        let listed = overview.lines().any(|line| line.starts_with(&format!("  {name} ")));
        assert!(listed, "`quantscope help` does not list '{name}'");
        let shown = stdout(&["help", name]);
        assert!(shown.starts_with(&page.text), "`quantscope help {name}` is not its page");
    }
}

#[test]
fn help_shows_every_subcommand() {
    let names = subcommands();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let shown = stdout(&["help", &name]);
        assert!(shown.contains(&format!("Usage: quantscope {name}")), "{shown}");
    }
}

#[test]
fn keys_page_has_the_keys() {
    let page = stdout(&["help", "keys"]);
    assert!(page.contains("mark the tensor") && page.contains("Space"), "{page}");
}

#[test]
fn search_finds_lines_with_their_page() {
    let found = stdout(&["help", "--search", "PICKLE"]);
    assert!(found.contains("quantscope help reliability\n    "), "{found}");
    let found = stdout(&["help", "--search", "--against"]);
    assert!(found.contains("quantscope help verify\n    "), "{found}");
    let (code, sentence) = failure(&["help", "--search", "no such word"]);
    assert_eq!(
        (code, sentence.as_str()),
        (1, "error: no line of the manual contains 'no such word'")
    );
}

#[test]
fn a_misspelt_page_is_suggested() {
    let (code, sentence) = failure(&["help", "numeric"]);
    assert!(code == 2 && sentence.contains("'numerics'"), "{sentence}");
}

#[test]
fn help_and_man_page_name_the_manual() {
    assert!(stdout(&["--help"]).contains("quantscope help"));
    let man = stdout(&["man"]);
    for page in guide() {
        assert!(man.contains(&format!("\\fB{}\\fR", topic(&page))), "{}", topic(&page));
    }
}

#[test]
fn manual_fits_a_terminal() {
    for page in guide() {
        for (index, line) in page.text.lines().enumerate() {
            let columns = line.chars().count();
            assert!(columns <= MAX_COLUMNS, "{}:{}: {columns} columns", page.name, index + 1);
        }
    }
}

#[test]
fn documents_name_only_options_and_pages_that_exist() {
    let option = Regex::new(r"\B--[a-z][a-z-]+").expect("a pattern");
    let mut known: BTreeSet<String> = BTreeSet::from(["--version".to_owned()]);
    for command in subcommands() {
        let help = quantscope(&[&command, "--help"]).assert().success();
        let help = String::from_utf8_lossy(&help.get_output().stdout).into_owned();
        known.extend(option.find_iter(&help).map(|found| found.as_str().to_owned()));
    }
    let program = stdout(&["--help"]);
    known.extend(option.find_iter(&program).map(|found| found.as_str().to_owned()));
    let mentioned = Regex::new(r"quantscope help ([a-z]+)").expect("a pattern");
    // Commands of other programs, on a line or in backquotes.
    let others = Regex::new(r"(?:cargo|pip|git|llama-quantize) [^`\n]*").expect("a pattern");
    let topics: Vec<String> = guide().iter().map(|page| topic(page).to_owned()).collect();
    for document in guide().into_iter().chain([readme()]) {
        let text = others.replace_all(&document.text, "");
        for found in option.find_iter(&text) {
            assert!(known.contains(found.as_str()), "{}: {}", document.name, found.as_str());
        }
        for found in mentioned.captures_iter(&text) {
            let name = found[1].to_owned();
            let exists = topics.contains(&name) || subcommands().contains(&name);
            assert!(exists, "{}: no page '{name}'", document.name);
        }
    }
}
