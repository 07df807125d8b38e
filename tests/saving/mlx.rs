//! Saving for MLX: words of `q + 128` or `q + 8` with scales and biases, read back as previewed.

use crate::support::checkpoint::{Tensor, weights, write};
use crate::support::{data, failure, json, stdout};
use quantscope::checkpoint::Checkpoint;
use quantscope::job::{Progress, verify};
use quantscope::quantization::{Preset, encode_preset};
use quantscope::tensor::{FloatType, Shape};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const UP: &str = "model.layers.0.mlp.up_proj";

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// A Llama with F32 weights in `model`. One weight has 40 columns.
fn model(change: impl Fn(Tensor) -> Tensor) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("temp");
    let path = directory.path().join("model");
    std::fs::create_dir(&path).expect("new");
    let tensors = [
        weights(&format!("{UP}.weight"), &[24, 128]),
        weights("model.layers.0.mlp.down_proj.weight", &[128, 40]),
        weights("model.layers.0.self_attn.q_proj.weight", &[16, 96]),
        weights("model.embed_tokens.weight", &[16, 128]),
    ];
    write(&path.join("model.safetensors"), &tensors.map(change), &[]);
    let config = json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"]});
    std::fs::write(path.join("config.json"), config.to_string()).expect("writes");
    (directory, path)
}

fn stored(checkpoint: &Checkpoint, name: &str) -> (String, Vec<u8>) {
    let found = checkpoint.all_stored().find(|(_, stored)| stored.name == name);
    let (id, stored) = found.unwrap_or_else(|| panic!("{name} is missing"));
    let bytes = checkpoint.reader().stored(id, 0..stored.bytes()).expect("reads").to_vec();
    (format!("{} {}", stored.dtype, stored.shape), bytes)
}

fn floats(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let id = checkpoint.find(name).expect("there");
    let all = 0..checkpoint.tensor(id).parameters();
    let mut reader = checkpoint.reader();
    let (_, bytes) = reader.elements(id, all).expect("reads").expect("decoded");
    bytes.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect()
}

fn halves(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|raw| half::bf16::from_le_bytes(*raw).to_f32()).collect()
}

fn config(directory: &Path) -> Value {
    let bytes = std::fs::read(directory.join("config.json")).expect("reads");
    serde_json::from_slice(&bytes).expect("JSON")
}

#[test]
fn a_directory_has_words_scales_and_biases() {
    let directory = tempfile::tempdir().expect("temp");
    for source in ["single", "sharded"] {
        let (source, out) = (data(&format!("tiny-llama/{source}")), directory.path().join(source));
        let receipt = json(&["quantize", &source, "-o", text(&out), "--for", "mlx"]);
        assert_eq!(receipt["quantized"].as_array().map(Vec::len), Some(14));
        let written = Checkpoint::open(&out).expect("opens");
        let (words_type, words) = stored(&written, &format!("{UP}.weight"));
        let (scale_type, scales) = stored(&written, &format!("{UP}.scales"));
        let (bias_type, biases) = stored(&written, &format!("{UP}.biases"));
        assert_eq!(
            [words_type, scale_type, bias_type],
            ["U32 [256, 32]", "BF16 [256, 2]", "BF16 [256, 2]"]
        );
        let (scales, biases) = (halves(&scales), halves(&biases));
        let original = Checkpoint::open(Path::new(&source)).expect("opens");
        let x = halves(&stored(&original, &format!("{UP}.weight")).1);
        let read = floats(&written, &format!("{UP}.weight"));
        for (group, x) in x.chunks(64).enumerate() {
            let absmax = x.iter().fold(0f32, |most, x| most.max(x.abs()));
            let scale = half::bf16::from_f32(absmax / 127.0).to_f32();
            assert_eq!((scales[group], biases[group]), (scale, -128.0 * scale));
            for (at, x) in x.iter().enumerate() {
                let q = (x / scale).round_ties_even().clamp(-127.0, 127.0) as i8;
                assert_eq!(words[group * 64 + at], q as u8 ^ 0x80);
                let value = scale * f32::from(q);
                assert_eq!(read[group * 64 + at].to_bits(), value.to_bits());
            }
        }
        let quantization = json!({"group_size": 64, "bits": 8, "mode": "affine"});
        let config = config(&out);
        assert_eq!(config["quantization"], quantization);
        assert_eq!(config["quantization_config"], quantization);
        for shard in written.shards() {
            assert!(shard.metadata.contains(&("format".into(), "pt".into())));
        }
        stdout(&["verify", text(&out), "--against", &source]);
    }
}

