//! Small files that reproduce public bug reports, with the values of the software that owns the
//! format. Those for PyTorch and NumPy are in `pytorch` and `numpy`.

use crate::support::checkpoint::{Tensor, f32s, weights, write};
use crate::support::data;
use crate::{bytes, floats, not_opened, open, quantize, run};
use quantscope::checkpoint::Checkpoint;
use quantscope::export::{OutputFormat, Task};
use quantscope::job::{Progress, verify};
use quantscope::plan::quantizable;
use quantscope::quantization::{Preset, QuantizationScheme};
use quantscope::tensor::FloatType;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

fn report(name: &str) -> PathBuf {
    Path::new(&data("reports")).join(name)
}

/// A tensor's name, type, dimensions and packed format (`""` if it is not packed).
type Row = (&'static str, &'static str, &'static [u64], &'static str);

/// Asserts that a checkpoint has exactly these tensors, in any order.
fn check(path: &str, rows: &[Row]) -> Checkpoint {
    let found = open(report(path));
    let names: Vec<&str> = found.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names.len(), rows.len(), "{path}: {names:?}");
    for (name, dtype, dims, format) in rows {
        let id = found.find(name).unwrap_or_else(|| panic!("{path}: no {name} in {names:?}"));
        let tensor = found.tensor(id);
        assert_eq!((tensor.dtype.name(), tensor.shape.dims()), (*dtype, *dims), "{path}: {name}");
        let packed = found.packed_format(id).map(|format| format.name()).unwrap_or_default();
        assert!(packed.starts_with(format), "{path}: {name} is {packed:?}, expected {format:?}");
        assert_eq!(packed.is_empty(), format.is_empty(), "{path}: {name} is {packed:?}");
        assert_eq!(found.unreadable(id), None, "{path}: {name}");
        assert!(packed.is_empty() || !quantizable(&found, id), "{path}: {name}");
    }
    found
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn notes(checkpoint: &Checkpoint) -> String {
    checkpoint.notes().join("\n")
}

/// ComfyUI's marker takes precedence over ModelOpt's names: high nibble first, scales in tiles.
#[test]
fn comfyui_nvfp4_has_the_reference_values() {
    let found = check(
        "comfy-nvfp4/model.safetensors",
        &[
            ("blk.0.w1.weight", "U8", &[128, 256], "comfyui nvfp4"),
            ("blk.0.norm.weight", "BF16", &[64], ""),
        ],
    );
    let halves: Vec<u8> = floats(&found, "blk.0.w1.weight")
        .as_chunks::<4>()
        .0
        .iter()
        .flat_map(|raw| half::f16::from_f32(f32::from_le_bytes(*raw)).to_le_bytes())
        .collect();
    // comfy-kitchen 0.2.40, dequantize_nvfp4.
    let expected = "f30fd2dea256653ab87e9fe4dc43ab238cdc6e82ecef5eb833425d0c24e9d8ec";
    assert_eq!(sha256(&halves), expected);
}

/// `X.scale` of DeepSeek-V4 holds the exponents of blocks. If it were ignored, values would be
/// 2,048 times too large.
#[test]
fn deepseek_v4_scales_are_multiplied_in() {
    let found = check(
        "deepseek-v4-scale",
        &[
            ("layers.0.attn.wq_a.weight", "F8_E4M3", &[256, 256], "fp8 e4m3, blocks of 128×128"),
            ("layers.0.attn_norm.weight", "BF16", &[64], ""),
        ],
    );
    let values = floats(&found, "layers.0.attn.wq_a.weight");
    let all = values.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw).abs());
    assert_eq!(all.fold(0.0, f32::max), 0.21875);
    let expected = "03343c14f18ec46f9fe79f9e21d25370ca45a8bc092fc0b90a3063a0e74577a0";
    assert_eq!(sha256(&values), expected);
}

/// Python writes `Infinity` and `NaN` into config.json.
#[test]
fn a_config_with_infinity_is_read() {
    check("config-infinity/fp8", &[("a.weight", "F8_E4M3", &[16, 32], "fp8 e4m3 per-tensor")]);
    let plain = open(report("config-infinity/bf16"));
    assert_eq!(notes(&plain), "");
    assert!(plain.model_config().expect("is read").is_some());
}

#[test]
fn a_directory_with_one_bin_or_ckpt_opens() {
    for directory in ["lora", "peft", "sd"] {
        check(&format!("directory-of-bin-or-ckpt/{directory}"), &[("w", "F32", &[8, 32], "")]);
    }
}

/// Scales and codebooks of formats that are not decoded cannot be quantized.
#[test]
fn parts_of_named_formats_are_not_quantizable() {
    for directory in ["blockwise_int8", "vptq"] {
        let found = open(report("foreign-scales-quantized").join(directory));
        assert!(found.ids().all(|id| !quantizable(&found, id)), "{:?}", found.tensors());
    }
}

