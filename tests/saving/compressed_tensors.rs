//! Saving as W8A8 and W8A16: outputs follow the rules of compressed-tensors and are read back as
//! previewed.

use quantscope::checkpoint::Checkpoint;
use quantscope::checkpoint::formats::safetensors::header_bytes;
use quantscope::export::{OutputFormat, Receipt, Request, Task};
use quantscope::job::{Progress, save, verify};
use quantscope::plan::{Plan, Selection};
use quantscope::quantization::{QuantizationScheme, Rounding};
use quantscope::tensor::{DType, Shape, TensorId};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const SINGLE: &str = "tests/data/tiny-llama/single";
const SHARDED: &str = "tests/data/tiny-llama/sharded";

fn open(path: impl AsRef<Path>) -> Checkpoint {
    Checkpoint::open(path.as_ref()).expect("opens")
}

fn chosen(source: &Checkpoint, patterns: &[&str]) -> Vec<TensorId> {
    let include = patterns.iter().map(|p| (*p).to_owned()).collect();
    Selection { include, exclude: vec![] }.resolve(source).expect("selects")
}

fn request(
    source: &Checkpoint,
    patterns: &[&str],
    scheme: Option<QuantizationScheme>,
    format: OutputFormat,
    out: PathBuf,
) -> Request {
    let ids = chosen(source, patterns);
    let scheme = scheme.unwrap_or_else(|| format.default_scheme(source, ids.iter().copied()));
    let plan = Plan::uniform(ids, scheme, Rounding::HalfEven);
    Request { task: Task::Quantize { plan, format }, out, force: false, copy: Vec::new() }
}

fn run(source: &Checkpoint, request: &Request) -> Result<Receipt, String> {
    save::run(source, request, Some(2), &Progress::default(), &|_| {}).map_err(|e| e.to_string())
}

fn json_of(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("reads")).expect("json")
}

fn stored(checkpoint: &Checkpoint) -> Vec<(String, String)> {
    let all = checkpoint.all_stored();
    all.map(|(_, s)| (s.name.to_string(), format!("{} {}", s.dtype, s.shape))).collect()
}

#[test]
fn int8_output_equals_what_compressed_tensors_reads() {
    let directory = tempfile::tempdir().expect("temp");
    for (name, path) in [("single", SINGLE), ("sharded", SHARDED)] {
        let source = open(path);
        let out = directory.path().join(name);
        let patterns = ["*.0.mlp.*", "*.self_attn.*"];
        let asked = request(&source, &patterns, None, OutputFormat::Int8, out.clone());
        let receipt = run(&source, &asked).expect("saves");
        assert_eq!(receipt.quantized.len(), 11);
        assert_eq!(receipt.warnings, Vec::<String>::new());

        let written = open(&out);
        let parts = stored(&written);
        let has = |name: &str, what: &str| {
            assert!(parts.contains(&(name.to_owned(), what.to_owned())), "{name} {what}");
        };
        has("model.layers.0.mlp.up_proj.weight", "I8 [256, 128]");
        has("model.layers.0.mlp.up_proj.weight_scale", "BF16 [256, 1]");
        has("model.layers.1.mlp.up_proj.weight", "BF16 [256, 128]");
        for shard in written.shards() {
            assert_eq!(shard.metadata, [("format".to_owned(), "pt".to_owned())]);
        }

        let (before, after) =
            (json_of(Path::new(path).join("config.json")), json_of(out.join("config.json")));
        assert_eq!(
            after["quantization_config"],
            json!({
                "quant_method": "compressed-tensors",
                "quantization_status": "compressed",
                "format": "int-quantized",
                "dequantize": true,
                "ignore": [],
                "config_groups": {"group_0": {
                    "targets": [
                        r"re:(.*\.)?layers\.0\.mlp\.down_proj$",
                        r"re:(.*\.)?layers\.0\.mlp\.gate_proj$",
                        r"re:(.*\.)?layers\.0\.mlp\.up_proj$",
                        r"re:(.*\.)?layers\.\d+\.self_attn\.k_proj$",
                        r"re:(.*\.)?layers\.\d+\.self_attn\.o_proj$",
                        r"re:(.*\.)?layers\.\d+\.self_attn\.q_proj$",
                        r"re:(.*\.)?layers\.\d+\.self_attn\.v_proj$",
                    ],
                    "format": "int-quantized",
                    "weights": {"num_bits": 8, "type": "int", "symmetric": true,
                        "strategy": "channel", "dynamic": false},
                    "input_activations": {"num_bits": 8, "type": "int", "symmetric": true,
                        "strategy": "token", "dynamic": true},
                }},
            })
        );
        let keys = |json: &Value| -> Vec<String> {
            json.as_object().expect("an object").keys().cloned().collect()
        };
        assert_eq!(keys(&after)[..keys(&before).len()], keys(&before));
        assert_eq!(keys(&after).len(), keys(&before).len() + 1);

        if name == "sharded" {
            let index = json_of(out.join("model.safetensors.index.json"));
            let map = index["weight_map"].as_object().expect("a map");
            assert_eq!(map.len(), parts.len());
            for (_, stored) in written.all_stored() {
                let shard = written.shards()[stored.shard as usize].name();
                assert_eq!(map[stored.name.as_str()], shard, "{}", stored.name);
            }
            assert_eq!(index["metadata"]["total_size"], written.total_bytes());
        }
    }
}