#[test]
fn int4_has_the_codes_and_scales_of_w4a16() {
    let directory = tempfile::tempdir().expect("temp");
    for (source, group) in [("single", 128), ("sharded", 64), ("single", 32)] {
        let (scheme, preset) = (format!("W4A16:{group}"), Preset::W4A16(group));
        let (source, out) =
            (data(&format!("tiny-llama/{source}")), directory.path().join(group.to_string()));
        let command = ["quantize", &source, "-o", text(&out), "--for", "mlx", "--scheme", &scheme];
        let receipt = json(&command);
        assert_eq!(receipt["quantized"].as_array().map(Vec::len), Some(14));
        let written = Checkpoint::open(&out).expect("opens");
        let original = Checkpoint::open(Path::new(&source)).expect("opens");
        let name = format!("{UP}.weight");
        let x = stored(&original, &name).1;
        let shape = Shape::new([256, 128]).expect("fits");
        let parts = encode_preset(preset, FloatType::BF16, &shape, &x, None).expect("finite");
        let (words_type, words) = stored(&written, &name);
        let (scale_type, scales) = stored(&written, &format!("{UP}.scales"));
        let (bias_type, biases) = stored(&written, &format!("{UP}.biases"));
        let groups = format!("BF16 [256, {}]", 128 / group);
        assert_eq!([words_type, scale_type, bias_type], ["U32 [256, 16]", &groups, &groups]);
        assert!(words == parts[0].1 && scales == parts[1].1, "{group}");
        let (scales, biases) = (halves(&scales), halves(&biases));
        let read = floats(&written, &name);
        for (at, value) in read.iter().enumerate() {
            let (scale, bias) = (scales[at / group as usize], biases[at / group as usize]);
            let code = words[at / 2] >> (at % 2 * 4) & 15;
            assert_eq!(value.to_bits(), (f32::from(code) * scale + bias).to_bits());
        }
        let quantization = json!({"group_size": group, "bits": 4, "mode": "affine"});
        assert_eq!(config(&out)["quantization"], quantization);
        let inspected = json(&["inspect", text(&out)]).to_string();
        assert!(inspected.contains(&format!("mlx int4, groups of {group}")), "{inspected}");
        let verified = json(&["verify", text(&out), "--against", &source]);
        assert_eq!(verified["quantized"].as_array().map(Vec::len), Some(14), "{verified}");
        let (measured, saved) = (
            json(&["analyze", &source, "--for", "mlx", "--schemes", &scheme]),
            receipt["quantized"].as_array().expect("a list"),
        );
        let measured = measured["tensors"].as_array().expect("a list");
        let measured = measured.iter().find(|t| t["name"] == *name).expect("listed").to_string();
        let saved = saved.iter().find(|t| t["name"] == *name).expect("listed");
        assert!(measured.contains(&saved["sqnr_db"].to_string()), "{measured} {saved}");
        let checked = json(&["check", text(&out), "--for", "mlx"]);
        assert_eq!(checked["loads"], true, "{checked}");
    }
}

/// The product of an F32 scale and a code is not exact, but levels and scales are.
#[test]
fn int4_of_other_types_is_read_back_as_measured() {
    let half = |tensor: Tensor| {
        let values = tensor.bytes.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw));
        let bytes = values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect();
        Tensor { dtype: "F16", bytes, ..tensor }
    };
    for change in [half, |tensor| tensor] {
        let (directory, source) = model(change);
        let out = directory.path().join("out");
        let command = ["quantize", text(&source), "-o", text(&out), "--for", "mlx"];
        let receipt = json(&[&command[..], &["--scheme", "W4A16:32"]].concat());
        assert_eq!(receipt["quantized"].as_array().map(Vec::len), Some(2));
        let verified = json(&["verify", text(&out), "--against", text(&source)]);
        assert_eq!(verified["quantized"], receipt["quantized"]);
        stdout(&["dequantize", text(&out), "-o", text(&directory.path().join("back"))]);
        let error = failure(&[&command[..], &["--scheme", "W4A16_ASYM", "--force"]].concat()).1;
        assert!(error.contains("not of mlx"), "{error}");
        let error = failure(&[&command[..], &["--scheme", "W4A16:16", "--force"]].concat()).1;
        assert!(error.contains("mlx"), "{error}");
    }
}

#[test]
fn dequantizing_gives_names_types_and_config_back() {
    let directory = tempfile::tempdir().expect("temp");
    let source = data("tiny-llama/single");
    let (out, back) = (directory.path().join("mlx"), directory.path().join("back"));
    stdout(&["quantize", &source, "-o", text(&out), "--format", "mlx"]);
    stdout(&["dequantize", text(&out), "-o", text(&back)]);
    let (source, back) = (json(&["inspect", &source]), json(&["inspect", text(&back)]));
    assert_eq!(source["tensors"], back["tensors"]);
    let config = config(&directory.path().join("back"));
    assert_eq!((config.get("quantization"), config.get("quantization_config")), (None, None));
}