#[test]
fn removed_gguf_types_have_their_names_and_sizes() {
    let found = check(
        "gguf-removed-types/q4_0_4_4.gguf",
        &[
            ("blk.0.ffn_down.weight", "Q4_0_4_4", &[4, 64], ""),
            ("blk.0.ffn_up.weight", "Q4_0_8_8", &[8, 64], ""),
        ],
    );
    assert_eq!(found.ids().map(|id| found.bytes(id)).collect::<Vec<_>>(), [144, 288]);
}

#[test]
fn any_part_of_a_split_gguf_opens_all() {
    let rows: &[Row] = &[
        ("blk.0.attn_q.weight", "F32", &[32, 64], ""),
        ("blk.0.attn_norm.weight", "F32", &[64], ""),
        ("output.weight", "F32", &[16, 64], ""),
    ];
    check("gguf-split", rows);
    for part in 1..=3 {
        check(&format!("gguf-split/Model-0000{part}-of-00003.gguf"), rows);
    }
    for path in ["gguf-split-first-part", "gguf-split-first-part/m-00001-of-00003.gguf"] {
        let why = not_opened(report(path));
        assert!(why.contains("only 1 of 3 parts are here"), "{why}");
    }
}

#[test]
fn further_keys_of_a_header_entry_are_ignored() {
    check("header-extra-field/extra.safetensors", &[("w", "F32", &[8, 32], "")]);
    check("st-unknown-field/m.safetensors", &[("a", "F32", &[1], "")]);
}

/// Like transformers, quantscope prefers `model.safetensors` to the index. A note names the other
/// model.
#[test]
fn a_whole_model_beside_an_index_is_opened_and_the_other_is_named() {
    for (directory, tensors) in
        [("index-beside-whole-model/both", 3), ("stale-single-file-beside-shards/m", 2)]
    {
        let found = open(report(directory));
        assert_eq!((found.shards().len(), found.tensors().len()), (1, tensors), "{directory}");
        assert_eq!(found.shards()[0].name(), "model.safetensors");
        let printed = notes(&found);
        assert!(printed.contains("not opened: model.safetensors.index.json"), "{printed}");
    }
}

#[test]
fn shards_open_in_subfolders_and_without_an_index() {
    let rows: &[Row] = &[("a.weight", "F32", &[8, 16], ""), ("b.weight", "F32", &[8, 16], "")];
    check("index-into-subfolders/m", rows);
    let found = check(
        "shards-without-index",
        &[
            ("model.a.weight", "BF16", &[16, 32], ""),
            ("model.b.weight", "BF16", &[16, 32], ""),
            ("model.norm.weight", "BF16", &[32], ""),
        ],
    );
    assert!(notes(&found).contains("2 shards were opened as one model"), "{}", notes(&found));
}

#[test]
fn mlx_modes_are_those_of_the_config() {
    let found = check(
        "mlx-modes-misnamed/mxfp8",
        &[("l.q_proj.weight", "U32", &[16, 128], "mlx mxfp8, blocks of 32")],
    );
    assert_eq!(found.parameters(), 2048);
}

/// A tensor that almost matches a packed format does not prevent opening the checkpoint.
#[test]
fn tensors_beside_an_unusual_one_are_listed() {
    let plain = ("l.weight", "F32", &[8, 16][..], "");
    check(
        "one-layout-closes-the-file/llama4-fbgemm",
        &[plain, ("e.gate_up_proj", "F8_E4M3", &[2, 8, 16], "fp8 e4m3 per-channel")],
    );
    check(
        "one-layout-closes-the-file/mxfp8",
        &[plain, ("a.weight", "F8_E4M3", &[8, 64], "fp8 e4m3, blocks of 1×32")],
    );
    check(
        "one-layout-closes-the-file/name-ends-packed",
        &[plain, ("attn_mask_packed", "U8", &[8, 4], "")],
    );
}

#[test]
fn scales_of_any_shape_leave_a_row() {
    let file = |name: &str| format!("refused-scale-shapes/{name}.safetensors");
    for (name, dims, format) in [
        ("comfy_int8_blocks", &[256, 256][..], "compressed-tensors int8, not decoded"),
        ("compressed_tensors_mxfp8", &[8, 64], "fp8 e4m3, not decoded"),
        ("fp8_group128", &[8, 256], "fp8 e4m3, groups of 128"),
        ("fp8_scale_1x1", &[300, 200], "fp8 e4m3 per-tensor"),
    ] {
        let found = open(report(&file(name)));
        let id = found.ids().next().expect("one");
        let packed = found.packed_format(id).map(|format| format.name()).unwrap_or_default();
        assert_eq!((found.ids().len(), found.tensor(id).shape.dims()), (1, dims), "{name}");
        assert!(packed.starts_with(format), "{name}: {packed}");
    }
    check(
        &file("llama4_fbgemm_experts"),
        &[
            ("m.experts.gate_up_proj", "F8_E4M3", &[2, 16, 16], "fp8 e4m3 per-channel"),
            ("m.norm.weight", "BF16", &[16], ""),
        ],
    );
    check(
        "refused-scale-shapes/mlx_config_prefix",
        &[("language_model.l.q_proj.weight", "U32", &[16, 128], "mlx int8, groups of 64")],
    );
}

