//! Files that are not supported checkpoints: the error names the format and says what to do.

use crate::support::data;
use quantscope::checkpoint::Checkpoint;
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Row {
    file: String,
    says: String,
    words: Vec<String>,
}

/// Checkpoints with the extension of another format: they open, or the error names their format.
const OPEN: [&str; 5] = [
    "gguf-inside-safetensors-name.safetensors",
    "safetensors-inside-gguf-name.gguf",
    "pytorch-inside-safetensors-name.safetensors",
    "safetensors-inside-bin-name.bin",
    "npy-inside-pt-name.pt",
];

#[test]
fn other_files_are_named_by_their_first_bytes() {
    let text = std::fs::read_to_string(data("others/expected.json")).expect("the table");
    let rows: Vec<Row> = serde_json::from_str(&text).expect("rows");
    assert!(rows.len() > 100, "only {} rows were found", rows.len());
    let mut wrong = Vec::new();
    for Row { file, says, words } in rows {
        // Core ML packages are directories, and the expectation for shards is for their directory.
        if file.ends_with(".json") && !file.ends_with("index.json") {
            continue;
        }
        let path = data(&format!("others/{file}"));
        match Checkpoint::open(Path::new(&path)) {
            Ok(_) if OPEN.contains(&file.as_str()) => {}
            Ok(_) => wrong.push(format!("{file} opens; expected {says:?}")),
            Err(error) => {
                let printed = error.problem.to_string();
                let missing: Vec<_> =
                    words.iter().filter(|word| !printed.contains(*word)).collect();
                if !missing.is_empty() {
                    wrong.push(format!("{file}: {printed:?} lacks {missing:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
