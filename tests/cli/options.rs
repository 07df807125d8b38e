//! Options that scripts and CI rely on: conditions, CSV, suggestions and help.

use crate::support::checkpoint::{f32s, weights, write};
use crate::support::{data, failure, json, quantscope, stdout};
use std::path::Path;
use tempfile::{TempDir, tempdir};

/// A model with a NaN in `bad` and two clean tensors.
fn model_with_nan() -> (TempDir, String) {
    let directory = tempdir().expect("a directory");
    let path = directory.path().join("model.safetensors");
    let mut values = vec![0.5; 16];
    values[3] = f32::NAN;
    let tensors =
        [f32s("bad", &[4, 4], values), weights("good.weight", &[8, 8]), weights("b", &[4, 4])];
    write(&path, &tensors, &[]);
    let path = path.to_str().expect("text").to_owned();
    (directory, path)
}

/// The CSV cells of each record; no cell of these tests contains a comma.
fn records(csv: &str) -> Vec<Vec<String>> {
    let record = |line: &str| line.split(',').map(str::to_owned).collect();
    csv.split("\r\n").filter(|line| !line.is_empty()).map(record).collect()
}

#[test]
fn a_misspelt_subcommand_is_suggested() {
    for (typed, meant) in [("analyse", "analyze"), ("insepct", "inspect"), ("quantise", "quantize")]
    {
        let (code, text) = failure(&[typed, "demo:"]);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(&format!("did you mean '{meant}'?")), "{text}");
    }
    // A path, and a word that is similar to no subcommand, are models.
    for model in ["no/such/analyse", "bert"] {
        let (code, text) = failure(&[model]);
        assert!(code == 1 && text.contains("no such file or directory"), "{text}");
    }
}