#[test]
fn any_flipped_byte_of_a_layer_is_found() {
    let directory = tempfile::tempdir().expect("temp");
    let source = data("tiny-llama/single");
    let out = directory.path().join("mlx");
    let name = format!("{UP}.weight");
    let int8 = ["--calibration", "mse", "--rounding", "half-away"];
    for options in [&int8[..], &["--scheme", "W4A16:64"]] {
        let command = ["quantize", &source, "-o", text(&out), "--for", "mlx", "--force"];
        stdout(&[&command[..], &["--include", &name], options].concat());
        check_every_part(&source, &out);
    }
}

/// Flips a byte of each stored tensor of a layer in turn.
fn check_every_part(source: &str, out: &Path) {
    let source = Checkpoint::open(Path::new(source)).expect("opens");
    let written = Checkpoint::open(out).expect("opens");
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
        let saved = Checkpoint::open(out).expect("opens");
        let verified = verify::run(&saved, &source, None, &Progress::default());
        let error = verified.err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains(UP)), "{name}");
    }
}

#[test]
fn layers_whose_rows_no_group_divides_stay_float() {
    let (directory, source) = model(|tensor| tensor);
    let out = directory.path().join("out");
    let command = ["quantize", text(&source), "-o", text(&out), "--for", "mlx"];
    let groups_of_64 = directory.path().join("groups-of-64");
    let command_64 = ["quantize", text(&source), "-o", text(&groups_of_64), "--for", "mlx"];
    let command_64 = [&command_64[..], &["--scheme", "per-block:64"]].concat();
    let query = "model.layers.0.self_attn.q_proj.weight";
    let error = failure(&[&command_64[..], &["--include", query]].concat()).1;
    assert!(error.contains("96 columns"), "{error}");
    let receipt = json(&command_64);
    assert_eq!(receipt["quantized"].as_array().map(Vec::len), Some(1));
    assert!(receipt["warnings"].to_string().contains("96 columns are not a multiple of 64"));
    assert_eq!(config(&groups_of_64)["quantization"]["group_size"], 64);
    stdout(&["verify", text(&groups_of_64), "--against", text(&source)]);
    for scheme in ["per-channel", "per-block:16"] {
        let error = failure(&[&command[..], &["--scheme", scheme]].concat()).1;
        assert!(error.contains("groups of 32, 64 or 128"), "{error}");
    }
    let down = "model.layers.0.mlp.down_proj.weight";
    let error = failure(&[&command[..], &["--include", down]].concat()).1;
    assert!(error.contains("its 40 columns do not divide into groups of 32"), "{error}");
    assert!(!out.exists());
    let receipt = json(&command);
    assert_eq!(receipt["quantized"].as_array().map(Vec::len), Some(2));
    assert!(receipt["warnings"].to_string().contains("40 columns"), "{receipt}");
    assert_eq!(config(&out)["quantization"]["group_size"], 32);
    // An F32 model has F32 scales.
    let written = Checkpoint::open(&out).expect("opens");
    assert_eq!(stored(&written, &format!("{UP}.scales")).0, "F32 [24, 4]");
    stdout(&["verify", text(&out), "--against", text(&source)]);
}

#[test]
fn a_bias_that_its_type_does_not_hold_is_refused() {
    let large = |tensor: Tensor| {
        let values = tensor.bytes.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw));
        let largest = half::f16::from_f32(65500.0).to_le_bytes();
        let mut bytes: Vec<u8> =
            values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect();
        bytes[..2].copy_from_slice(&largest);
        Tensor { dtype: "F16", bytes, ..tensor }
    };
    let (directory, source) = model(large);
    let out = directory.path().join("out");
    let error = failure(&["quantize", text(&source), "-o", text(&out), "--for", "mlx"]).1;
    assert!(error.contains("exceeds the range of its scale"), "{error}");
    assert!(!out.exists());
}

#[test]
fn a_lone_file_has_no_config_for_mlx() {
    let (directory, source) = model(|tensor| tensor);
    let lone = directory.path().join("lone.safetensors");
    std::fs::copy(source.join("model.safetensors"), &lone).expect("copies");
    let out = directory.path().join("out");
    let error = failure(&["quantize", text(&lone), "-o", text(&out), "--for", "mlx"]).1;
    assert!(error.contains("no config.json"), "{error}");
    assert!(!out.exists());
}

/// MLX joins experts that are stored one by one while loading, but not their scales.
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
    let command = ["quantize", text(&source), "-o", text(&out), "--for", "mlx"];
    let receipt = json(&command);
    assert_eq!(receipt["quantized"].as_array().map(Vec::len), Some(1));
    assert!(receipt["warnings"].to_string().contains("one of several experts"), "{receipt}");
    std::fs::remove_dir_all(&out).expect("goes");
    let error = failure(&[&command[..], &["--include", &expert(0)]].concat()).1;
    assert!(error.contains("one of several experts"), "{error}");
    assert!(!out.exists());
}
