//! GGUF outputs: tensors that llama.cpp leaves unchanged, and split models.

use crate::support::{data, json, stdout};
use quantscope::checkpoint::Checkpoint;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::tempdir;

/// A GGUF file of F32 tensors, each with two rows of 32 elements.
fn gguf(names: &[&str]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.bytes());
    };
    for n in [names.len() as u64, 1] {
        bytes.extend(n.to_le_bytes());
    }
    text(&mut bytes, "general.architecture");
    bytes.extend(8u32.to_le_bytes());
    text(&mut bytes, "rwkv7");
    for (name, number) in names.iter().zip(0u64..) {
        text(&mut bytes, name);
        bytes.extend(2u32.to_le_bytes());
        for n in [32u64, 2] {
            bytes.extend(n.to_le_bytes());
        }
        bytes.extend(0u32.to_le_bytes());
        bytes.extend((number * 256).to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    let values = (0..names.len() * 64).map(|i| ((i as f32) * 0.7).sin());
    bytes.extend(values.flat_map(f32::to_le_bytes));
    bytes
}

fn dtypes(path: &Path) -> Vec<(String, String)> {
    let checkpoint = Checkpoint::open(path).expect("opens");
    let tensors = checkpoint.tensors().iter();
    tensors.map(|tensor| (tensor.name.to_string(), tensor.dtype.to_string())).collect()
}

fn metadata(path: &Path) -> Vec<String> {
    let checkpoint = Checkpoint::open(path).expect("opens");
    let pairs = checkpoint.shards().iter().flat_map(|shard| shard.metadata.clone());
    pairs.map(|(key, value)| format!("{key}={value}")).collect()
}

#[test]
fn what_llama_cpp_keeps_stays_as_it_is() {
    let kept = [
        "blk.0.ffn_gate_inp.weight",
        "altup_proj.weight",
        "blk.0.laurel_l.weight",
        "per_layer_model_proj.weight",
        "blk.0.shortconv.conv.weight",
        "blk.0.time_mix_first.weight",
        "blk.0.time_mix_w1.weight",
        "blk.0.time_mix_decay_w1.weight",
        "blk.0.time_mix_lerp_fused.weight",
        "enc.blk.0.attn_rel_b.weight",
        "v.patch_embd.weight",
        "blk.0.ssm_a",
    ];
    let quantized = ["blk.0.attn_q.weight", "blk.0.time_mix_key.weight"];
    let directory = tempdir().expect("a directory");
    let (source, out) = (directory.path().join("in.gguf"), directory.path().join("out.gguf"));
    fs::write(&source, gguf(&[&kept[..], &quantized].concat())).expect("writes");
    let [from, to] = [&source, &out].map(|path| path.to_str().expect("text"));
    let receipt = json(&["quantize", from, "-o", to, "--format", "gguf"]);
    for (name, dtype) in dtypes(&out) {
        let expected = if quantized.contains(&name.as_str()) { "Q8_0" } else { "F32" };
        assert_eq!(dtype, expected, "{name}");
    }
    let warnings = receipt["warnings"].to_string();
    for reason in ["'altup'", "'time_mix_w1.weight'", "does not end in weight"] {
        assert!(warnings.contains(reason), "{warnings}");
    }
    // `verify` reports the number of unchanged tensors.
    let verified = json(&["verify", to, "--against", from]);
    assert_eq!(verified["quantized"].as_array().map(Vec::len), Some(2), "{verified}");
    assert_eq!(verified["identical"], 12);
    let printed = stdout(&["verify", to, "--against", from]);
    assert!(
        printed.contains("14 tensors: 2 quantized, 0 dequantized, 12 bit for bit"),
        "{printed}"
    );
    assert!(printed.contains("measured from the file: worst "), "{printed}");
}

/// The first part has no tensors.
#[test]
fn a_split_model_becomes_one_file_or_the_same_parts() {
    let source = data("saving/gguf-split");
    let first = format!("{source}/Model-00001-of-00003.gguf");
    let directory = tempdir().expect("a directory");
    for (number, model) in [&source, &first].into_iter().enumerate() {
        let joined = directory.path().join(format!("{number}.gguf"));
        let parts = directory.path().join(format!("{number}-parts"));
        for out in [&joined, &parts] {
            let path = out.to_str().expect("text");
            let receipt = json(&["quantize", model, "-o", path, "--format", "gguf"]);
            assert_eq!(receipt["quantized"].as_array().map(Vec::len), Some(2), "{receipt}");
            assert_eq!(dtypes(out).len(), 3);
            let verified = json(&["verify", path, "--against", model]);
            assert_eq!(verified["quantized"].as_array().map(Vec::len), Some(2));
        }
        assert!(!metadata(&joined).iter().any(|pair| pair.starts_with("split.")));
        assert!(metadata(&joined).contains(&"general.file_type=7".to_owned()));
        let mut names: Vec<_> = fs::read_dir(&parts)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        assert_eq!(names, [1, 2, 3].map(|n| format!("Model-0000{n}-of-00003.gguf")));
        let split = |path: &Path| -> Vec<String> {
            metadata(path).into_iter().filter(|pair| pair.starts_with("split.")).collect()
        };
        assert_eq!(split(&parts), split(Path::new(&source)));
        let part = parts.join("Model-00002-of-00003.gguf");
        stdout(&["verify", part.to_str().expect("text"), "--against", model]);
    }
}

#[test]
fn a_split_model_becomes_shards_of_floats() {
    let source = data("saving/gguf-split");
    let directory = tempdir().expect("a directory");
    let out = directory.path().join("float");
    let path = out.to_str().expect("text");
    stdout(&["dequantize", &source, "-o", path]);
    assert_eq!(dtypes(&out).len(), 3);
    assert!(out.join("model-00002-of-00002.safetensors").is_file());
    assert!(!out.join("model-00003-of-00003.safetensors").exists());
    let verified: Value = json(&["verify", path, "--against", &source]);
    assert_eq!(verified["tensors"], 3);
}
