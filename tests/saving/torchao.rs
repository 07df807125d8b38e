//! Saving for torchao: `Int8Tensor` parts and their metadata, read back as previewed.

use crate::support::checkpoint::{weights, write};
use crate::support::{data, failure, json, stdout};
use quantscope::checkpoint::Checkpoint;
use quantscope::job::{Progress, verify};
use serde_json::{Value, json};
use std::path::Path;

const UP: &str = "model.layers.0.mlp.up_proj";

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn stored(checkpoint: &Checkpoint, name: &str) -> (String, Vec<u8>) {
    let found = checkpoint.all_stored().find(|(_, stored)| stored.name == name);
    let (id, stored) = found.unwrap_or_else(|| panic!("{name} is missing"));
    let bytes = checkpoint.reader().stored(id, 0..stored.bytes()).expect("reads").to_vec();
    (format!("{} {}", stored.dtype, stored.shape), bytes)
}

fn metadata(checkpoint: &Checkpoint, shard: usize, key: &str) -> Value {
    let found = checkpoint.shards()[shard].metadata.iter().find(|(k, _)| k == key);
    serde_json::from_str(&found.unwrap_or_else(|| panic!("{key}")).1).expect("JSON")
}

#[test]
fn a_directory_has_parts_and_metadata() {
    let directory = tempfile::tempdir().expect("temp");
    for (source, scheme, grid, block, granularity) in [
        ("single", "per-channel", "[256, 1]", [1, 128], "PerRow"),
        ("sharded", "per-channel", "[256, 1]", [1, 128], "PerRow"),
        ("single", "per-tensor", "[1, 1]", [256, 128], "PerTensor"),
        ("single", "per-block:32", "[256, 4]", [1, 32], "PerGroup"),
    ] {
        let out = directory.path().join(format!("{source}-{}", scheme.replace(':', "-")));
        let source = data(&format!("tiny-llama/{source}"));
        let command = ["quantize", &source, "-o", text(&out), "--for", "torchao"];
        let receipt = json(&[&command[..], &["--scheme", scheme]].concat());
        assert_eq!(receipt["quantized"].as_array().map(Vec::len), Some(14));
        let written = Checkpoint::open(&out).expect("opens");
        let (values, scales) = (
            stored(&written, &format!("{UP}._weight_qdata")),
            stored(&written, &format!("{UP}._weight_scale")),
        );
        let zeros = stored(&written, &format!("{UP}._weight_zero_point"));
        assert_eq!(values.0, "I8 [256, 128]");
        assert_eq!((scales.0, zeros.0), (format!("F32 {grid}"), format!("I8 {grid}")));
        assert!(zeros.1.iter().all(|&zero| zero == 0));
        // Every file describes all tensors, because loaders merge the metadata by key.
        for shard in 0..written.shards().len() {
            assert_eq!(
                metadata(&written, shard, &format!("{UP}.weight")),
                json!({
                    "_type": "Int8Tensor",
                    "_data": {
                        "act_quant_kwargs": null,
                        "reduce_range": false,
                        "block_size": block,
                        "dtype": {"_type": "torch.dtype", "_data": "bfloat16"},
                    },
                    "_tensor_data_names": ["zero_point", "qdata", "scale"],
                })
            );
            let norm = metadata(&written, shard, "model.norm.weight");
            assert_eq!(norm, json!({"_type": "Tensor"}));
            let names = metadata(&written, shard, "tensor_names");
            assert_eq!(names.as_array().map(Vec::len), Some(21));
        }
        let config: Value =
            serde_json::from_slice(&std::fs::read(out.join("config.json")).expect("reads"))
                .expect("JSON");
        let printed = &config["quantization_config"];
        let default = &printed["quant_type"]["default"];
        assert_eq!(printed["quant_method"], "torchao");
        assert_eq!(default["_type"], "Int8WeightOnlyConfig");
        assert_eq!(default["_data"]["granularity"]["_type"], granularity);

        // Decoded elements are the scale times the value, in F32.
        let id = written.find(&format!("{UP}.weight")).expect("named as before");
        let mut reader = written.reader();
        let all = 0..written.tensor(id).parameters();
        let (_, read) = reader.elements(id, all).expect("reads").expect("decoded");
        let scales: Vec<f32> =
            scales.1.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect();
        let group = 256 * 128 / scales.len();
        for (at, (raw, &q)) in read.as_chunks().0.iter().zip(&values.1).enumerate() {
            let expected = scales[at / group] * f32::from(q as i8);
            assert_eq!(f32::from_le_bytes(*raw).to_bits(), expected.to_bits(), "{at}");
        }
        stdout(&["verify", text(&out), "--against", &source]);
    }
}

