//! Verification finds any changed byte of an output, in every kind of file.

use crate::support::checkpoint::{weights, write};
use quantscope::checkpoint::Checkpoint;
use quantscope::export::{OutputFormat, Request, Task, WeightLayout};
use quantscope::job::{Progress, save, verify};
use quantscope::plan::{Plan, Selection};
use quantscope::quantization::{QuantizationScheme, Rounding};
use quantscope::tensor::FloatType;
use std::path::{Path, PathBuf};

/// The offsets to flip in a file; all of them with `QUANTSCOPE_FLIPS=all`.
fn flips(length: usize) -> impl Iterator<Item = usize> {
    let all = std::env::var("QUANTSCOPE_FLIPS").is_ok_and(|n| n == "all");
    let step = if all { 1 } else { (length / 120).max(1) };
    (0..length).step_by(step).chain(length.checked_sub(1))
}

/// A model with two shards and the usual sidecar files.
fn model(directory: &Path) -> PathBuf {
    let model = directory.join("model");
    std::fs::create_dir_all(model.join("1_Pooling")).expect("creates");
    let shards = [
        (
            "a.safetensors",
            vec![
                weights("model.layers.0.mlp.up_proj.weight", &[8, 64]),
                weights("model.norm.weight", &[8]),
            ],
        ),
        ("b.safetensors", vec![weights("model.layers.1.mlp.up_proj.weight", &[4, 64])]),
    ];
    let mut map = serde_json::Map::new();
    for (name, tensors) in &shards {
        write(&model.join(name), tensors, &[("format", "pt")]);
        map.extend(tensors.iter().map(|t| (t.name.clone(), (*name).into())));
    }
    let index = serde_json::json!({"metadata": {"total_size": 3104}, "weight_map": map});
    std::fs::write(model.join("model.safetensors.index.json"), index.to_string()).expect("writes");
    let config = r#"{"model_type":"llama","architectures":["LlamaForCausalLM"]}"#;
    std::fs::write(model.join("config.json"), config).expect("writes");
    std::fs::write(model.join("1_Pooling/config.json"), "{}\n").expect("writes");
    model
}

fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() {
        return found.push(path.to_owned());
    }
    for entry in std::fs::read_dir(path).expect("lists") {
        files(&entry.expect("an entry").path(), found);
    }
}

fn verified(out: &Path, source: &Checkpoint) -> Result<(), String> {
    let out = Checkpoint::open(out).map_err(|error| error.to_string())?;
    let found = verify::run(&out, source, Some(1), &Progress::default());
    found.map(|_| ()).map_err(|error| error.to_string())
}

/// Saves and verifies, then asserts that every flipped byte of the output is found.
fn assert_flips_are_found(source: &Path, task: impl Fn(&Checkpoint) -> Task, out: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join(out);
    let source = Checkpoint::open(source).expect("opens");
    let request = Request { task: task(&source), out: out.clone(), force: false, copy: Vec::new() };
    save::run(&source, &request, Some(1), &Progress::default(), &|_| {}).expect("saves");
    verified(&out, &source).expect("it is what was promised");
    let saved = Checkpoint::open(&out).expect("opens");
    let mut all = Vec::new();
    files(&out, &mut all);
    for path in all {
        let whole = std::fs::read(&path).expect("reads");
        let shard = saved.shards().iter().position(|s| s.source.path() == path);
        for at in flips(whole.len()) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(&path, &flipped).expect("writes");
            let what = format!("byte {at} of {}", path.display());
            let error = verified(&out, &source).expect_err(&what);
            let here = |r: &std::ops::Range<u64>| r.contains(&(at as u64));
            let of = saved
                .all_stored()
                .find(|(_, stored)| Some(stored.shard as usize) == shard && here(&stored.range));
            if let Some((_, stored)) = of {
                let tensor = stored.name.trim_end_matches("_scale").trim_end_matches("_packed");
                let tensor = tensor.trim_end_matches("_shape");
                assert!(error.contains(tensor), "{what}: {error}");
            }
        }
        for length in [whole.len() - 1, whole.len() + 1] {
            let mut changed = whole.clone();
            changed.resize(length, 0);
            std::fs::write(&path, &changed).expect("writes");
            verified(&out, &source).expect_err("of another length");
        }
        std::fs::remove_file(&path).expect("removes");
        verified(&out, &source).expect_err("missing");
        std::fs::write(&path, &whole).expect("writes");
    }
    verified(&out, &source).expect("as it was");
}

fn quantizing(scheme: QuantizationScheme, format: OutputFormat) -> impl Fn(&Checkpoint) -> Task {
    move |source| {
        let ids = Selection::default().resolve(source).expect("something is quantizable");
        Task::Quantize { plan: Plan::uniform(ids, scheme, Rounding::HalfAway), format }
    }
}

#[test]
fn any_byte_of_a_quantized_directory_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let model = model(directory.path());
    let block = QuantizationScheme::per_block(32);
    for (scheme, format) in [
        (QuantizationScheme::PER_TENSOR, OutputFormat::Safetensors),
        (QuantizationScheme::PER_CHANNEL, OutputFormat::Int8),
        (block, OutputFormat::Int8WeightOnly),
        (block, OutputFormat::FakeQuantized),
    ] {
        assert_flips_are_found(&model, quantizing(scheme, format), "out");
    }
}

#[test]
fn any_byte_of_a_quantized_file_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let model = model(directory.path());
    let block = QuantizationScheme::per_block(4);
    for layout in WeightLayout::ALL {
        assert_flips_are_found(&model, quantizing(block, OutputFormat::Burn(layout)), "out.bpk");
    }
    let gguf = quantizing(QuantizationScheme::per_block(32), OutputFormat::Gguf);
    assert_flips_are_found(Path::new("tests/data/gguf/floats.gguf"), gguf, "out.gguf");
    let plain = quantizing(QuantizationScheme::PER_CHANNEL, OutputFormat::Safetensors);
    assert_flips_are_found(&model, plain, "out.safetensors");
}

#[test]
fn any_byte_of_a_float_model_is_found() {
    let formats = Path::new("tests/data/formats");
    for (fixture, to) in
        [("fp8-block-deepseek", None), ("gptq-4bit-actorder", Some(FloatType::BF16))]
    {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["model.safetensors", "config.json"] {
            let from = formats.join(fixture).join(name);
            std::fs::copy(from, directory.path().join(name)).expect("copies");
        }
        assert_flips_are_found(directory.path(), |_| Task::Dequantize { to }, "out");
    }
    let archive = Path::new("tests/data/pytorch/zip.pt");
    assert_flips_are_found(archive, |_| Task::Dequantize { to: None }, "out.safetensors");
}
