//! The errors of experts and of their layers, in every document. The fixtures hold the same four
//! experts one by one and as one tensor.

use crate::support::{data, json, stdout};
use serde_json::Value;

const SPLIT: &str = "formats/fused-experts/split.safetensors";
const FUSED: &str = "formats/fused-experts/fused.safetensors";

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

/// Signal and noise of each expert of the split fixture, from the figures of its tensors.
fn losses(document: &Value) -> Vec<(f64, f64)> {
    let mut found = vec![(0.0, 0.0); 4];
    for tensor in document["tensors"].as_array().expect("a list") {
        let name = tensor["name"].as_str().expect("text");
        let expert: usize = name.split('.').nth(2).expect("a number").parse().expect("a number");
        let error = &tensor["quantization"];
        let noise = number(&error["mse"]) * number(&tensor["parameters"]);
        found[expert] = (noise * 10f64.powf(number(&error["sqnr_db"]) / 10.0), noise);
    }
    found
}

fn db((signal, noise): (f64, f64)) -> f64 {
    10.0 * (signal / noise).log10()
}

fn assert_close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} {expected}");
}

#[test]
fn a_layer_has_the_error_of_all_its_elements() {
    for scheme in ["per-channel", "W4A16:64", "FP8_DYNAMIC"] {
        let split = json(&["analyze", &data(SPLIT), "--schemes", scheme]);
        let layers = split["experts"].as_array().expect("a list");
        assert_eq!(layers.len(), 1);
        let layer = &layers[0];
        assert_eq!((&layer["layer"], &layer["scheme"]), (&"mlp.experts".into(), &scheme.into()));
        let each = losses(&split);
        let sum = each.iter().fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        assert_close(number(&layer["sqnr_db"]), db(sum));
        let dbs: Vec<f64> = each.into_iter().map(db).collect();
        for (expert, &expected) in dbs.iter().enumerate() {
            let found = &layer["experts"][expert];
            assert_eq!(found["expert"], expert);
            assert_close(number(&found["sqnr_db"]), expected);
        }
        let worst = dbs.iter().copied().fold(f64::INFINITY, f64::min);
        let best = dbs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert_close(number(&layer["worst"]["sqnr_db"]), worst);
        assert_close(number(&layer["best"]["sqnr_db"]), best);
        assert_close(number(&layer["spread_db"]), best - worst);
        assert_close(number(&layer["mean_sqnr_db"]), dbs.iter().sum::<f64>() / 4.0);
        let place = dbs.iter().position(|&db| db == worst).expect("one");
        assert_eq!(layer["worst"]["expert"], place);
        assert_eq!(layer["unmeasured"], 0);
    }
}

#[test]
fn one_tensor_of_all_experts_has_the_figures_of_separate_experts() {
    // One scale for the tensor is another scale than one for each expert.
    let schemes = "per-channel,per-block:32,W4A16:64,FP8_DYNAMIC,q8_0";
    let experts = |path| json(&["analyze", &data(path), "--schemes", schemes])["experts"].clone();
    let (split, fused) = (experts(SPLIT), experts(FUSED));
    assert_eq!(split.as_array().expect("a list").len(), 5);
    for (split, fused) in split.as_array().into_iter().flatten().zip(fused.as_array().expect("")) {
        assert_eq!((&split["layer"], &split["scheme"]), (&fused["layer"], &fused["scheme"]));
        let (a, b) = (number(&split["sqnr_db"]), number(&fused["sqnr_db"]));
        assert!((a - b).abs() < 1e-6, "{a} {b}");
        for expert in 0..4 {
            let db = |layer: &Value| number(&layer["experts"][expert]["sqnr_db"]);
            assert!((db(split) - db(fused)).abs() < 1e-6, "{split} {fused}");
        }
    }
    // The layer of one tensor has the tensor's own error, also with one scale.
    let document = json(&["analyze", &data(FUSED), "--scheme", "per-tensor"]);
    let (layer, tensor) = (&document["experts"][0], &document["tensors"][0]);
    let own = number(&tensor["quantization"]["sqnr_db"]);
    assert!((number(&layer["sqnr_db"]) - own).abs() < 1e-6);
    assert_eq!(layer["experts"].as_array().map(Vec::len), Some(4));
}

#[test]
fn every_document_shows_the_experts() {
    let layer = json(&["analyze", &data(SPLIT)])["experts"][0].clone();
    let shown = |db: &Value| format!("{:.1} dB", number(db));
    for path in [SPLIT, FUSED] {
        let text = stdout(&["analyze", &data(path), "--scheme", "per-channel"]);
        let line = text.lines().find(|line| line.starts_with("mlp.experts  ")).expect("a layer");
        assert!(line.contains("  4  ") && line.contains("3: 43.3 dB"), "{line}");
    }
    let csv = stdout(&["analyze", &data(SPLIT), "--csv"]);
    let mut lines = csv.lines();
    let header: Vec<&str> = lines.next().expect("a header").split(',').collect();
    let first = header.iter().position(|&title| title == "expert_layer").expect("a column");
    let place = |record: &str, title: &str| {
        let from_end = header.len() - header.iter().position(|&t| t == title).expect("a column");
        let cells: Vec<&str> = record.split(',').collect();
        cells[cells.len() - from_end].to_owned()
    };
    assert_eq!(header.len() - first, 9);
    for record in lines {
        assert_eq!(place(record, "expert_layer"), "mlp.experts");
        let expert: usize = place(record, "expert").parse().expect("a number");
        let db: f64 = place(record, "expert_sqnr_db").parse().expect("a number");
        assert_close(db, number(&layer["experts"][expert]["sqnr_db"]));
        let db: f64 = place(record, "layer_sqnr_db").parse().expect("a number");
        assert_close(db, number(&layer["sqnr_db"]));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let page = directory.path().join("report.html");
    let report = directory.path().join("report.json");
    for path in [&page, &report] {
        stdout(&["report", &data(SPLIT), "-o", path.to_str().expect("text")]);
    }
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(page.contains("<h2>Experts</h2>") && page.contains(&shown(&layer["sqnr_db"])));
    let report = std::fs::read_to_string(report).expect("a document");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["experts"][0], layer);
    // Models without experts have no such key.
    assert_eq!(json(&["analyze", "demo:"]).get("experts"), None);
}
