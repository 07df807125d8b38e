//! Saving for ComfyUI: one file with markers, read back as previewed.

use crate::support::checkpoint::{Tensor, bytes, weights, write};
use crate::support::{data, failure, json, stdout};
use quantscope::checkpoint::Checkpoint;
use quantscope::job::{Progress, verify};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MARKER: &[u8] = br#"{"format": "int8_tensorwise"}"#;
const QKV: &str = "model.diffusion_model.double_blocks.0.img_attn.qkv";

/// A directory with a diffusion model in the file `model.safetensors`.
fn model() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("temp");
    let path = directory.path().join("model.safetensors");
    let half = |tensor: Tensor| Tensor {
        dtype: "BF16",
        bytes: tensor.bytes.as_chunks::<4>().0.iter().flat_map(|raw| [raw[2], raw[3]]).collect(),
        ..tensor
    };
    let tensors = [
        half(weights(&format!("{QKV}.weight"), &[48, 64])),
        half(weights(&format!("{QKV}.bias"), &[48])),
        weights("model.diffusion_model.img_mlp.0.weight", &[32, 40]),
        weights("model.diffusion_model.conv.weight", &[8, 4, 3, 3]),
        weights("model.diffusion_model.pos_embed", &[4, 64]),
        weights("first_stage_model.decoder.mid.attn.q.weight", &[16, 16]),
        weights("conditioner.embedders.0.fc1.weight", &[16, 16]),
    ];
    write(&path, &tensors, &[("modelspec.title", "tiny")]);
    (directory, path)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn stored(checkpoint: &Checkpoint, name: &str) -> (String, Vec<u8>) {
    let found = checkpoint.all_stored().find(|(_, stored)| stored.name == name);
    let (id, stored) = found.unwrap_or_else(|| panic!("{name} is missing"));
    let bytes = checkpoint.reader().stored(id, 0..stored.bytes()).expect("reads").to_vec();
    (format!("{} {}", stored.dtype, stored.shape), bytes)
}

fn floats(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let id = checkpoint.find(name).expect("there");
    let all = 0..checkpoint.tensor(id).parameters();
    checkpoint.reader().elements(id, all).expect("reads").expect("decoded").1.to_vec()
}

/// The product of int8 values and their F32 scales.
fn product(values: &[u8], scales: &[u8], columns: usize) -> Vec<u8> {
    let scales: Vec<f32> = scales.as_chunks().0.iter().map(|s| f32::from_le_bytes(*s)).collect();
    let scale = |index: usize| *scales.get(index / columns).unwrap_or(&scales[0]);
    let values = values.iter().enumerate();
    values.flat_map(|(i, &q)| (scale(i) * f32::from(q as i8)).to_le_bytes()).collect()
}

#[test]
fn a_lone_file_becomes_a_lone_file_with_markers() {
    let (directory, source) = model();
    for (scheme, shape) in [("per-channel", "F32 [48, 1]"), ("per-tensor", "F32 []")] {
        let out = directory.path().join(format!("{scheme}.safetensors"));
        let options = ["--for", "comfyui", "--scheme", scheme];
        let receipt =
            json(&[&["quantize", text(&source), "-o", text(&out)], &options[..]].concat());
        assert_eq!(receipt["quantized"].as_array().map(Vec::len), Some(2));

        let written = Checkpoint::open(&out).expect("opens");
        let (values_type, values) = stored(&written, &format!("{QKV}.weight"));
        let (scale_type, scales) = stored(&written, &format!("{QKV}.weight_scale"));
        assert_eq!((values_type.as_str(), scale_type.as_str()), ("I8 [48, 64]", shape));
        let marker = stored(&written, &format!("{QKV}.comfy_quant"));
        assert_eq!(marker, ("U8 [29]".to_owned(), MARKER.to_vec()));
        assert_eq!(floats(&written, &format!("{QKV}.weight")), product(&values, &scales, 64));
        for name in ["model.diffusion_model.conv.weight", "model.diffusion_model.pos_embed"] {
            let original = Checkpoint::open(&source).expect("opens");
            assert_eq!(stored(&written, name), stored(&original, name));
        }
        let metadata = &written.shards()[0].metadata;
        assert!(metadata.contains(&("modelspec.title".into(), "tiny".into())));
        let inspected = json(&["inspect", text(&out)]);
        let tensors = inspected["tensors"].as_array().expect("a list");
        let layout = tensors.iter().find(|t| t["name"] == format!("{QKV}.weight"));
        let layout = layout.expect("listed").to_string();
        assert!(layout.contains(&format!("comfyui int8 {scheme}")), "{layout}");
        stdout(&["verify", text(&out), "--against", text(&source)]);
    }
}

