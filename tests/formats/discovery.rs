//! Which files of a directory are opened: a table of small directories. Each has an
//! `expected.json`; `tests/interop/fixtures/make_discovery.py` creates them and records which
//! files transformers and diffusers open.

use crate::support::data;
use quantscope::checkpoint::{Checkpoint, Problem};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Expected {
    open: String,
    files: Option<Vec<String>>,
    /// The value that fills each tensor, which shows the file it came from.
    tensors: Option<BTreeMap<String, Option<f32>>>,
    says: Option<String>,
    error: Option<String>,
    ambiguous: Option<Vec<String>>,
}

fn cases() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data("discovery")).expect("the cases are there");
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    cases.sort();
    cases
}

/// The words of an error that are names of files or tensors, or numbers.
fn names_and_numbers(sentence: &str) -> Vec<&str> {
    let words = sentence.split([' ', ',', ';', ':', '(', ')', '\'']);
    words
        .map(|word| word.trim_end_matches('.'))
        .filter(|w| w.contains('.') && w.len() > 4)
        .collect()
}

fn first_value(checkpoint: &Checkpoint, name: &str) -> f32 {
    let id = checkpoint.find(name).unwrap_or_else(|| panic!("no tensor {name}"));
    let mut reader = checkpoint.reader();
    let (_, bytes) = reader.elements(id, 0..1).expect("reads").expect("floats");
    f32::from_le_bytes(bytes[..4].try_into().expect("an F32"))
}

fn check(case: &Path, expected: &Expected) {
    let label = format!("{} {}", case.display(), expected.open);
    let opened = Checkpoint::open(&case.join(&expected.open));
    let Some(files) = &expected.files else {
        let error = opened.map(|_| ()).expect_err(&label);
        match (&expected.ambiguous, &error.problem) {
            (Some(names), Problem::Ambiguous(found) | Problem::SeveralDirectories(found)) => {
                assert_eq!(found, names, "{label}");
            }
            (Some(_), other) => panic!("{label}: {other}"),
            (None, _) => {
                let printed = error.to_string();
                for word in names_and_numbers(expected.error.as_deref().expect("a reason")) {
                    assert!(printed.contains(word), "{label}: {printed}, expected {word}");
                }
            }
        }
        return;
    };
    let checkpoint = opened.unwrap_or_else(|error| panic!("{label}: {error}"));
    let shards = checkpoint.shards().iter().map(|shard| shard.source.path().to_owned());
    let mut found: Vec<PathBuf> =
        shards.map(|path| path.components().collect::<PathBuf>()).collect();
    found.sort();
    let mut paths: Vec<PathBuf> = files.iter().map(|file| case.join(file)).collect();
    paths.sort();
    assert_eq!(found, paths, "{label}");
    for (name, value) in expected.tensors.iter().flatten() {
        if let Some(value) = value {
            assert_eq!(first_value(&checkpoint, name), *value, "{label}: {name}");
        }
    }
    let notes = checkpoint.notes().join("\n");
    match &expected.says {
        None => assert_eq!(notes, "", "{label}"),
        Some(sentence) => {
            assert!(!notes.is_empty(), "{label}: expected a note: {sentence}");
            for word in names_and_numbers(sentence) {
                assert!(notes.contains(word), "{label}: {notes}, expected {word}");
            }
        }
    }
}

#[test]
fn the_files_that_loaders_open_are_opened() {
    let cases = cases();
    assert!(cases.len() > 90, "only {} cases were found", cases.len());
    let mut failed = Vec::new();
    for case in cases {
        let text = std::fs::read_to_string(case.join("expected.json")).expect("expected.json");
        let all: Vec<Expected> = serde_json::from_str(&text).expect("a list");
        for expected in all {
            let run = || check(&case, &expected);
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
                failed.push(format!("{} {}", case.display(), expected.open));
            }
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}
