//! The JSON documents: keys, figures, and independence of the number of threads.

use crate::support::checkpoint::{Tensor, f32s, huge, weights, write};
use crate::support::{data, json, stdout};
use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use std::fs::OpenOptions;
use std::process::{Command, Stdio};
use std::time::Duration;
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
            let last = if command == "inspect" { &["summary", "metadata"][..] } else { &[] };
            let expected = [&["model", "format", "scheme", "tensors", "totals"], last].concat();
            assert_eq!(keys(&document), expected);
            let totals = ["tensors", "parameters", "bytes", "bytes_quantized"];
            assert_eq!(keys(&document["totals"]), totals);
            let more = match command {
                "inspect" => &[][..],
                "calibrate" => &["stats", "quantization"],
                _ => &["stats", "quantization", "flags", "duplicate_of"],
            };
            // A tensor without figures has the same keys, with null.
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
fn inspect_has_the_metadata_of_each_file() {
    let document = json(&["inspect", &data("formats/ct-int8-channel/model.safetensors")]);
    let file = &document["metadata"][0];
    assert_eq!(
        (&file["file"], &file["values"]["format"]),
        (&"model.safetensors".into(), &"pt".into())
    );
    assert_eq!(json(&["inspect", &data("json/metadata-empty")])["metadata"], serde_json::json!([]));
}

#[test]
fn schemes_side_by_side_equal_single_schemes() {
    let model = data("tiny-llama/sharded");
    let schemes = ["per-channel", "per-tensor", "per-block:32", "per-block:64", "per-block:128"];
    let document = json(&["analyze", &model, "--schemes", &schemes.join(",")]);
    assert_eq!(document["scheme"], "per-channel");
    for (place, scheme) in schemes.iter().enumerate() {
        let alone = json(&["analyze", &model, "--scheme", scheme]);
        for tensor in tensors(&alone) {
            let same = |t: &&Value| t["name"] == tensor["name"];
            let found = tensors(&document).iter().find(same).expect("listed");
            let (found, expected) = (&found["schemes"][place], &tensor["quantization"]);
            assert_eq!(found["scheme"], *scheme);
            assert_eq!(found["levels_used"], expected["levels_used"], "{tensor}");
            for key in ["mse", "sqnr_db", "zeroed", "max_abs_error", "cosine_similarity"] {
                if let (Some(a), Some(b)) = (found[key].as_f64(), expected[key].as_f64()) {
                    assert!((a - b).abs() <= 1e-6 * b.abs(), "{scheme} {key}: {a} {b}");
                } else {
                    assert_eq!(found[key], expected[key]);
                }
            }
            if let Some(worst) = found["worst_channel"]["sqnr_db"].as_f64() {
                assert!(worst <= found["sqnr_db"].as_f64().expect("a number") + 1e-9);
            }
        }
    }
    let table =
        stdout(&["analyze", &model, "--schemes", "per-tensor,per-channel,per-block:32/int4"]);
    assert!(table.contains("measured, not saved") && table.contains("per-channel +"), "{table}");
}

#[test]
fn diagnostics_are_listed() {
    let dir = tempdir().expect("a directory");
    let path = dir.path().join("model.safetensors");
    let mut outlier: Vec<f32> = (0..64).map(|i| (i as f32).sin()).collect();
    outlier[40..48].iter_mut().for_each(|x| *x *= 20.0);
    let broken = (0..8).map(|i| if i == 5 { f32::INFINITY } else { i as f32 });
    let tied: Vec<f32> = (0..32).map(|i| (i as f32).cos()).collect();
    write(
        &path,
        &[
            f32s("broken", &[2, 4], broken),
            f32s("constant", &[2, 4], [0.5; 8]),
            f32s("embed", &[8, 4], tied.clone()),
            f32s("head", &[8, 4], tied),
            f32s("outlier", &[8, 8], outlier),
        ],
        &[],
    );
    let path = path.to_str().expect("text");
    let document = json(&["analyze", path, "--schemes", "per-tensor,per-channel"]);
    let of = |name: &str| tensors(&document).iter().find(|t| t["name"] == name).expect("listed");
    let flags = |name: &str| -> Vec<&str> {
        let flags = of(name)["flags"].as_array().expect("a list");
        flags.iter().map(|flag| flag["flag"].as_str().expect("text")).collect()
    };
    assert_eq!(flags("broken"), ["inf"]);
    assert_eq!(flags("constant"), ["constant"]);
    assert_eq!(flags("outlier"), ["outlier"]);
    assert!(of("outlier")["flags"][0]["what"].as_str().expect("text").contains("channel 5"));
    assert!(flags("embed").is_empty() && of("embed")["duplicate_of"].is_null());
    assert_eq!(of("head")["duplicate_of"], "embed");
    assert!(stdout(&["analyze", path]).contains("the same bytes as embed"));
}

