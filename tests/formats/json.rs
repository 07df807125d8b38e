//! Unusual and invalid JSON in configs, indexes and headers, as written by people and Python.

use crate::support::data;
use quantscope::checkpoint::Checkpoint;
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Row {
    case: String,
    tensors: Option<Vec<String>>,
    says: Option<String>,
    error: Option<String>,
}

/// Cases that the safetensors library also refuses, so quantscope may refuse them.
const MAY_BE_REFUSED: [&str; 1] = ["metadata-numbers"];

#[test]
fn unusual_json_is_read_and_invalid_json_is_reported() {
    let text = std::fs::read_to_string(data("json/expected.json")).expect("the table");
    let rows: Vec<Row> = serde_json::from_str(&text).expect("rows");
    assert!(rows.len() > 50, "only {} rows were found", rows.len());
    let mut wrong = Vec::new();
    for Row { case, tensors, says, error } in rows {
        let path = data(&format!("json/{case}"));
        match (Checkpoint::open(Path::new(&path)), tensors) {
            (Ok(checkpoint), Some(tensors)) => {
                let found: Vec<_> =
                    checkpoint.tensors().iter().map(|t| t.name.to_string()).collect();
                if found != tensors {
                    wrong.push(format!("{case}: {found:?}, expected {tensors:?}"));
                }
                let about_config =
                    says.as_ref().is_some_and(|says| says.contains("config.json is"));
                let notes = checkpoint.notes().join("; ");
                if about_config && !notes.contains("config.json") && case != "config-deep" {
                    wrong.push(format!("{case}: {notes:?}, expected {says:?}"));
                }
            }
            (Ok(_), None) => wrong.push(format!("{case} opens, expected {error:?}")),
            (Err(_), None) => {}
            (Err(_), Some(_)) if MAY_BE_REFUSED.contains(&case.as_str()) => {}
            (Err(error), Some(_)) => wrong.push(format!("{case}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
