//! Reports: their figures, their completeness, and the escaping of names from files.

use crate::support::checkpoint::{weights, write};
use crate::support::driver::{Driver, TINY_LLAMA, scan_of};
use crate::support::{data, failure, json, quantscope, stdout};
use proptest::prelude::*;
use quantscope::checkpoint::Checkpoint;
use quantscope::job::scan;
use quantscope::plan::target::Container;
use quantscope::quantization::{
    AnalysisSpec, Calibration, QuantizationScheme, Quantizer, Rounding, Thresholds,
};
use quantscope::report::{Format, Report, Row};
use regex::Regex;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// Parses the records of a CSV file according to RFC 4180.
fn records(text: &str) -> Vec<Vec<String>> {
    let mut records = vec![vec![String::new()]];
    let (mut quoted, mut chars) = (false, text.chars().peekable());
    while let Some(c) = chars.next() {
        let record = records.last_mut().expect("one");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                record.last_mut().expect("one").push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(String::new()),
            '\r' if !quoted && chars.peek() == Some(&'\n') => {
                chars.next();
                if chars.peek().is_some() {
                    records.push(vec![String::new()]);
                }
            }
            c => record.last_mut().expect("one").push(c),
        }
    }
    assert!(!quoted, "a quote is open at the end");
    records
}

/// The HTML tags of a page in order, each with the name of its first attribute.
fn tags(page: &str) -> Vec<&str> {
    let tag = Regex::new("<[^ >]*(?: [a-z]+)?").expect("a pattern");
    tag.find_iter(page).map(|found| found.as_str()).collect()
}