#[test]
fn text_in_place_of_weights_is_named() {
    for (file, sentence) in [
        ("gated", "\"Access to model org/name is restricted."),
        ("html", "this is an HTML page"),
        ("lfs", "this is a Git LFS pointer; the real file has 4938985352 bytes"),
    ] {
        let why = not_opened(report(&format!("text-instead-of-weights/{file}.safetensors")));
        assert!(why.contains(sentence), "{why}");
    }
}

/// Dequantizing also removes markers and the scales of activations and of the key-value cache.
#[test]
fn dequantized_models_keep_no_trace_of_their_format() {
    let directory = tempfile::tempdir().expect("temp");
    for (path, tensor) in [
        ("dequantize-leaves-scales/m", "l.q_proj.weight"),
        ("comfy-markers-left/model.safetensors", "blk.w1.weight"),
    ] {
        let out = directory.path().join(path.replace('/', "-"));
        let task = Task::Dequantize { to: None };
        let (plain, _) = run(&open(report(path)), &out, task).expect("dequantizes");
        let names: Vec<&str> = plain.all_stored().map(|(_, stored)| &*stored.name).collect();
        assert_eq!(names, [tensor], "{path}");
    }
}

/// Values beyond the range of the type that is asked for are not written as infinities.
#[test]
fn dequantizing_to_a_type_that_is_too_narrow_is_refused() {
    let directory = tempfile::tempdir().expect("temp");
    let path = |name: &str| directory.path().join(name);
    let source = open(report("dequantize-f16-infinite/m.safetensors"));
    quantize(&source, &path("q"), QuantizationScheme::PER_TENSOR, OutputFormat::Safetensors);
    let quantized = open(path("q"));
    let to = |to| run(&quantized, &path("out"), Task::Dequantize { to: Some(to) });
    let why = to(FloatType::F16).map(|_| ()).expect_err("refused").to_string();
    assert!(
        why.contains("'a.weight' has values that F16 cannot hold: element 1 is 118497"),
        "{why}"
    );
    assert!(why.ends_with("choose --dtype bf16 or f32"), "{why}");
    assert!(!path("out").exists());
    to(FloatType::BF16).expect("BF16 holds them");
}

/// Tensors of a float model with names such as `k_scale` or `input_scale` are saved unchanged, even
/// if they look like parts of the layers that are quantized.
#[test]
fn scales_of_a_float_model_are_kept() {
    let directory = tempfile::tempdir().expect("temp");
    let path = |name: &str| directory.path().join(name);
    let names = ["attn.k_scale", "attn.q_scale", "input_scale", "scaled_fp8", "x.comfy_quant"];
    let single = |name: &&str| f32s(name, &[1], [1.5]);
    let tensors: Vec<Tensor> =
        names.iter().map(single).chain([weights("attn.weight", &[16, 32])]).collect();
    std::fs::create_dir(path("m")).expect("creates");
    write(&path("m/model.safetensors"), &tensors, &[]);
    std::fs::write(path("m/config.json"), r#"{"model_type": "x"}"#).expect("writes");
    let source = open(path("m"));
    for (number, (scheme, format)) in [
        (QuantizationScheme::PER_CHANNEL, OutputFormat::Safetensors),
        (QuantizationScheme::PER_CHANNEL, OutputFormat::Int8),
        (QuantizationScheme::Preset(Preset::Fp8Dynamic), OutputFormat::Presets),
    ]
    .into_iter()
    .enumerate()
    {
        let out = path(&number.to_string());
        quantize(&source, &out, scheme, format);
        let saved = open(&out);
        names
            .iter()
            .for_each(|name| assert!(bytes(&saved, name) == bytes(&source, name), "{name}"));
        let verified = verify::run(&saved, &source, None, &Progress::default());
        assert_eq!(verified.expect("verifies").tensors.len(), 6);
        let floats = run(&saved, &path("floats"), Task::Dequantize { to: None });
        let (floats, _) = floats.expect("dequantizes");
        // The metadata of quantscope's own format says which tensors are scales.
        let kept = if format == OutputFormat::Safetensors { 6 } else { 1 };
        assert_eq!(floats.tensors().len(), kept, "{number}");
        std::fs::remove_dir_all(path("floats"))
            .or_else(|_| std::fs::remove_file(path("floats")))
            .expect("removes");
    }
}

/// Scales without their weight, as in a single shard, are not weights.
#[test]
fn scales_alone_are_not_quantizable() {
    let directory = tempfile::tempdir().expect("temp");
    let path = directory.path().join("model.safetensors");
    let names = ["a.weight_scale", "b.weight_scale_inv", "c.weight_scale_2", "d.weight_zero_point"];
    let scales = names.iter().map(|name| weights(name, &[4, 4]));
    write(&path, &scales.chain([weights("l.weight", &[8, 16])]).collect::<Vec<_>>(), &[]);
    let found = open(&path);
    for name in names {
        let id = found.find(name).expect("listed");
        assert!(!quantizable(&found, id), "{name}");
    }
    assert!(quantizable(&found, found.find("l.weight").expect("listed")));
}
