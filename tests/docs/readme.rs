//! The README is short, and its links exist.

use crate::markdown::{Document, guide, readme, root};
use regex::Regex;

const MAX_LINES: usize = 250;

#[test]
fn readme_is_short() {
    let lines = readme().text.lines().count();
    assert!(lines <= MAX_LINES, "the README has {lines} lines, at most {MAX_LINES}");
}

#[test]
fn links_to_files_lead_somewhere() {
    for document in guide().into_iter().chain([readme()]) {
        for link in document.links().into_iter().filter(|link| !link.contains("://")) {
            let file = link.split('#').next().unwrap_or_default();
            let exists = file.is_empty() || root().join(file).exists();
            assert!(exists, "{} links to {link}", document.name);
        }
    }
}

#[test]
fn readme_answers_a_newcomers_questions() {
    let text = readme().text;
    for heading in ["Install", "Is it for me?", "Shrink a model for vLLM", "Safety", "Limits"] {
        assert!(text.contains(&format!("## {heading}\n")), "no section '{heading}'");
    }
    let pictures = text.matches("![").count();
    assert!((4..=6).contains(&pictures), "{pictures} pictures");
}

/// Whether a path exists relative to the document or to the repository.
fn exists(document: &Document, path: &str) -> bool {
    let folder = root().join(&document.name);
    let beside = folder.parent().is_some_and(|folder| folder.join(path).exists());
    beside || root().join(path).exists()
}

#[test]
fn documents_for_contributors_name_files_that_exist() {
    // In backquotes, with a slash or the name of a source file.
    let path = Regex::new(r"`([\w.]+(?:/[\w.-]+)*/?)`").expect("a pattern");
    for name in [".github/CONTRIBUTING.md", "tests/README.md"] {
        let document = Document::read(&root().join(name));
        let links = document.links().into_iter().filter(|link| !link.contains("://"));
        let named = path.captures_iter(&document.text).map(|found| {
            let (_, [path]) = found.extract();
            path
        });
        let paths = named.filter(|path| path.contains('/') || path.ends_with(".rs"));
        let missing: Vec<&str> = links.chain(paths).filter(|p| !exists(&document, p)).collect();
        assert!(missing.is_empty(), "{name} names {missing:?}, which do not exist");
    }
}