/// The reports of a model with two tensors, one of them with this name, in each format.
fn reported(name: &str) -> [String; 3] {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("model.safetensors");
    write(&path, &[weights(name, &[8, 32]), weights("\u{10ffff}second", &[4, 32])], &[]);
    let checkpoint = Arc::new(Checkpoint::open(&path).expect("opens"));
    let scheme = QuantizationScheme::PER_TENSOR;
    let quantizer = Quantizer { calibration: Calibration::MinMax, scheme };
    let spec = AnalysisSpec {
        histogram: true,
        ..AnalysisSpec::errors(vec![quantizer], Rounding::default())
    };
    let found = scan_of(&checkpoint, checkpoint.ids().collect(), &spec);
    let row = |(id, found): scan::Finding| {
        Row::new(&checkpoint, id, quantizer, Some(&found.expect("reads")))
    };
    let mut report = Report {
        has_outputs: false,
        checkpoint: checkpoint.clone(),
        quantizer,
        rounding: Rounding::default(),
        container: Container::Safetensors,
        thresholds: Thresholds::default(),
        rows: found.into_iter().map(row).collect(),
        plan: None,
        channels: Vec::new(),
    };
    report.sort();
    Format::ALL.map(|format| {
        let mut written = Vec::new();
        report.write(format, &mut written).expect("memory");
        let text = String::from_utf8(written).expect("text");
        // The path of the model is not compared.
        text.replace(directory.path().to_str().expect("text"), "")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_name_changes_the_structure_of_a_report(
        name in prop_oneof![
            any::<String>(),
            "[=+@\\-\t\"',;<>&\r\n a-z]{0,24}",
            Just("</td></table><script>alert(1)</script>".to_owned()),
            Just("=cmd|' /C calc'!A0".to_owned()),
            Just("\u{202e}\u{1b}]0;title\u{7}".to_owned()),
        ]
    ) {
        let [page, table, document] = reported(&name);
        let [plain, ..] = reported("encoder");
        prop_assert!(tags(&page) == tags(&plain), "{page}");
        let hidden = |c: &char| *c != '\n' && quantscope::text::names::is_hidden(*c);
        prop_assert_eq!(page.chars().find(hidden), None);

        let records = records(&table);
        prop_assert_eq!(records.len(), 3);
        prop_assert!(records.iter().all(|record| record.len() == records[0].len()));
        prop_assert!(table.lines().count() == 3, "one line a record: {table}");
        let shown = quantscope::text::names::visible(&name);
        let guarded = format!("'{shown}");
        let names: Vec<&String> = records[1..].iter().map(|record| &record[0]).collect();
        prop_assert!(names.iter().any(|found| **found == shown || **found == guarded));
        prop_assert!(names.iter().all(|found| !found.starts_with(['=', '+', '-', '@', '\t'])));

        let document: Value = serde_json::from_str(&document).expect("JSON");
        let tensors = document["tensors"].as_array().expect("a list");
        prop_assert!(tensors.iter().any(|tensor| tensor["name"] == name.as_str()));
    }
}

#[test]
fn all_report_formats_have_the_figures_of_analyze() {
    let directory = tempfile::tempdir().expect("a directory");
    let model = data("tiny-llama/sharded");
    let analysis = json(&["analyze", &model]);
    let ranked: Vec<&Value> =
        analysis["tensors"].as_array().expect("a list").iter().map(|t| &t["name"]).collect();
    let written = |name: &str| {
        let path = directory.path().join(name);
        let printed = stdout(&["report", &model, "-o", path.to_str().expect("text")]);
        assert!(printed.starts_with("wrote ") && printed.contains("21 tensors"), "{printed}");
        std::fs::read_to_string(path).expect("written")
    };
    let document: Value = serde_json::from_str(&written("r.json")).expect("JSON");
    for (reported, analysed) in document["tensors"]
        .as_array()
        .expect("a list")
        .iter()
        .zip(analysis["tensors"].as_array().expect("a list"))
    {
        for key in ["name", "shape", "flags", "reason"] {
            assert_eq!(reported[key], analysed[key], "{key}");
        }
        for part in ["stats", "quantization"] {
            for (key, value) in analysed[part].as_object().expect("figures") {
                // Sums over histogram counts differ in their last bits.
                let same = match (reported[part][key].as_f64(), value.as_f64()) {
                    (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * b.abs(),
                    (a, b) => a == b,
                };
                assert!(same, "{key}: {} and {value}", reported[part][key]);
            }
        }
        assert_eq!(reported["schemes"].as_array().map_or(5, Vec::len), 5);
    }
    let budget = document["budget"].as_array().expect("a list");
    assert!(budget.len() > 10 && budget[0]["error"] == 0.0, "{budget:?}");

    let records = records(&written("r.csv"));
    let names: Vec<&String> = records[1..].iter().map(|record| &record[0]).collect();
    assert_eq!(names, ranked.iter().map(|name| name.as_str().expect("text")).collect::<Vec<_>>());
    let place = |title: &str| records[0].iter().position(|t| t == title).expect(title);
    let sqnr: f64 = records[1][place("sqnr_db")].parse().expect("a number");
    assert_eq!(Some(sqnr), document["tensors"][0]["quantization"]["sqnr_db"].as_f64());

    let page = written("r.html");
    let places: Vec<_> = names.iter().map(|name| page.rfind(&format!(">{name}<"))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "ranked: {places:?}");
    assert!(
        page.matches("<svg class=\"histogram\"").count() == 21 && page.contains("class=\"curve\"")
    );
    assert!(page.contains("default-src 'none'"));
    assert!(
        !page.contains("http")
            || page.matches("http").count() == page.matches("http-equiv").count()
    );
}

#[test]
fn a_report_replaces_files_only_with_force_and_never_the_model() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("report.html");
    std::fs::write(&path, "mine").expect("written");
    let out = path.to_str().expect("text");
    let (code, why) = failure(&["report", "demo:", "-o", out]);
    assert!(code == 1 && why.contains("exists already") && why.contains("--force"), "{why}");
    assert_eq!(std::fs::read(&path).expect("kept"), b"mine");
    quantscope(&["report", "demo:", "-o", out, "--force"]).assert().success();
    assert!(std::fs::read_to_string(&path).expect("written").starts_with("<!DOCTYPE html>"));

    let (_, why) = failure(&["report", "demo:", "-o", "report.pdf"]);
    assert!(why.contains("ends in .html, .csv or .json"), "{why}");
    let config = directory.path().join("config.json");
    std::fs::write(&config, "{}").expect("written");
    let model = directory.path().join("model.safetensors");
    std::fs::copy(data("../../assets/demo.safetensors"), &model).expect("copied");
    let (model, config) = (model.to_str().expect("text"), config.to_str().expect("text"));
    let (_, why) = failure(&["report", model, "-o", config, "--force"]);
    assert!(why.contains("is the checkpoint itself"), "{why}");
}

/// With activations, all three formats have the figures and the order of `analyze`.
#[test]
fn reports_have_output_errors_if_activations_are_given() {
    let directory = tempfile::tempdir().expect("a directory");
    let analysis = json(&["analyze", "demo:", "--activations", "demo:"]);
    let tensors = analysis["tensors"].as_array().expect("a list");
    let ranked: Vec<&str> = tensors.iter().map(|t| t["name"].as_str().expect("text")).collect();
    let written = |name: &str, options: &[&str]| {
        let path = directory.path().join(name);
        let out = path.to_str().expect("text").to_owned();
        let args = [&["report", "demo:", "-o", &out, "--force", "--quiet"], options].concat();
        quantscope(&args).assert().success();
        std::fs::read_to_string(path).expect("written")
    };
    let with = |name: &str| written(name, &["--activations", "demo:"]);
    let document: Value = serde_json::from_str(&with("r.json")).expect("JSON");
    for (found, wanted) in document["tensors"].as_array().expect("a list").iter().zip(tensors) {
        assert_eq!(found["name"], wanted["name"]);
        assert_eq!(found["output"], wanted["output"], "{}", found["name"]);
        assert_eq!(found["schemes"][0]["output"], wanted["output"], "{}", found["name"]);
    }
    let table = records(&with("r.csv"));
    let column = |title: &str| table[0].iter().position(|t| t == title).expect("a column");
    let names: Vec<&str> = table[1..].iter().map(|record| record[0].as_str()).collect();
    assert_eq!(names, ranked);
    for (record, wanted) in table[1..].iter().zip(tensors) {
        for (title, way) in [("output", "weights"), ("output_static", "static")] {
            let cell = |part: &str| &record[column(&format!("{title}_{part}"))];
            match wanted["output"][way]["db"].as_f64() {
                Some(db) => assert_eq!(cell("db").parse::<f64>().expect("a number"), db),
                None => assert_eq!((cell("db").as_str(), cell("relative").as_str()), ("", "")),
            }
        }
    }
    let page = with("r.html");
    for text in [
        "<th scope=\"col\" class=\"number\" data-kind=\"number\">static</th>",
        "‖Wx − Ŵx̂‖² / ‖Wx‖²",
    ] {
        assert!(page.contains(text), "{text}");
    }
    let first = tensors[0]["output"]["weights"]["db"].as_f64().expect("a figure");
    assert!(page.contains(&format!(">{first:.1} dB</td>")));
    // The curve uses output errors. Without activations the report has none.
    let plain: Value = serde_json::from_str(&written("p.json", &[])).expect("JSON");
    assert_ne!(plain["budget"], document["budget"]);
    assert_eq!(plain["tensors"][0].get("output"), None);
    assert!(!written("p.html", &[]).contains("‖Wx"));
    assert!(!written("p.csv", &[]).contains("output_db"));
}

#[test]
fn the_screen_exports_output_errors() {
    let mut driver = Driver::open("assets/demo.safetensors");
    driver.press("A");
    driver.type_text("demo:");
    driver.press("Enter > e Ctrl-u");
    driver.type_text("out.csv");
    driver.press("Enter");
    let shown = records(&std::fs::read_to_string(driver.path("out.csv")).expect("written"));
    let path = driver.path("cli.csv");
    let out = path.to_str().expect("text");
    quantscope(&["report", "assets/demo.safetensors", "-o", out, "--activations", "demo:"])
        .assert()
        .success();
    let own = records(&std::fs::read_to_string(&path).expect("written"));
    assert_eq!(shown[0], own[0]);
    let column = shown[0].iter().position(|title| title == "output_dynamic_db").expect("there");
    let figures = |table: &[Vec<String>]| -> Vec<(String, String)> {
        table[1..9].iter().map(|record| (record[0].clone(), record[column].clone())).collect()
    };
    assert_eq!(figures(&shown), figures(&own));
}

#[test]
fn the_same_model_gives_the_same_page_for_any_number_of_threads() {
    let directory = tempfile::tempdir().expect("a directory");
    let page = |threads: &str| {
        let path = directory.path().join(format!("{threads}.html"));
        let out = path.to_str().expect("text");
        let model = data("tiny-llama/single");
        quantscope(&["report", &model, "-o", out, "--threads", threads, "--no-cache"])
            .assert()
            .success();
        std::fs::read(path).expect("written")
    };
    assert_eq!(page("1"), page("3"));
}

#[test]
fn the_screen_exports_its_marks_and_filter() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("/");
    driver.type_text("self_attn");
    driver.press("Enter Space e");
    driver.expect("Export the tensors shown");
    driver.press("Ctrl-u");
    driver.type_text("out.pdf");
    driver.press("Enter");
    driver.expect("must end in .html, .csv or .json");
    driver.press("Ctrl-u");
    driver.type_text("out.csv");
    driver.press("Enter");
    driver.expect("8 tensors exported to out.csv");
    let table = records(&std::fs::read_to_string(driver.path("out.csv")).expect("written"));
    assert_eq!(table.len(), 9);
    let marked = table[0].iter().position(|title| title == "marked").expect("a column");
    let marks = table[1..].iter().filter(|record| record[marked] == "true").count();
    assert_eq!(marks, 1);
    assert!(table[1..].iter().all(|record| record[0].contains("self_attn")));

    driver.press("e Ctrl-u");
    driver.type_text("out.csv");
    driver.press("Enter");
    driver.expect("Press Enter again to replace it");
    driver.press("Enter");
    driver.expect("8 tensors exported");

    driver.press("e Ctrl-u");
    driver.type_text("out.html");
    driver.press("Enter");
    let page = std::fs::read_to_string(driver.path("out.html")).expect("written");
    assert_eq!(page.matches("<svg class=\"histogram\"").count(), 8);
    assert!(!Path::new("out.html").exists(), "only where the test has its files");
}

#[test]
fn an_export_reports_unmeasured_tensors() {
    let mut driver = Driver::open_waiting(TINY_LLAMA);
    driver.press("e Enter");
    driver.expect("21 tensors exported");
    driver.expect("21 not measured yet");
    driver.press("/");
    driver.type_text("no such tensor");
    driver.press("Enter e");
    driver.expect("nothing to export");
}