/// Values are quantized with the scale as stored, so decoding gives the nearest multiple of it.
#[test]
fn values_are_quantized_against_the_stored_scale() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SINGLE);
    for (format, suffix) in [(OutputFormat::Int8, ""), (OutputFormat::Int8WeightOnly, "_packed")] {
        let out = directory.path().join(format.name());
        let name = "model.layers.0.mlp.up_proj.weight";
        run(&source, &request(&source, &[name], None, format, out.clone())).expect("saves");
        let written = open(&out);
        let mut reader = written.reader();
        let mut bytes = |name: String| {
            let found = written.all_stored().find(|(_, s)| s.name == name);
            let (id, stored) = found.unwrap_or_else(|| panic!("{name}"));
            reader.stored(id, 0..stored.bytes()).expect("reads").to_vec()
        };
        let values = bytes(format!("{name}{suffix}"));
        let scales: Vec<f32> = bytes(format!("{name}_scale"))
            .as_chunks::<2>()
            .0
            .iter()
            .map(|raw| half::bf16::from_le_bytes(*raw).to_f32())
            .collect();
        let mut reader = source.reader();
        let id = source.find(name).expect("there");
        let (_, raw) = reader.elements(id, 0..256 * 128).expect("reads").expect("floats");
        let x: Vec<f32> =
            raw.as_chunks::<2>().0.iter().map(|r| half::bf16::from_le_bytes(*r).to_f32()).collect();
        for row in 0..256 {
            let row_x = &x[row * 128..(row + 1) * 128];
            let absmax = row_x.iter().fold(0f32, |m, v| m.max(v.abs()));
            // A group of 128 is a whole row here, so both formats have one scale per row.
            assert_eq!(scales[row], half::bf16::from_f32(absmax / 127.0).to_f32());
            for (k, &x) in row_x.iter().enumerate() {
                let q = (x / scales[row]).round_ties_even().clamp(-127.0, 127.0) as i8;
                let byte = values[row * 128 + k];
                let found = if suffix.is_empty() { byte } else { byte ^ 0x80 };
                assert_eq!(found as i8, q, "{row} {k}");
            }
        }
        if !suffix.is_empty() {
            let dims = [256i64, 128].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
            assert_eq!(bytes(format!("{name}_shape")), dims);
        }
    }
}

#[test]
fn weight_only_output_is_packed_in_groups() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SINGLE);
    let out = directory.path().join("out");
    let format = OutputFormat::Int8WeightOnly;
    let asked = request(&source, &["*.mlp.*"], None, format, out.clone());
    run(&source, &asked).expect("saves");
    let parts = stored(&open(&out));
    for part in [
        ("model.layers.1.mlp.down_proj.weight_packed", "I32 [128, 64]"),
        ("model.layers.1.mlp.down_proj.weight_scale", "BF16 [128, 2]"),
        ("model.layers.1.mlp.down_proj.weight_shape", "I64 [2]"),
    ] {
        assert!(parts.contains(&(part.0.to_owned(), part.1.to_owned())), "{part:?}");
    }
    let group =
        &json_of(out.join("config.json"))["quantization_config"]["config_groups"]["group_0"];
    assert_eq!(group["format"], "pack-quantized");
    assert_eq!(
        group["weights"],
        json!({"num_bits": 8, "type": "int", "symmetric": true, "strategy": "group",
            "group_size": 128, "dynamic": false})
    );
    assert_eq!(group.get("input_activations"), None);
    // Per-channel weights are packed too.
    let out = directory.path().join("channel");
    let scheme = Some(QuantizationScheme::PER_CHANNEL);
    run(&source, &request(&source, &["*.mlp.*"], scheme, format, out.clone())).expect("saves");
    let group =
        &json_of(out.join("config.json"))["quantization_config"]["config_groups"]["group_0"];
    assert_eq!(group["weights"]["strategy"], "channel");
}

