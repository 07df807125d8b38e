//! The JSON documents: their keys, their figures, and that threads do not change them.

mod support;

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use std::fs::OpenOptions;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::checkpoint::{Tensor, f32s, huge, weights, write};
use support::{data, json, stdout};
use tempfile::tempdir;

const TENSOR: [&str; 7] =
    ["name", "dtype", "shape", "parameters", "bytes", "quantizable", "reason"];
const STATS: [&str; 9] = ["count", "min", "max", "absmax", "mean", "std", "zeros", "nan", "inf"];
const QUANTIZATION: [&str; 9] = [
    "scale",
    "mse",
    "rmse",
    "max_abs_error",
    "sqnr_db",
    "cosine_similarity",
    "relative_error",
    "zeroed",
    "levels_used",
];

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn tensors(document: &Value) -> &Vec<Value> {
    document["tensors"].as_array().expect("a list")
}

fn names(document: &Value) -> Vec<&str> {
    tensors(document).iter().map(|t| t["name"].as_str().expect("text")).collect()
}

#[test]
fn keys_are_exactly_those_documented() {
    for (command, stats, quantization) in [
        ("inspect", None, None),
        ("calibrate", Some(&["min", "max", "absmax", "nan", "inf"][..]), Some(&["scale"][..])),
        ("analyze", Some(&STATS), Some(&QUANTIZATION)),
    ] {
        for model in ["demo:", &data("tiny-llama/sharded")] {
            let document = json(&[command, model]);
            assert_eq!(keys(&document), ["model", "format", "scheme", "tensors", "totals"]);
            let totals = ["tensors", "parameters", "bytes", "bytes_quantized"];
            assert_eq!(keys(&document["totals"]), totals);
            let more = if stats.is_some() { &["stats", "quantization"][..] } else { &[] };
            // Also where a tensor has no figures: then they are null.
            for tensor in tensors(&document) {
                assert_eq!(keys(tensor), [&TENSOR[..], more].concat());
                if let (Some(stats), Some(quantization)) = (stats, quantization) {
                    assert_eq!(keys(&tensor["stats"]), stats);
                    assert_eq!(keys(&tensor["quantization"]), quantization);
                }
            }
        }
    }
}

#[test]
fn figures_are_those_of_numpy() {
    let text = std::fs::read_to_string(data("tiny-llama/reference.json")).expect("kept with us");
    let reference: Value = serde_json::from_str(&text).expect("JSON");
    for model in ["single", "sharded"] {
        let document = json(&["analyze", &data(&format!("tiny-llama/{model}"))]);
        assert_eq!(tensors(&document).len(), 21);
        for tensor in tensors(&document) {
            let expected = &reference[tensor["name"].as_str().expect("text")];
            let (stats, quantization) = (&tensor["stats"], &tensor["quantization"]);
            let number = |value: &Value| value.as_f64().expect("a number");
            for key in ["min", "max"] {
                assert_eq!(stats[key], expected[key], "{tensor}");
            }
            let narrow = |value: &Value| number(value) as f32;
            assert_eq!(narrow(&quantization["scale"]), narrow(&expected["scale"]), "{tensor}");
            assert_eq!(quantization["levels_used"], expected["levels_used"], "{tensor}");
            for (found, key) in [
                (stats, "mean"),
                (stats, "std"),
                (quantization, "mse"),
                (quantization, "max_abs_error"),
                (quantization, "cosine_similarity"),
                (quantization, "zeroed"),
                (quantization, "sqnr_db"),
            ] {
                if expected[key].is_null() {
                    assert!(found[key].is_null(), "{key}: {tensor}");
                    continue;
                }
                let (found, expected) = (number(&found[key]), number(&expected[key]));
                assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{key}: {tensor}");
            }
        }
    }
}

