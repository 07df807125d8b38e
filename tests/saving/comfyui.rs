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

/// The golden data is what comfy-kitchen makes of the same weights.
#[test]
fn nvfp4_is_stored_as_comfyui_stores_it() {
    let directory = tempfile::tempdir().expect("temp");
    let golden = Checkpoint::open(Path::new(&data("saving/comfyui_nvfp4.safetensors")));
    let golden = golden.expect("opens");
    let weights = golden.all_stored().filter(|(_, stored)| stored.name.ends_with(".weight"));
    let weights = weights.map(|(_, found)| Tensor {
        name: found.name.to_string(),
        dtype: ["BF16", "F16", "F32"]
            .into_iter()
            .find(|dtype| *dtype == found.dtype.name())
            .expect("a float"),
        shape: found.shape.dims().to_vec(),
        bytes: stored(&golden, &found.name).1,
    });
    let weights: Vec<Tensor> = weights.collect();
    let source = directory.path().join("model.safetensors");
    write(&source, &weights, &[]);
    let out = directory.path().join("q.safetensors");
    let command = ["quantize", text(&source), "-o", text(&out), "--for", "comfyui"];
    let receipt = json(&[&command[..], &["--scheme", "NVFP4_COMFYUI"]].concat());
    assert_eq!(receipt["quantized"].as_array().map(Vec::len), Some(4), "{receipt}");
    let written = Checkpoint::open(&out).expect("opens");
    for case in ["bfloat16_144", "bfloat16_16", "float16_16", "float32_16"] {
        for part in ["", "_scale", "_scale_2"] {
            let found = stored(&written, &format!("{case}.weight{part}"));
            assert!(found == stored(&golden, &format!("{case}.expected{part}")), "{case} {part}");
        }
        let marker = stored(&written, &format!("{case}.comfy_quant"));
        assert_eq!(marker.1, br#"{"format": "nvfp4"}"#);
    }
    let verified = json(&["verify", text(&out), "--against", text(&source)]);
    assert_eq!(verified["quantized"], receipt["quantized"]);
    let inspected = json(&["inspect", text(&out)]).to_string();
    assert!(inspected.contains("comfyui nvfp4, blocks of 16"), "{inspected}");
    let checked = json(&["check", text(&out), "--for", "comfyui"]);
    assert_eq!(checked["loads"], true, "{checked}");
}

#[test]
fn fp8_has_one_scale_for_each_tensor() {
    let (directory, source) = model();
    let out = directory.path().join("q.safetensors");
    let command = ["quantize", text(&source), "-o", text(&out), "--for", "comfyui"];
    let receipt = json(&[&command[..], &["--scheme", "FP8"]].concat());
    assert_eq!(receipt["quantized"].as_array().map(Vec::len), Some(2));
    let (original, written) =
        (Checkpoint::open(&source).expect("opens"), Checkpoint::open(&out).expect("opens"));
    let (values_type, values) = stored(&written, &format!("{QKV}.weight"));
    let (scale_type, scale) = stored(&written, &format!("{QKV}.weight_scale"));
    assert_eq!([values_type.as_str(), &scale_type], ["F8_E4M3 [48, 64]", "F32 []"]);
    let marker = stored(&written, &format!("{QKV}.comfy_quant")).1;
    assert_eq!(marker, br#"{"format": "float8_e4m3fn"}"#);
    let x: Vec<f32> = stored(&original, &format!("{QKV}.weight"))
        .1
        .as_chunks()
        .0
        .iter()
        .map(|raw| half::bf16::from_le_bytes(*raw).to_f32())
        .collect();
    let absmax = x.iter().fold(0f32, |most, x| most.max(x.abs()));
    let scale = f32::from_le_bytes(scale.try_into().expect("one number"));
    assert_eq!(scale, half::bf16::from_f32(absmax / 448.0).to_f32());
    let read = floats(&written, &format!("{QKV}.weight"));
    let read = read.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw));
    for ((x, value), code) in x.iter().zip(read).zip(values) {
        // The spacing of E4M3 is an eighth of a power of two, and at least 2⁻⁹.
        assert!((x - value).abs() <= (x.abs() / 16.0).max(scale / 512.0) * 1.01, "{x} {value}");
        assert_eq!(value.is_sign_negative(), code & 0x80 != 0);
    }
    let verified = json(&["verify", text(&out), "--against", text(&source)]);
    assert_eq!(verified["quantized"], receipt["quantized"]);
    let schemes = ["--schemes", "FP8,NVFP4_COMFYUI,per-channel"];
    let analyzed = ["analyze", text(&source), "--for", "comfyui"];
    let measured = json(&[&analyzed[..], &schemes].concat()).to_string();
    for saved in receipt["quantized"].as_array().expect("a list") {
        assert!(measured.contains(&saved["sqnr_db"].to_string()), "{measured} {saved}");
    }
}