/// Verification compares every stored byte of a quantized tensor.
#[test]
fn any_flipped_byte_is_found() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SINGLE);
    for (k, (format, scheme)) in [
        (OutputFormat::Int8, QuantizationScheme::PER_CHANNEL),
        (OutputFormat::Int8, QuantizationScheme::PER_TENSOR),
        (OutputFormat::Int8WeightOnly, QuantizationScheme::per_block(64)),
    ]
    .into_iter()
    .enumerate()
    {
        let out = directory.path().join(format!("{k}"));
        let asked = request(&source, &["*.0.mlp.*"], Some(scheme), format, out.clone());
        run(&source, &asked).expect("saves");
        let file = out.join("model.safetensors");
        let whole = std::fs::read(&file).expect("reads");
        let parts: Vec<_> =
            open(&out).all_stored().map(|(_, s)| (s.name.clone(), s.range.clone())).collect();
        verify::run(&open(&out), &source, None, &Progress::default()).expect("as promised");
        for (name, range) in parts {
            for at in [range.start, range.end - 1] {
                let mut flipped = whole.clone();
                flipped[at as usize] ^= 1;
                std::fs::write(&file, &flipped).expect("writes");
                let found = Checkpoint::open(&out).map_err(|e| e.to_string()).and_then(|saved| {
                    verify::run(&saved, &source, None, &Progress::default())
                        .map_err(|e| e.to_string())
                });
                let error = found.expect_err(&name);
                let module = name.split(".weight").next().expect("a module");
                assert!(error.contains(module), "{name}: {error}");
            }
        }
    }
}

#[test]
fn rounding_half_away_is_verified_again() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SINGLE);
    let out = directory.path().join("out");
    let ids = chosen(&source, &["*.mlp.*"]);
    let plan = Plan::uniform(ids, QuantizationScheme::PER_CHANNEL, Rounding::HalfAway);
    let task = Task::Quantize { plan, format: OutputFormat::Int8 };
    run(&source, &Request { task, out: out.clone(), force: false, copy: Vec::new() })
        .expect("saves");
    verify::run(&open(&out), &source, None, &Progress::default()).expect("verifies");
}

#[test]
fn limits_of_single_loaders_are_warned_about() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SINGLE);
    for (k, (patterns, scheme, warnings)) in [
        (vec!["*.q_proj.weight"], None, vec!["q_proj, k_proj, v_proj"]),
        (vec!["*.0.mlp.up_proj.weight"], None, vec!["gate_proj, up_proj"]),
        (vec!["lm_head.weight"], None, vec!["'lm_head' is the output head"]),
        (vec!["*.mlp.*"], Some(QuantizationScheme::PER_TENSOR), vec!["transformers only"]),
        (vec!["*.mlp.*", "*.self_attn.*"], None, vec![]),
    ]
    .into_iter()
    .enumerate()
    {
        let out = directory.path().join(format!("{k}"));
        let asked = request(&source, &patterns, scheme, OutputFormat::Int8, out);
        let receipt = run(&source, &asked).expect("saves");
        assert_eq!(receipt.warnings.len(), warnings.len(), "{:?}", receipt.warnings);
        for (found, part) in receipt.warnings.iter().zip(warnings) {
            assert!(found.contains(part), "{found}");
        }
    }
}

/// A model with one example of each kind of weight that is not a Linear layer.
fn assorted(config: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temp");
    let tensors: [(&str, &[u64]); 10] = [
        ("model.embed_tokens.weight", &[8, 8]),
        ("model.norm.weight", &[8]),
        ("model.bias", &[8, 8]),
        ("model.matrix", &[8, 8]),
        ("model.conv.weight", &[4, 4, 2, 2]),
        ("model.experts.gate_up_proj", &[2, 4, 8]),
        ("model.h.0.attn.c_attn.weight", &[8, 24]),
        ("model.mlp.gate.weight", &[2, 8]),
        ("model.mlp.experts.0.up.weight", &[36, 36]),
        ("model.fc.weight", &[8, 8]),
    ];
    let shapes = tensors.map(|(_, dims)| Shape::new(dims).expect("fits"));
    let listed = tensors.iter().zip(&shapes).map(|(t, s)| (t.0, &DType::F32, s, s.elements() * 4));
    let mut bytes = header_bytes(&[], listed);
    let count: u64 = shapes.iter().map(Shape::elements).sum();
    bytes.extend((0..count).flat_map(|i| (i as f32 - 50.0).to_le_bytes()));
    std::fs::write(directory.path().join("model.safetensors"), bytes).expect("writes");
    if !config.is_empty() {
        std::fs::write(directory.path().join("config.json"), config).expect("writes");
    }
    directory
}

