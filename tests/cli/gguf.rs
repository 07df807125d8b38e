//! The command line on GGUF: budgets over block types, and llama.cpp's mixes beside them.

use crate::support::{data, failure, json, stdout};
use quantscope::checkpoint::Checkpoint;
use std::path::Path;
use tempfile::tempdir;

fn types(path: &Path) -> Vec<(String, String)> {
    let file = Checkpoint::open(path).expect("opens");
    let types = file.tensors().iter();
    types.map(|tensor| (tensor.name.to_string(), tensor.dtype.name().to_owned())).collect()
}

#[test]
fn a_budget_chooses_block_types() {
    let directory = tempdir().expect("a directory");
    let out = directory.path().join("small.gguf");
    let path = out.to_str().expect("text");
    let source = data("gguf/synth-a32.gguf");
    let args = ["quantize", &source, "-o", path, "--for", "llama.cpp", "--max-bytes", "15kB"];
    let dry = json(&[&args[..], &["--dry-run"]].concat());
    let mixes = dry["mixes"].as_array().expect("mixes");
    let mixed = |name: &str| mixes.iter().find(|mix| mix["name"] == name).expect(name);
    for name in ["Q8_0", "Q4_K_M"] {
        let ratio = mixed(name)["error_over_optimum"].as_f64().expect("a ratio");
        assert!(ratio > 0.999 && ratio < 100.0, "{name}: {ratio}");
    }
    assert!(!out.exists());
    let text = stdout(&[&args[..], &["--dry-run"]].concat());
    assert!(text.contains("mix Q4_K_M: ") && text.contains("the optimum at that size"), "{text}");
    let receipt = json(&args);
    assert!(receipt["mixes"].is_null(), "{receipt}");
    let found = types(&out);
    let of = |name: &str| &found.iter().find(|(tensor, _)| tensor == name).expect(name).1;
    // No block divides its rows.
    assert_eq!(of("blk.0.odd.weight"), "F16");
    assert_eq!(of("blk.0.attn_norm.weight"), "F32");
    for (name, chosen) in [
        ("blk.0.attn_q.weight", of("blk.0.attn_q.weight")),
        ("blk.0.exps.weight", of("blk.0.exps.weight")),
    ] {
        assert!(["Q4_0", "IQ4_NL", "Q5_0", "Q5_1", "Q8_0"].contains(&&**chosen), "{name} {chosen}");
    }
    let bytes: u64 = Checkpoint::open(&out).expect("opens").total_bytes();
    assert!(bytes <= 15_000, "{bytes}");
    stdout(&["verify", path, "--against", &source]);
}

/// A dry run lists what is quantized, with the size that is written. Rows that no block divides
/// become F16, which is not quantized.
#[test]
fn a_dry_run_counts_f16_as_a_save_does() {
    let directory = tempdir().expect("a directory");
    let out = directory.path().join("out.gguf");
    let source = data("gguf/synth-a32.gguf");
    for options in [&["--scheme", "q4_K"][..], &["--scheme", "Q4_K_M"], &["--max-bytes", "20kB"]] {
        let path = out.to_str().expect("text");
        let save = [&["quantize", &source, "-o", path, "--force", "--for", "llama.cpp"], options];
        let save = save.concat();
        let dry = json(&[&save[..], &["--dry-run"]].concat());
        let receipt = json(&save);
        for key in ["unchanged", "dequantized", "bytes_written"] {
            assert_eq!(dry[key], receipt[key], "{key} {options:?}");
        }
        let names = |receipt: &serde_json::Value| -> Vec<String> {
            let list = receipt["quantized"].as_array().expect("a list").iter();
            let mut names: Vec<_> = list.map(|one| one["tensor"].to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&dry), names(&receipt), "{options:?}");
        assert!(!names(&dry).iter().any(|name| name.contains("odd")), "{options:?}");
        let mixes = dry["mixes"].as_array().into_iter().flatten();
        for mix in
            mixes.filter(|mix| ["Q8_0", "Q4_K_M"].contains(&mix["name"].as_str().unwrap_or("")))
        {
            let name = mix["name"].as_str().expect("a name");
            stdout(&["quantize", &source, "-o", path, "--force", "--scheme", name]);
            let written = Checkpoint::open(&out).expect("opens").total_bytes();
            assert_eq!(mix["bytes"].as_u64(), Some(written), "{name}");
        }
    }
}

#[test]
fn an_output_that_ends_in_gguf_is_gguf() {
    let directory = tempdir().expect("a directory");
    let out = directory.path().join("small.gguf");
    stdout(&["quantize", &data("gguf/synth-a32.gguf"), "-o", out.to_str().expect("text")]);
    let found = types(&out);
    let q8 = ("blk.0.attn_q.weight".to_owned(), "Q8_0".to_owned());
    assert!(found.contains(&q8), "{found:?}");
}

