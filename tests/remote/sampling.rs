//! Estimates from a share of a model on a server.

use crate::reading::run;
use crate::server::Hub;
use crate::support::checkpoint::{weights, write};
use crate::support::{failure, json};
use serde_json::Value;
use std::path::{Path, PathBuf};

const TENSORS: usize = 4;

/// Matrices of 4 MiB in one file.
fn model(directory: &Path) -> PathBuf {
    let tensors: Vec<_> =
        (0..TENSORS).map(|n| weights(&format!("layers.{n}.weight"), &[1024, 1024])).collect();
    write(&directory.join("model.safetensors"), &tensors, &[("format", "pt")]);
    directory.to_owned()
}

fn estimates(document: &Value) -> Vec<&Value> {
    let tensors = document["tensors"].as_array().expect("tensors");
    tensors.iter().map(|tensor| &tensor["estimates"][0]).collect()
}

#[test]
fn a_sample_fetches_a_share_and_comes_close_to_the_exact_figures() {
    let directory = tempfile::tempdir().expect("a directory");
    let hub = Hub::start(&[("org/model", &model(directory.path()))]);
    let said = run(&hub, &["analyze", "hf://org/model", "--sample", "5%", "--json"], None);
    let sampled: Value = serde_json::from_str(&said).expect("JSON");
    let size = (TENSORS as u64) << 22;
    let fetched = hub.cdn_bytes();
    assert!(fetched < size / 10 + (128 << 10), "{fetched} of {size}");
    let local = directory.path().to_str().expect("text");
    let exact = json(&["analyze", local, "--no-cache"]);
    let exact: Vec<f64> = (0..TENSORS)
        .map(|n| {
            let tensors = exact["tensors"].as_array().expect("tensors");
            let name = sampled["tensors"][n]["name"].clone();
            let found = tensors.iter().find(|tensor| tensor["name"] == name).expect("listed");
            found["quantization"]["sqnr_db"].as_f64().expect("an SQNR")
        })
        .collect();
    for (estimate, exact) in estimates(&sampled).into_iter().zip(exact) {
        let sqnr = estimate["sqnr_db"].as_f64().expect("an SQNR");
        let error = estimate["sqnr_db_standard_error"].as_f64().expect("an error");
        assert!(error > 0.0 && error < 1.0, "{estimate}");
        assert!((sqnr - exact).abs() < 5.0 * error + 0.05, "{sqnr} ± {error}, exactly {exact}");
    }
    assert!(sampled["tensors"][0]["exact"] == false && sampled["sampled_share"] == 0.05);
}

#[test]
fn estimates_are_marked_and_never_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let hub = Hub::start(&[("org/model", &model(directory.path()))]);
    let said = run(&hub, &["analyze", "hf://org/model", "--sample", "0.05"], None);
    assert!(said.contains("SQNR (estimate)") && said.contains(" dB ± "), "{said}");
    assert!(said.contains("Estimates from 5.00 % of each tensor"), "{said}");
    // The whole is measured afterwards.
    let before = hub.cdn_bytes();
    run(&hub, &["analyze", "hf://org/model"], None);
    assert!(hub.cdn_bytes() - before >= (TENSORS as u64) << 22);
}

#[test]
fn a_sample_of_everything_is_exact() {
    let directory = tempfile::tempdir().expect("a directory");
    let local = model(directory.path());
    let local = local.to_str().expect("text");
    let sampled = json(&["analyze", local, "--sample", "100%"]);
    for (tensor, estimate) in
        sampled["tensors"].as_array().expect("a list").iter().zip(estimates(&sampled))
    {
        assert_eq!(tensor["exact"], true);
        assert_eq!(estimate["sqnr_db_standard_error"], 0.0);
    }
    for wrong in [&["--sample", "0%"][..], &["--sample", "5%", "--csv"]] {
        assert_eq!(failure(&[&["analyze", local], wrong].concat()).0, 2);
    }
}
