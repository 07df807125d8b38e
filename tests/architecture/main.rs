//! Checks the import rules of the crate, between folders and between the files of a folder, and
//! that replaced names do not come back.

mod cycles;
mod glossary;

use regex::Regex;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders from the bottom up. Each may import those before it, except the pairs in `BESIDE`.
const ORDER: [&str; 17] = [
    "failpoints",
    "path_error",
    "guide",
    "directories",
    "tensor",
    "quantization",
    "text",
    "checkpoint",
    "activations",
    "demo",
    "plan",
    "report",
    "export",
    "job",
    "cli",
    "app",
    "ui",
];

/// Pairs of folders that may not import each other in either direction.
const BESIDE: [(&str, &str); 10] = [
    ("app", "cli"),
    ("ui", "cli"),
    ("plan", "demo"),
    ("export", "demo"),
    ("job", "demo"),
    ("tensor", "directories"),
    ("quantization", "directories"),
    ("checkpoint", "text"),
    ("report", "demo"),
    ("export", "report"),
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("an entry").path();
        // tests/fuzz and tests/pictures are crates with build directories of their own.
        if path.is_dir() && !path.ends_with("target") {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every source file: its top folder, its name, and its code without comments.
fn modules() -> Vec<(String, String, String)> {
    let mut paths = Vec::new();
    files(&source(), &mut paths);
    let comment = Regex::new(r"(?m)//.*$").expect("a pattern");
    let module = |path: PathBuf| {
        let name = path.strip_prefix(source()).expect("below src").to_string_lossy().into_owned();
        let top = name.split(['/', '\\', '.']).next().unwrap_or_default().to_owned();
        let code = fs::read_to_string(&path).expect("text");
        (top, name, comment.replace_all(&code, "").into_owned())
    };
    paths.into_iter().map(module).collect()
}

/// The top folders that code imports with `crate::…`, also in groups.
fn imports(code: &str) -> Vec<String> {
    let path = Regex::new(r"\bcrate::(?:(\w+)|\{([^;]*)\};)").expect("a pattern");
    let first = Regex::new(r"(?:^|,)\s*(\w+)").expect("a pattern");
    let nested = Regex::new(r"\{[^{}]*\}").expect("a pattern");
    let mut found = Vec::new();
    for captures in path.captures_iter(code) {
        match (captures.get(1), captures.get(2)) {
            (Some(name), _) => found.push(name.as_str().to_owned()),
            (_, Some(group)) => {
                let mut group = group.as_str().to_owned();
                while nested.is_match(&group) {
                    group = nested.replace_all(&group, "").into_owned();
                }
                found.extend(first.captures_iter(&group).map(|c| c[1].to_owned()));
            }
            _ => {}
        }
    }
    found
}

fn may_import(from: &str, to: &str) -> bool {
    let place = |name| ORDER.iter().position(|folder| *folder == name);
    match (place(from), place(to)) {
        _ if from == to => true,
        (Some(from_at), Some(to_at)) => to_at < from_at && !BESIDE.contains(&(from, to)),
        // `lib`, `main` and `tui` are on top, and no folder may import them.
        (None, _) => ["lib", "main", "tui"].contains(&from),
        (Some(_), None) => false,
    }
}

#[test]
fn imports_point_one_way() {
    let modules = modules();
    assert!(modules.len() > 30, "the sources were not found");
    let mut seen = 0;
    for (top, name, code) in &modules {
        for import in imports(code) {
            seen += 1;
            assert!(may_import(top, &import), "{name} imports crate::{import}");
        }
        assert!(!code.contains("quantscope::") || top == "main", "{name} names its own crate");
    }
    assert!(seen > 50, "the imports were not found");
}

#[test]
fn only_the_screen_knows_the_terminal() {
    for (top, name, code) in modules() {
        let draws = ["ui", "tui"].contains(&top.as_str());
        assert!(draws || !code.contains("ratatui"), "{name} names ratatui");
        let keys = top == "tui" || Path::new(&name) == Path::new("app/keys.rs");
        assert!(keys || !code.contains("crossterm"), "{name} names crossterm");
    }
}

#[test]
fn files_of_a_folder_import_in_one_direction() {
    let files: Vec<_> = modules().into_iter().map(|(_, name, code)| (name, code)).collect();
    let found = cycles::cycles(&files);
    assert!(found.is_empty(), "{} import cycles:\n{}", found.len(), found.join("\n"));
}

#[test]
fn replaced_names_are_gone() {
    let (mut paths, mut found) = (Vec::new(), Vec::new());
    files(&source(), &mut paths);
    for path in &paths {
        let name = path.strip_prefix(source()).expect("below src").to_string_lossy();
        found.extend(glossary::former_file(&name.replace('\\', "/")).map(|why| (path, why)));
    }
    let mut tests_paths = Vec::new();
    files(&tests(), &mut tests_paths);
    for path in paths.iter().chain(&tests_paths) {
        let code = fs::read_to_string(path).expect("text");
        found.extend(glossary::former_names(&code).into_iter().map(|why| (path, why)));
    }
    let found: Vec<String> =
        found.into_iter().map(|(path, why)| format!("{}: {why}", path.display())).collect();
    assert!(found.is_empty(), "{} replaced names:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_rules_can_fail() {
    assert_eq!(imports("use crate::{tensor::{A, B}, plan};"), ["tensor", "plan"]);
    assert_eq!(imports("crate::job::run(); use crate::cli;"), ["job", "cli"]);
    assert!(may_import("job", "export") && may_import("ui", "app") && may_import("main", "cli"));
    assert!(may_import("tui", "ui") && may_import("app", "demo"));
    for (from, to) in
        [("tensor", "plan"), ("cli", "app"), ("app", "cli"), ("app", "ui"), ("app", "tui")]
    {
        assert!(!may_import(from, to), "{from} {to}");
    }
}