/// Figures, sizes and reasons without a target are those of the GGUF that is written.
#[test]
fn a_gguf_is_measured_as_it_is_saved() {
    let source = data("gguf/synth-a32.gguf");
    for command in [&["inspect"][..], &["analyze", "--no-cache"], &["inspect", "--csv"]] {
        let plain = stdout(&[command, &[&source]].concat());
        for target in [["--for", "llama.cpp"], ["--format", "gguf"]] {
            assert_eq!(plain, stdout(&[command, &[&source], &target].concat()));
        }
        let per_tensor = [command, &[&source, "--scheme", "per-tensor"]].concat();
        let safetensors = [&per_tensor[..], &["--format", "safetensors"]].concat();
        assert_eq!(stdout(&per_tensor), stdout(&safetensors), "GGUF has no scales per tensor");
    }
    let directory = tempdir().expect("a directory");
    let out = directory.path().join("out.gguf");
    let receipt = json(&["quantize", &source, "-o", out.to_str().expect("text")]);
    let analysis = json(&["analyze", &source, "--no-cache"]);
    let saved = receipt["quantized"].as_array().expect("a list");
    assert!(!saved.is_empty());
    for saved in saved {
        let mut shown = analysis["tensors"].as_array().expect("a list").iter();
        let shown = shown.find(|shown| shown["name"] == saved["name"]).expect("measured");
        let [saved, shown] = [&saved["sqnr_db"], &shown["quantization"]["sqnr_db"]]
            .map(|figure| figure.as_f64().expect("a figure"));
        // ggml rounds elements by the scale before it becomes F16.
        assert!((saved - shown).abs() < 0.01, "{shown} dB shown, {saved} dB saved");
    }
}

#[test]
fn a_mix_is_compared_with_the_curve() {
    let source = data("gguf/synth-a32.gguf");
    let directory = tempdir().expect("a directory");
    let out = directory.path().join("mix.gguf");
    let path = out.to_str().expect("text");
    let args = ["quantize", &source, "-o", path, "--scheme", "Q4_K_M"];
    let text = stdout(&[&args[..], &["--dry-run"]].concat());
    assert_eq!(text.matches("mix Q").count(), 1, "{text}");
    assert!(text.contains("mix Q4_K_M: "), "{text}");
    stdout(&args);
    assert!(types(&out).contains(&("blk.0.odd.weight".to_owned(), "F16".to_owned())));
}

#[test]
fn the_file_type_is_that_of_the_mix_that_was_asked_for() {
    let source = data("gguf/synth-a32.gguf");
    let directory = tempdir().expect("a directory");
    let [out, again, recipe] = ["mix.gguf", "again.gguf", "plan.toml"]
        .map(|name| directory.path().join(name).to_str().expect("text").to_owned());
    let file_type = |path: &str| {
        let file = Checkpoint::open(Path::new(path)).expect("opens");
        let found = file.shards()[0].metadata.iter().find(|(key, _)| key == "general.file_type");
        found.expect("there").1.clone()
    };
    // In a model without experts this mix is Q8_0, as the mix Q8_0 is.
    for (mix, number) in [("MXFP4_MOE", "38"), ("Q8_0", "7"), ("q8_0", "7")] {
        let write = ["--write-recipe", &recipe, "--force"];
        stdout(&[&["quantize", &source, "-o", &out, "--scheme", mix], &write[..]].concat());
        assert_eq!(file_type(&out), number, "{mix}");
        stdout(&["quantize", &source, "-o", &again, "--recipe", &recipe, "--force"]);
        assert_eq!(file_type(&again), number, "the recipe of {mix}");
    }
    let text = std::fs::read_to_string(&recipe).expect("reads");
    std::fs::write(&recipe, format!("mix = \"Q9_K\"\n{text}")).expect("writes");
    let (_, text) = failure(&["quantize", &source, "-o", &again, "--recipe", &recipe, "--force"]);
    assert!(text.contains("unknown mix 'Q9_K'"), "{text}");
}

#[test]
fn a_budget_can_be_what_a_memory_holds() {
    let source = data("gguf/synth-a32.gguf");
    let text = stdout(&[
        "quantize",
        &source,
        "-o",
        "unused.gguf",
        "--format",
        "gguf",
        "--max-bytes",
        "fits:24kB-4kB",
        "--dry-run",
    ]);
    assert!(text.contains("of 24.0 kB of memory, 4.00 kB are kept in reserve"), "{text}");
    let (_, text) =
        failure(&["quantize", &source, "-o", "unused.gguf", "--max-bytes", "fits:many"]);
    assert!(text.contains("fits:24GB"), "{text}");
}

#[test]
fn a_mix_that_needs_importance_says_so() {
    let source = data("gguf/synth-a32.gguf");
    let (_, text) = failure(&["quantize", &source, "-o", "unused.gguf", "--recipe", "none.toml"]);
    assert!(text.contains("none.toml"), "{text}");
    let (_, text) = failure(&["quantize", &source, "-o", "unused.gguf", "--activations", &source]);
    assert!(text.contains("importance matrix"), "{text}");
}