#[test]
fn dequantizing_gives_names_types_and_config_back() {
    let directory = tempfile::tempdir().expect("temp");
    let source = data("tiny-llama/sharded");
    let (out, back) = (directory.path().join("ao"), directory.path().join("back"));
    stdout(&["quantize", &source, "-o", text(&out), "--format", "torchao"]);
    stdout(&["dequantize", text(&out), "-o", text(&back)]);
    let listed = |path: &str| json(&["inspect", path])["tensors"].clone();
    assert_eq!(listed(&source), listed(text(&back)));
    let config = std::fs::read_to_string(back.join("config.json")).expect("reads");
    assert!(!config.contains("quantization_config"));
    let back = Checkpoint::open(&back).expect("opens");
    for shard in back.shards() {
        assert_eq!(shard.metadata, [("format".to_owned(), "pt".to_owned())]);
    }
}

#[test]
fn any_flipped_byte_of_a_layer_is_found() {
    let directory = tempfile::tempdir().expect("temp");
    let source = data("tiny-llama/single");
    let out = directory.path().join("ao");
    let name = format!("{UP}.weight");
    let command = ["quantize", &source, "-o", text(&out), "--for", "torchao"];
    stdout(
        &[&command[..], &["--include", &name, "--calibration", "mse", "--rounding", "half-away"]]
            .concat(),
    );
    let source = Checkpoint::open(Path::new(&source)).expect("opens");
    let written = Checkpoint::open(&out).expect("opens");
    verify::run(&written, &source, None, &Progress::default()).expect("as promised");
    let parts: Vec<_> = written
        .all_stored()
        .filter(|(_, s)| s.name.starts_with(UP))
        .map(|(_, s)| (s.name.to_string(), s.range.clone()))
        .collect();
    assert_eq!(parts.len(), 3);
    let file = out.join("model.safetensors");
    let whole = std::fs::read(&file).expect("reads");
    for (name, range) in parts {
        let mut flipped = whole.clone();
        flipped[range.end as usize - 2] ^= 1;
        std::fs::write(&file, &flipped).expect("writes");
        let saved = Checkpoint::open(&out).expect("opens");
        assert!(verify::run(&saved, &source, None, &Progress::default()).is_err(), "{name}");
    }
}

#[test]
fn what_torchao_does_not_hold_is_refused() {
    let directory = tempfile::tempdir().expect("temp");
    let source = data("tiny-llama/single");
    let out = directory.path().join("ao");
    let command = ["quantize", &source, "-o", text(&out), "--for", "torchao"];
    for (options, printed) in [
        (["--scheme", "per-block:48"], "its 256 columns are not a multiple of 48"),
        (["--include", "model.embed_tokens.weight"], "embedding"),
    ] {
        let error = failure(&[&command[..], &options[..]].concat()).1;
        assert!(error.contains(printed), "{error}");
        assert!(!out.exists());
    }
    let lone = ["quantize", "demo:", "-o", text(&out), "--format", "torchao"];
    let error = failure(&lone).1;
    assert!(error.contains("no config.json"), "{error}");
}

/// transformers joins experts that are stored one by one while loading, but not their scales.
#[test]
fn experts_stay_float() {
    let directory = tempfile::tempdir().expect("temp");
    let source = directory.path().join("model");
    std::fs::create_dir(&source).expect("new");
    let expert = |n| format!("model.layers.0.mlp.experts.{n}.up_proj.weight");
    let tensors = [
        weights(&expert(0), &[16, 64]),
        weights(&expert(1), &[16, 64]),
        weights("model.layers.0.self_attn.q_proj.weight", &[16, 64]),
    ];
    write(&source.join("model.safetensors"), &tensors, &[]);
    let config = json!({"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]});
    std::fs::write(source.join("config.json"), config.to_string()).expect("writes");
    let out = directory.path().join("out");
    let command = ["quantize", text(&source), "-o", text(&out), "--for", "torchao"];
    let receipt = json(&command);
    assert_eq!(receipt["quantized"].as_array().map(Vec::len), Some(1));
    assert!(receipt["warnings"].to_string().contains("one of several experts"), "{receipt}");
    std::fs::remove_dir_all(&out).expect("goes");
    let error = failure(&[&command[..], &["--include", &expert(0)]].concat()).1;
    assert!(error.contains("one of several experts"), "{error}");
    assert!(!out.exists());
}