/// Each layer has a marker of its own, so layers may differ.
#[test]
fn a_budget_mixes_the_formats_of_comfyui() {
    let (directory, source) = model();
    let out = directory.path().join("q.safetensors");
    let command = ["quantize", text(&source), "-o", text(&out), "--for", "comfyui"];
    let qkv = format!("{QKV}.weight");
    let include = ["--include", &qkv, "--include", "model.diffusion_model.img_mlp.0.weight"];
    let receipt = json(&[&command[..], &include, &["--min-sqnr", "18dB"]].concat());
    let schemes: Vec<&str> = receipt["quantized"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|tensor| tensor["scheme"].as_str())
        .collect();
    // The columns of the other are no multiple of 16.
    assert_eq!(schemes, ["NVFP4_COMFYUI", "FP8"], "{receipt}");
    stdout(&["verify", text(&out), "--against", text(&source)]);
    let better = [&command[..], &include, &["--min-sqnr", "35dB", "--force"]].concat();
    let receipt = json(&better);
    assert!(receipt["quantized"].to_string().contains("per-"), "{receipt}");
    stdout(&["verify", text(&out), "--against", text(&source)]);
}

#[test]
fn dequantizing_gives_names_and_types_back() {
    for scheme in ["per-channel", "FP8", "NVFP4_COMFYUI"] {
        dequantized_from(scheme);
    }
}

fn dequantized_from(scheme: &str) {
    let (directory, source) = model();
    let (out, back) =
        (directory.path().join("q.safetensors"), directory.path().join("b.safetensors"));
    stdout(&["quantize", text(&source), "-o", text(&out), "--for", "comfyui", "--scheme", scheme]);
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
    for (scheme, parts) in [("per-channel", 4), ("FP8", 4), ("NVFP4_COMFYUI", 5)] {
        flip_every_part(scheme, parts);
    }
}

fn flip_every_part(scheme: &str, count: usize) {
    let (directory, path) = model();
    let out = directory.path().join("q.safetensors");
    stdout(&["quantize", text(&path), "-o", text(&out), "--for", "comfyui", "--scheme", scheme]);
    let source = Checkpoint::open(&path).expect("opens");
    let whole = std::fs::read(&out).expect("reads");
    let written = Checkpoint::open(&out).expect("opens");
    let parts: Vec<_> = written
        .all_stored()
        .filter(|(_, s)| s.name.starts_with(QKV))
        .map(|(_, s)| (s.name.to_string(), s.range.clone()))
        .collect();
    assert_eq!(parts.len(), count);
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
        (vec!["--scheme", "NVFP4A16"], "a scheme of compressed-tensors"),
        (vec!["--scheme", "nvfp4"], "NVFP4_COMFYUI"),
        (
            vec![
                "--scheme",
                "NVFP4_COMFYUI",
                "--include",
                "model.diffusion_model.img_mlp.0.weight",
            ],
            "not multiples of 16: [32, 40]",
        ),
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