#[test]
fn worst_first_and_what_has_no_figure_last() {
    let dir = tempdir().expect("a directory");
    let path = dir.path().join("model.safetensors");
    let mut broken = vec![1.0; 4];
    broken[2] = f32::NAN;
    // One value far out costs the others their precision.
    let outlier = (0..16).map(|i| if i == 0 { 100.0 } else { (i as f32).sin() });
    write(
        &path,
        &[
            f32s("broken", &[2, 2], broken),
            f32s("exact", &[2, 2], [127.0, 1.0, -5.0, 0.0]),
            Tensor { name: "steps".into(), dtype: "I64", shape: vec![], bytes: vec![0; 8] },
            weights("fine", &[8, 8]),
            f32s("outlier", &[4, 4], outlier),
        ],
        &[],
    );
    let path = path.to_str().expect("text");
    let document = json(&["analyze", path]);
    assert_eq!(names(&document), ["outlier", "fine", "exact", "broken", "steps"]);
    for command in ["inspect", "calibrate"] {
        let names_of = json(&[command, path]);
        assert_eq!(names(&names_of), ["broken", "exact", "steps", "fine", "outlier"]);
    }
    let [_, fine, exact, broken, steps] = &tensors(&document)[..] else { panic!("five") };
    assert_eq!((&fine["quantizable"], &fine["reason"]), (&true.into(), &Value::Null));
    // Infinite dB: JSON has no such number.
    assert!(exact["quantization"]["sqnr_db"].is_null());
    assert_eq!(exact["quantization"]["mse"], 0.0);
    assert_eq!(broken["quantizable"], false);
    assert!(broken["reason"].as_str().expect("text").contains("1 NaN"));
    assert_eq!((&broken["stats"]["nan"], &broken["stats"]["max"]), (&1.into(), &1.0.into()));
    assert!(broken["quantization"]["scale"].is_null());
    assert!(steps["stats"]["count"].is_null());
    assert_eq!(document["totals"]["tensors"], 5);
    // Three are quantized: a byte an element and a scale each.
    let after = 16 + (4 + 4) + 8 + (64 + 4) + (16 + 4);
    assert_eq!(document["totals"]["bytes_quantized"], after);
}

#[test]
fn scales_are_a_number_or_a_list() {
    let model = data("tiny-llama/single");
    let one = |scheme: &str, command: &str| {
        let name = "model.layers.0.self_attn.k_proj.weight";
        let document = json(&[command, &model, "--scheme", scheme, "--include", name]);
        assert_eq!(document["scheme"], scheme);
        document["tensors"][0]["quantization"]["scale"].clone()
    };
    assert!(one("per-tensor", "analyze").is_number());
    for (scheme, count) in [("per-channel", 64), ("per-block:32", 256), ("per-block:48", 192)] {
        let scales = one(scheme, "analyze");
        assert_eq!(scales.as_array().expect("a list").len(), count, "{scheme}");
        assert!(scales.as_array().expect("a list").iter().all(Value::is_number));
        assert_eq!(scales, one(scheme, "calibrate"));
    }
}

#[test]
fn any_number_of_threads_prints_the_same() {
    for model in ["demo:", &data("tiny-llama/sharded")] {
        for args in [
            &["analyze", model, "--json"][..],
            &["analyze", model, "--json", "--scheme", "per-block:32"],
            &["analyze", model, "--scheme", "per-channel"],
            &["calibrate", model, "--json", "--scheme", "per-channel"],
        ] {
            let with = |n| stdout(&[args, &["--threads", n]].concat());
            let one = with("1");
            assert!(one == with("2") && one == with("7"), "{args:?}");
        }
    }
}

#[test]
fn a_selection_limits_what_is_shown() {
    let model = data("tiny-llama/single");
    let document = json(&["inspect", &model, "--include", "*norm*", "--include", "lm_head.weight"]);
    assert_eq!(document["totals"]["tensors"], 6);
    // A norm is not quantized, though a pattern shows it; by its plain name it is.
    let norm = "model.norm.weight";
    let shown = json(&["inspect", &model, "--include", "*.norm.*"]);
    assert_eq!(shown["totals"]["bytes_quantized"], shown["totals"]["bytes"]);
    let named = json(&["inspect", &model, "--include", norm]);
    assert_eq!(named["totals"]["bytes_quantized"], 128 + 4);
    assert_eq!(named["tensors"][0]["quantizable"], false);
    let without = json(&["inspect", &model, "--exclude", "*layers*"]);
    assert_eq!(names(&without), ["lm_head.weight", "model.embed_tokens.weight", norm]);
}

/// The file becomes shorter while it is measured: the rest is still told, and the end says
/// so.
#[test]
fn what_cannot_be_read_is_an_entry_and_exit_code_1() {
    let dir = tempdir().expect("a directory");
    let Some(path) = huge(dir.path(), &[weights("small", &[4, 4])]) else { return };
    let child = Command::new(cargo_bin!("quantscope"))
        .args(["analyze", "--json"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    std::thread::sleep(Duration::from_millis(500));
    let file = OpenOptions::new().write(true).open(&path).expect("own file");
    file.set_len(1 << 20).expect("shorter");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.starts_with("error: 1 of the tensors could not be read; "), "{said}");
    let document: Value = serde_json::from_slice(&output.stdout).expect("a whole document");
    assert_eq!(names(&document), ["small", "huge"]);
    let [small, huge] = &tensors(&document)[..] else { panic!("two") };
    assert!(small["quantization"]["mse"].is_number());
    assert_eq!(huge["quantizable"], false);
    assert!(huge["reason"].as_str().expect("text").contains("tensor 'huge'"), "{huge}");
}