#[test]
fn show_suggests_the_nearest_tensors() {
    let (code, text) = failure(&["show", "demo:", "classifer.0.weight"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("the nearest name is 'classifier.0.weight', then"), "{text}");
    let (_, text) = failure(&["show", "demo:", "zzz"]);
    assert!(text.contains("no tensor is named 'zzz'") && !text.contains("nearest"), "{text}");
}

#[test]
fn analyze_prints_only_the_worst_tensors_on_request() {
    let all = json(&["analyze", "demo:"]);
    let top = json(&["analyze", "demo:", "--top", "3"]);
    let (all_tensors, top_tensors) = (&all["tensors"], &top["tensors"]);
    let expected = all_tensors.as_array().expect("a list")[..3].to_vec();
    assert_eq!(top_tensors.as_array(), Some(&expected));
    assert_eq!(top["totals"], all["totals"], "totals count all tensors");
    let table = stdout(&["analyze", "demo:", "--top", "3"]);
    assert!(table.contains("features.13.weight") && table.contains("36 tensors"), "{table}");
    assert_eq!(table.lines().take_while(|line| !line.is_empty()).count(), 1 + 3, "{table}");
    let schemes = ["--schemes", "per-tensor,per-channel"];
    let compared = stdout(&[&["analyze", "demo:", "--top", "2"], &schemes[..]].concat());
    assert_eq!(compared.lines().take_while(|line| !line.is_empty()).count(), 1 + 2, "{compared}");
}

#[test]
fn analyze_fails_on_conditions() {
    let (_directory, model) = model_with_nan();
    for (condition, parts) in [
        ("nan", ["1 tensor fails --fail-on", "'bad': 1 NaN"]),
        ("below:200dB", ["2 tensors fail --fail-on", "is below 200.0 dB"]),
        ("below:200dB,nan", ["3 tensors fail --fail-on", "'bad': 1 NaN"]),
    ] {
        let run = quantscope(&["analyze", &model, "--fail-on", condition]).assert().code(1);
        let error = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        assert!(parts.iter().all(|part| error.contains(part)), "{condition}: {error}");
        let table = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
        assert!(table.contains("good.weight"), "the table is printed too: {table}");
    }
    for condition in ["inf", "below:-3", "below:5"] {
        stdout(&["analyze", &model, "--fail-on", condition]);
    }
    let (code, text) = failure(&["analyze", &model, "--fail-on", "sqnr<20"]);
    assert!(code == 2 && text.contains("expected nan, inf or below:DB"), "{text}");
}

#[test]
fn diff_has_an_exit_code_and_csv() {
    let (_directory, model) = model_with_nan();
    stdout(&["diff", "demo:", "demo:", "--exit-code"]);
    let (code, text) = failure(&["diff", "demo:", &model, "--exit-code"]);
    assert!(code == 1 && text.contains("differ: 3 added, 36 removed"), "{text}");
    let table = records(&stdout(&["diff", "demo:", &model, "--csv"]));
    assert_eq!(table[0][..3], ["name", "change", "from_dtype"]);
    assert_eq!(table.len(), 1 + 36 + 3);
    let changes: Vec<&str> = table[1..].iter().map(|record| record[1].as_str()).collect();
    assert!(changes.iter().all(|change| ["added", "removed"].contains(change)), "{changes:?}");
}

#[test]
fn csv_has_the_figures_of_json() {
    let document = json(&["analyze", "demo:"]);
    let table = records(&stdout(&["analyze", "demo:", "--csv"]).replace("\", \"", ""));
    let column = |title: &str| table[0].iter().position(|t| t == title).expect("a column");
    let first = &document["tensors"][0];
    assert_eq!(Some(table[1][0].as_str()), first["name"].as_str());
    let csv = stdout(&["analyze", "demo:", "--csv", "--top", "1"]);
    assert_eq!(csv.lines().count(), 2, "{csv}");
    assert!(csv.contains(&first["quantization"]["sqnr_db"].to_string()), "{csv}");
    assert!(column("sqnr_db") < column("rmse"));
    let listed = records(&stdout(&["inspect", "demo:", "--csv", "--include", "*.bias"]));
    assert_eq!(listed[0][..2], ["name", "dtype"]);
    assert!(listed[1..].iter().all(|record| record[0].ends_with(".bias")), "{listed:?}");
}

#[test]
fn inspect_ends_with_a_summary() {
    let model = data("tiny-llama/sharded");
    let text = stdout(&["inspect", &model]);
    let summary = text.split("quantizable: ").nth(1).expect("totals");
    for part in ["dtype", "role", "attention", "MLP", "embedding", "norm", "int8, per-tensor"] {
        assert!(summary.contains(part), "{part}: {summary}");
    }
    let document = json(&["inspect", &model]);
    let (summary, totals) = (&document["summary"], &document["totals"]);
    for key in ["dtypes", "roles"] {
        let counts = summary[key].as_array().expect("a list");
        let sum = |figure: &str| counts.iter().filter_map(|c| c[figure].as_u64()).sum::<u64>();
        assert_eq!(Some(sum("tensors")), totals["tensors"].as_u64(), "{key}");
        assert_eq!(Some(sum("bytes")), totals["bytes"].as_u64(), "{key}");
    }
    assert_eq!(summary["bytes_int8"], totals["bytes_quantized"]);
    assert!(summary["bytes_int4"].as_u64() < totals["bytes_quantized"].as_u64(), "{summary}");
}

#[test]
fn sizes_have_units() {
    let directory = tempdir().expect("a directory");
    let out = directory.path().join("out.safetensors");
    let out = out.to_str().expect("text");
    for size in ["20kB", "60%", "20000", "0.02MB", "19.5KiB"] {
        stdout(&["quantize", "demo:", "-o", out, "--force", "--max-bytes", size]);
        let written = std::fs::metadata(Path::new(out)).expect("written").len();
        assert!(written < 30_000, "{size}: {written}");
    }
    let (code, text) = failure(&["quantize", "demo:", "-o", out, "--max-bytes", "20 parsecs"]);
    assert!(code == 2 && text.contains("60MB, 1.5GiB, 50% or fits:24GB"), "{text}");
}

#[test]
fn help_has_examples_and_groups() {
    for command in [
        "inspect",
        "calibrate",
        "analyze",
        "show",
        "quantize",
        "dequantize",
        "verify",
        "diff",
        "report",
    ] {
        let help = stdout(&[command, "--help"]);
        assert!(help.contains("\nExamples:\n"), "{help}");
        let grouped = ["\nSelection:\n", "\nOutput:\n"].iter().any(|group| help.contains(group));
        assert!(grouped, "{help}");
    }
    let help = stdout(&["quantize", "--help"]);
    for group in ["Selection", "Target", "Quantization", "Budget", "Output", "Execution"] {
        assert!(help.contains(&format!("\n{group}:\n")), "{group}: {help}");
    }
}

#[test]
fn errors_list_only_documented_values() {
    let (_, text) = failure(&["quantize", "demo:", "-o", "x", "--format", "nothing"]);
    let listed = text.split("possible values: ").nth(1).expect("a list");
    let listed: Vec<&str> = listed.split(']').next().expect("a list").split(", ").collect();
    let help = stdout(&["quantize", "--help"]);
    for value in listed {
        assert!(help.contains(&format!("- {value}:")), "'{value}' is not in: {help}");
    }
}

#[test]
fn the_man_page_has_filters_targets_and_examples() {
    let man = stdout(&["man"]);
    for part in [
        ".SH FILTERS",
        ".SH TARGETS",
        ".SS EXAMPLES",
        "sqnr<30",
        "quantscope diff my\\-model my\\-model \\-\\-exit\\-code",
        "\\fBvllm\\fR",
    ] {
        assert!(man.contains(part), "{part}");
    }
}

/// No sentence counts one thing in the plural.
#[test]
fn one_thing_is_singular() {
    let directory = tempdir().expect("a directory");
    let model = directory.path().join("one.safetensors");
    write(&model, &[weights("only.weight", &[8, 8])], &[]);
    let (model, out) = (model.to_str().expect("text"), directory.path().join("out.safetensors"));
    let out = out.to_str().expect("text");
    let commands: [&[&str]; 8] = [
        &["inspect", model],
        &["analyze", model],
        &["calibrate", model],
        &["show", model, "only.weight"],
        &["diff", model, model],
        &["quantize", model, "-o", out],
        &["verify", out, "--against", model],
        &["quantize", model, "-o", out, "--force", "--dry-run"],
    ];
    for command in commands {
        let text = stdout(command);
        let mut words = text.split_whitespace().peekable();
        while let Some(word) = words.next() {
            let next = words.peek().copied().unwrap_or_default();
            let plural = ["tensors", "files", "shards", "marks", "layers", "rows"];
            let next = next.trim_end_matches([',', '.', ':', ';', ')']);
            assert!(word != "1" || !plural.contains(&next), "{command:?}: {text}");
        }
    }
}

/// Help lines are plain: no words of the style guide's list, and no repeated spaces or periods at
/// the end of a first line.
#[test]
fn help_lines_keep_the_style() {
    let commands = [
        "inspect",
        "calibrate",
        "analyze",
        "show",
        "quantize",
        "dequantize",
        "verify",
        "diff",
        "report",
        "check",
        "join",
        "help",
        "config",
        "completions",
        "man",
    ];
    let avoided = ["anew", "beneath", "thereby", "lest", "such as have", "of which", "is told"];
    for command in commands {
        let help = stdout(&[command, "--help"]);
        let first = help.lines().next().unwrap_or_default();
        assert!(!first.is_empty() && !first.ends_with('.'), "{command}: {first}");
        assert!(first.starts_with(char::is_uppercase), "{command}: {first}");
        for word in avoided {
            let padded = format!(" {} ", help.split_whitespace().collect::<Vec<_>>().join(" "));
            assert!(!padded.contains(&format!(" {word} ")), "{command}: '{word}'");
        }
    }
}