#[test]
fn a_layer_left_out_by_default_is_saved_if_named() {
    let (name, reason) = ("model.mlp.gate.weight", "the router");
    let source = assorted(r#"{"model_type":"gpt2"}"#);
    let checkpoint = open(source.path());
    let asked = request(&checkpoint, &[name], None, OutputFormat::Int8, source.path().join("out"));
    let receipt = run(&checkpoint, &asked).expect("saves");
    let warned = |w: &String| w.contains(name) && w.contains(reason);
    assert!(receipt.warnings.iter().any(warned), "{:?}", receipt.warnings);
}

#[test]
fn tensors_that_the_format_cannot_hold_are_refused_with_a_reason() {
    let gpt2 = r#"{"model_type":"gpt2"}"#;
    let block = |n| Some(QuantizationScheme::per_block(n));
    let (int8, weights) = (OutputFormat::Int8, OutputFormat::Int8WeightOnly);
    for (config, name, format, scheme, reason) in [
        (gpt2, "model.embed_tokens.weight", int8, None, "it is an embedding"),
        (gpt2, "model.norm.weight", int8, None, "it belongs to a norm"),
        (gpt2, "model.h.0.attn.c_attn.weight", int8, None, "channels lie along axis 1"),
        (gpt2, "model.bias", int8, None, "it is a bias"),
        (gpt2, "model.matrix", int8, None, "does not end in .weight"),
        (gpt2, "model.conv.weight", int8, None, "a convolution"),
        (gpt2, "model.experts.gate_up_proj", int8, None, "several experts in one tensor"),
        (gpt2, "model.fc.weight", int8, block(8), "not per-block:8"),
        (
            gpt2,
            "model.fc.weight",
            weights,
            block(3),
            "per-block:3 does not fill words of four values",
        ),
        (gpt2, "model.fc.weight", weights, block(16), "its 8 columns are not a multiple of 16"),
        (
            gpt2,
            "model.fc.weight",
            weights,
            Some(QuantizationScheme::PER_TENSOR),
            "not one per tensor",
        ),
        ("", "model.fc.weight", int8, None, "its directory has no config.json"),
        ("{ no", "model.fc.weight", int8, None, "config.json: it is not a JSON object"),
        ("[1]", "model.fc.weight", weights, None, "config.json: it is not a JSON object"),
    ] {
        let source = assorted(config);
        let out = source.path().join("out");
        let checkpoint = open(source.path());
        let asked = request(&checkpoint, &[name], scheme, format, out.clone());
        let error = run(&checkpoint, &asked).expect_err(reason);
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(!out.exists());
    }
    let source = assorted(gpt2);
    let checkpoint = open(source.path());
    let out = source.path().join("out.safetensors");
    let asked = request(&checkpoint, &["model.fc.weight"], None, int8, out);
    let error = run(&checkpoint, &asked).expect_err("a file");
    assert!(error.contains("is a model's directory, not one file"), "{error}");
    // If no group size divides the rows, the scheme is per channel.
    let ids = chosen(&checkpoint, &["*experts.0*"]);
    assert_eq!(weights.default_scheme(&checkpoint, ids), QuantizationScheme::PER_CHANNEL);
}

/// Dequantizing an output gives plain names and the original config back.
#[test]
fn int8_is_dequantized_to_the_rounded_floats() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SHARDED);
    for format in [OutputFormat::Int8, OutputFormat::Int8WeightOnly] {
        let out = directory.path().join(format.name());
        let floats = directory.path().join(format!("{}-floats", format.name()));
        run(&source, &request(&source, &["*.layers.*"], None, format, out.clone())).expect("saves");
        let int8 = open(&out);
        let back = Request {
            task: Task::Dequantize { to: None },
            out: floats.clone(),
            force: false,
            copy: Vec::new(),
        };
        run(&int8, &back).expect("dequantizes");
        let config = |path: &Path| json_of(path.join("config.json"));
        assert_eq!(config(&floats), config(Path::new(SHARDED)));
        let (a, b) = (stored(&open(&floats)), stored(&source));
        let sorted = |mut all: Vec<(String, String)>| {
            all.sort();
            all
        };
        assert_eq!(sorted(a), sorted(b));
        let index = |path: &Path| json_of(path.join("model.safetensors.index.json"));
        assert_eq!(index(&floats), index(Path::new(SHARDED)));
        // Quantized tensors are not quantized again.
        let again =
            request(&int8, &["lm_head.weight"], None, format, directory.path().join("again"));
        let error = run(&int8, &again).expect_err("quantized");
        assert!(error.contains("dequantize the model first"), "{error}");
    }
}