/// For every calibration the measured error equals that of the saved file and of `verify`.
#[test]
fn measured_errors_equal_those_of_the_saved_file() {
    let dir = tempdir().expect("a directory");
    let model = data("tiny-llama/single");
    for (i, calibration) in ["percentile:99", "mse", "clip:0.6"].into_iter().enumerate() {
        for (scheme, format) in [
            ("per-tensor", "safetensors"),
            ("per-channel", "int8"),
            ("per-block:32", "fake-quantized"),
            ("per-channel", "safetensors"),
            ("per-tensor", "burn"),
        ] {
            // Searching for the lowest MSE in every block takes long.
            if calibration == "mse" && scheme == "per-block:32" {
                continue;
            }
            let end = if format == "burn" { ".bpk" } else { "" };
            let out = dir.path().join(format!("{i}{scheme}{format}{end}"));
            let out = out.to_str().expect("text");
            let options = ["--calibration", calibration, "--scheme", scheme];
            let save = ["quantize", &model, "--include", "*mlp*", "--format", format, "-o", out];
            stdout(&[&save[..], &options].concat());
            stdout(&["verify", out, "--against", &model]);
            let shown = json(&[&["analyze", &model, "--include", "*mlp*"][..], &options].concat());
            let saved = json(&["verify", out, "--against", &model]);
            let saved = saved["quantized"].as_array().expect("a list");
            let mut compared = 0;
            for tensor in tensors(&shown) {
                let Some(saved) = saved.iter().find(|s| s["name"] == tensor["name"]) else {
                    continue;
                };
                let (Some(a), Some(b)) =
                    (saved["sqnr_db"].as_f64(), tensor["quantization"]["sqnr_db"].as_f64())
                else {
                    continue;
                };
                // compressed-tensors stores scales in BF16, the type of the model.
                let near = if format == "int8" { 0.3 } else { 1e-6 };
                assert!((a - b).abs() <= near, "{calibration} {scheme} {format}: {a} {b}");
                compared += 1;
            }
            assert!(compared >= 6, "{calibration} {scheme} {format}: {compared} {saved:?}");
        }
    }
}

#[test]
fn figures_equal_numpy() {
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
fn tensors_are_sorted_as_on_the_screen_worst_first_and_unmeasured_last() {
    let dir = tempdir().expect("a directory");
    let path = dir.path().join("model.safetensors");
    let mut broken = vec![1.0; 4];
    broken[2] = f32::NAN;
    // One outlier reduces the precision of the other values.
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
    assert_eq!(names(&document), ["broken", "outlier", "fine", "exact", "steps"]);
    let report = dir.path().join("report.csv");
    stdout(&["report", path, "-o", report.to_str().expect("text")]);
    let csv = std::fs::read_to_string(report).expect("written");
    let order: Vec<&str> = csv.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    assert_eq!(order, ["broken", "outlier", "fine", "exact", "steps"]);
    for command in ["inspect", "calibrate"] {
        let names_of = json(&[command, path]);
        assert_eq!(names(&names_of), ["broken", "exact", "steps", "fine", "outlier"]);
    }
    let [broken, _, fine, exact, steps] = &tensors(&document)[..] else { panic!("five") };
    assert_eq!((&fine["quantizable"], &fine["reason"]), (&true.into(), &Value::Null));
    // JSON cannot represent an infinite SQNR.
    assert!(exact["quantization"]["sqnr_db"].is_null());
    assert_eq!(exact["quantization"]["mse"], 0.0);
    assert_eq!(broken["quantizable"], false);
    assert!(broken["reason"].as_str().expect("text").contains("1 NaN"));
    assert_eq!((&broken["stats"]["nan"], &broken["stats"]["max"]), (&1.into(), &1.0.into()));
    assert!(broken["quantization"]["scale"].is_null());
    assert!(steps["stats"]["count"].is_null());
    assert_eq!(document["totals"]["tensors"], 5);
    // Three tensors are quantized to one byte per element, plus a scale each.
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
fn every_number_of_threads_prints_the_same() {
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
    // A norm is quantized only if it is named, not by a pattern.
    let norm = "model.norm.weight";
    let shown = json(&["inspect", &model, "--include", "*.norm.*"]);
    assert_eq!(shown["totals"]["bytes_quantized"], shown["totals"]["bytes"]);
    let named = json(&["inspect", &model, "--include", norm]);
    assert_eq!(named["totals"]["bytes_quantized"], 128 + 4);
    assert_eq!(named["tensors"][0]["quantizable"], false);
    let without = json(&["inspect", &model, "--exclude", "*layers*"]);
    assert_eq!(names(&without), ["lm_head.weight", "model.embed_tokens.weight", norm]);
}

/// If the file shrinks during the analysis, the other tensors are still reported, and the exit
/// code is 1.
#[test]
fn an_unreadable_tensor_is_an_entry_and_exit_code_1() {
    let dir = tempdir().expect("a directory");
    let Some(path) = huge(dir.path(), &[weights("small", &[4, 4])]) else { return };
    let child = Command::new(cargo_bin!("quantscope"))
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
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
    let printed = String::from_utf8(output.stderr).expect("text");
    assert!(printed.starts_with("error: 1 of the tensors could not be read; "), "{printed}");
    let document: Value = serde_json::from_slice(&output.stdout).expect("a whole document");
    assert_eq!(names(&document), ["small", "huge"]);
    let [small, huge] = &tensors(&document)[..] else { panic!("two") };
    assert!(small["quantization"]["mse"].is_number());
    assert_eq!(huge["quantizable"], false);
    assert!(huge["reason"].as_str().expect("text").contains("tensor 'huge'"), "{huge}");
}