#[test]
fn dequantizing_gives_names_and_types_back() {
    let (directory, source) = model();
    let (out, back) =
        (directory.path().join("q.safetensors"), directory.path().join("b.safetensors"));
    stdout(&["quantize", text(&source), "-o", text(&out), "--for", "comfyui"]);
    stdout(&["dequantize", text(&out), "-o", text(&back)]);
    let (written, back) =
        (Checkpoint::open(&out).expect("opens"), Checkpoint::open(&back).expect("opens"));
    let original = Checkpoint::open(&source).expect("opens");
    let listed = |checkpoint: &Checkpoint| {
        let mut all: Vec<String> = checkpoint
            .all_stored()
            .map(|(_, s)| format!("{} {} {}", s.name, s.dtype, s.shape))
            .collect();
        all.sort();
        all
    };
    assert_eq!(listed(&back), listed(&original));
    let keys: Vec<&str> = back.shards()[0].metadata.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["modelspec.title", "format"]);
    let name = "model.diffusion_model.img_mlp.0.weight";
    assert_eq!(floats(&back, name), floats(&written, name));
}

#[test]
fn any_flipped_byte_of_a_layer_is_found() {
    let (directory, path) = model();
    let out = directory.path().join("q.safetensors");
    stdout(&["quantize", text(&path), "-o", text(&out), "--for", "comfyui"]);
    let source = Checkpoint::open(&path).expect("opens");
    let whole = std::fs::read(&out).expect("reads");
    let written = Checkpoint::open(&out).expect("opens");
    let parts: Vec<_> = written
        .all_stored()
        .filter(|(_, s)| s.name.starts_with(QKV))
        .map(|(_, s)| (s.name.to_string(), s.range.clone()))
        .collect();
    assert_eq!(parts.len(), 4);
    for (name, range) in parts {
        let mut flipped = whole.clone();
        flipped[range.end as usize - 2] ^= 1;
        std::fs::write(&out, &flipped).expect("writes");
        let found = Checkpoint::open(&out).map_err(|e| e.to_string()).and_then(|saved| {
            let verified = verify::run(&saved, &source, None, &Progress::default());
            verified.map_err(|e| e.to_string())
        });
        assert!(found.is_err(), "{name}");
    }
}

#[test]
fn what_comfyui_does_not_read_is_left_out_and_refused_by_name() {
    let (directory, source) = model();
    let out = directory.path().join("q.safetensors");
    let command = ["quantize", text(&source), "-o", text(&out), "--for", "comfyui"];
    let receipt = json(&command);
    let warnings = receipt["warnings"].to_string();
    for printed in ["conv.weight", "pos_embed", "image decoder", "text encoder"] {
        assert!(warnings.contains(printed), "'{printed}' is not in {warnings}");
    }
    std::fs::remove_file(&out).expect("goes");
    for (options, printed) in [
        (vec!["--scheme", "per-block:64"], "one scale per tensor or per channel"),
        (vec!["--include", "model.diffusion_model.conv.weight"], "4 dimensions"),
        (vec!["--include", "first_stage_model.decoder.mid.attn.q.weight"], "image decoder"),
        (vec!["--scheme", "W8A8"], "a scheme of compressed-tensors"),
    ] {
        let (_, error) = failure(&[&command[..], &options[..]].concat());
        assert!(error.contains(printed), "{error}");
        assert!(!out.exists());
    }
    let folder = directory.path().join("folder");
    let (_, error) =
        failure(&["quantize", text(&source), "-o", text(&folder), "--format", "comfyui"]);
    assert!(error.contains("ends in .safetensors"), "{error}");
}

#[test]
fn names_of_diffusers_are_refused() {
    let directory = tempfile::tempdir().expect("temp");
    let source = directory.path().join("flux.safetensors");
    let names = ["x_embedder.weight", "single_transformer_blocks.0.attn.to_q.weight"];
    std::fs::write(&source, bytes(&names.map(|name| weights(name, &[16, 16])))).expect("writes");
    let out = directory.path().join("q.safetensors");
    let command = ["quantize", text(&source), "-o", text(&out)];
    let (_, error) = failure(&[&command[..], &["--for", "comfyui"]].concat());
    assert!(error.contains("diffusers' names") && error.contains("ComfyUI 0.38"), "{error}");
    assert!(!out.exists());
    let receipt = json(&[&command[..], &["--format", "comfyui"]].concat());
    assert!(receipt["warnings"].to_string().contains("diffusers' names"), "{receipt}");
}

#[test]
fn shards_become_one_file() {
    let directory = tempfile::tempdir().expect("temp");
    let out = directory.path().join("encoder.safetensors");
    let source = data("tiny-llama/sharded");
    stdout(&["quantize", &source, "-o", text(&out), "--for", "comfyui"]);
    let written = Checkpoint::open(&out).expect("opens");
    assert_eq!(written.shards().len(), 1);
    let name = "model.layers.1.mlp.down_proj.comfy_quant";
    assert_eq!(stored(&written, name).1, MARKER);
    stdout(&["verify", text(&out), "--against", &source]);
}
