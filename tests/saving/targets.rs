//! Plans for a loader: tensors that stay float, refusals before anything is written, and
//! previews that equal the receipt.

use crate::support::checkpoint::{Tensor, f32s, weights, write};
use crate::support::{data, failure, json, stdout};
use quantscope::checkpoint::Checkpoint;
use quantscope::tensor::{FloatType, write_f64};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::{TempDir, tempdir};

/// A copy of a model in `tests/data/saving`.
pub(crate) struct Model {
    directory: TempDir,
}

impl Model {
    /// Copies the model, edits its configuration, adds tensors, and fills all of them with values.
    fn with(case: &str, edit: impl FnOnce(&mut Value), more: &[(&str, [u64; 2])]) -> Model {
        let read = |name: &str| {
            let path = format!("{}/{name}", data(&format!("saving/{case}")));
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
            serde_json::from_str::<Value>(&text).expect("JSON")
        };
        let mut config = read("config.json");
        edit(&mut config);
        let shapes: BTreeMap<String, Vec<u64>> =
            serde_json::from_value(read("tensors.json")).expect("shapes");
        let mut tensors: Vec<Tensor> =
            shapes.iter().map(|(name, shape)| weights(name, shape)).collect();
        tensors.extend(more.iter().map(|(name, shape)| weights(name, shape)));
        Model::of(&tensors, &config)
    }

    pub(crate) fn named(case: &str) -> Model {
        Model::with(case, |_| {}, &[])
    }

    fn of(tensors: &[Tensor], config: &Value) -> Model {
        let directory = tempdir().expect("a directory");
        let source = directory.path().join("source");
        std::fs::create_dir(&source).expect("own directory");
        write(&source.join("model.safetensors"), tensors, &[("format", "pt")]);
        std::fs::write(source.join("config.json"), config.to_string()).expect("own directory");
        Model { directory }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("text").to_owned()
    }

    /// The document of a dry run.
    fn planned(&self, options: &[&str]) -> Value {
        let (source, out) = (self.path("source"), self.path("out"));
        json(&[&["quantize", &source, "-o", &out, "--dry-run"], options].concat())
    }

    /// The receipt of a save.
    fn saved(&self, options: &[&str]) -> Value {
        let (source, out) = (self.path("source"), self.path("out"));
        json(&[&["quantize", &source, "-o", &out, "--force"], options].concat())
    }

    /// The error of a refused save, which must leave no files.
    fn refused(&self, options: &[&str]) -> String {
        let (source, out) = (self.path("source"), self.path("refused"));
        let (code, sentence) = failure(&[&["quantize", &source, "-o", &out], options].concat());
        assert_eq!(code, 1, "{sentence}");
        assert!(!Path::new(&out).exists(), "{sentence}");
        sentence
    }
}

fn names(receipt: &Value) -> Vec<String> {
    let quantized = receipt["quantized"].as_array().expect("a list");
    quantized.iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
}

fn warnings(receipt: &Value) -> Vec<&str> {
    let warnings = receipt["warnings"].as_array().expect("a list");
    warnings.iter().map(|warning| warning.as_str().expect("a sentence")).collect()
}

#[track_caller]
fn assert_says(sentence: &str, parts: &[&str]) {
    for part in parts {
        assert!(sentence.contains(part), "'{part}' is not in: {sentence}");
    }
}

#[track_caller]
fn assert_warned(receipt: &Value, parts: &[&str]) {
    let warnings = warnings(receipt);
    let printed = warnings.iter().any(|warning| parts.iter().all(|part| warning.contains(part)));
    assert!(printed, "{parts:?} is not in: {warnings:?}");
}

const TRANSFORMERS: [&str; 2] = ["--for", "transformers"];

fn for_transformers(scheme: &str) -> [&str; 4] {
    ["--for", "transformers", "--scheme", scheme]
}

#[test]
fn an_architecture_that_does_not_load_quantized_is_refused() {
    let dinov2 = Model::named("not-loadable/dinov2");
    for scheme in ["W8A8", "W8A16"] {
        let sentence = dinov2.refused(&for_transformers(scheme));
        assert_says(&sentence, &["transformers 5.24", "'dinov2'", "use --format fake-quantized"]);
        let receipt = dinov2.planned(&["--scheme", scheme]);
        assert_warned(&receipt, &["transformers 5.24", "'dinov2'"]);
    }
    // The alternative that the error suggests works.
    dinov2.planned(&[&TRANSFORMERS[..], &["--format", "fake-quantized"]].concat());
    // The refused architecture may be nested.
    let backbone = |config: &mut Value| {
        let dinov2 = config.take();
        *config = serde_json::json!({"model_type": "zoedepth", "backbone_config": dinov2});
    };
    let nested = Model::with("not-loadable/dinov2", backbone, &[]);
    assert_says(&nested.refused(&TRANSFORMERS), &["'dinov2'"]);
    let llama4 = Model::named("not-loadable/llama4");
    assert_says(&llama4.refused(&TRANSFORMERS), &["Llama 4 random", "fake-quantized"]);
}

#[test]
fn merged_experts_are_saved_whole_and_weight_only() {
    for name in ["mixtral", "olmoe"] {
        let model = Model::named(&format!("moe-int8-experts/{name}"));
        let sentence = model.refused(&for_transformers("W8A8"));
        assert_says(&sentence, &["W8A8", "experts.0", "use --scheme W8A16"]);
        for scheme in ["W8A8", "W8A16"] {
            let float = [&for_transformers(scheme)[..], &["--exclude", "*experts*"]].concat();
            assert_says(&model.refused(&float), &["experts", "W8A16"]);
        }
        let one = [&for_transformers("W8A16")[..], &["--exclude", "*layers.1.*experts.1.*"]];
        assert_says(&model.refused(&one.concat()), &["experts.1.", "quantize all experts"]);
        model.planned(&for_transformers("W8A16"));
        let receipt = model.planned(&["--scheme", "W8A8"]);
        assert_warned(&receipt, &["transformers 5.24", "W8A8", "experts.0"]);
    }
}

/// transformers loads experts in NVFP4 without an error, but with wrong values.
#[test]
fn experts_are_not_saved_in_nvfp4() {
    let model = Model::named("moe-int8-experts/mixtral");
    for target in [&["--format", "compressed-tensors"], &["--for", "vllm"]] {
        let nvfp4 = [&target[..], &["--scheme", "NVFP4A16"]].concat();
        assert_says(&model.refused(&nvfp4), &["experts.0", "NVFP4", "wrong values"]);
        let int4 = [&target[..], &["--scheme", "W4A16:64"]].concat();
        assert!(names(&model.planned(&int4)).iter().any(|name| name.contains("experts.0")));
    }
    let float = ["--scheme", "NVFP4A16", "--exclude", "*experts*"];
    assert!(!names(&model.saved(&float)).is_empty());
}

/// transformers does not merge the experts of this architecture.
#[test]
fn experts_that_are_not_merged_load_with_either_scheme() {
    let model = Model::named("moe-int8-experts/nllb-moe");
    for scheme in ["W8A8", "W8A16"] {
        let receipt = model.planned(&for_transformers(scheme));
        assert!(names(&receipt).iter().any(|name| name.contains("expert_0")), "{receipt}");
        let float = [&for_transformers(scheme)[..], &["--exclude", "*experts*"]].concat();
        model.planned(&float);
    }
}

#[test]
fn routers_stay_float_wherever_they_lie() {
    for name in ["granitemoe", "granitemoe-hybrid", "hunyuan-moe", "longcat-flash", "qwen2-moe"] {
        let model = Model::named(&format!("nested-router/{name}"));
        for options in [&for_transformers("W8A16")[..], &["--scheme", "W8A8"]] {
            let receipt = model.planned(options);
            let routers = ["router", ".gate.", "shared_expert_gate"];
            let is_router = |name: &&String| routers.iter().any(|part| name.contains(part));
            assert_eq!(names(&receipt).iter().find(is_router), None, "{name}");
            assert_warned(&receipt, &["left as", "the router of a mixture of experts"]);
        }
    }
}

#[test]
fn lookup_tables_stay_float_by_any_name() {
    for (name, tables) in [
        ("ctrl", &["transformer.w.weight"][..]),
        ("sam", &["mask_decoder.iou_token.weight", "mask_decoder.mask_tokens.weight"]),
        ("bark", &["input_embeds_layer.weight", "position_embeds_layer.weight"]),
    ] {
        let model = Model::named(&format!("lookup-tables/{name}"));
        for scheme in ["W8A8", "W8A16"] {
            for options in [&for_transformers(scheme)[..], &["--scheme", scheme]] {
                let receipt = model.planned(options);
                assert!(!names(&receipt).is_empty());
                for table in tables {
                    assert!(!names(&receipt).contains(&(*table).to_owned()), "{name}: {table}");
                }
                assert_warned(&receipt, &["left as", "it is an embedding"]);
            }
        }
    }
}

#[test]
fn a_tied_head_stays_float_also_where_it_is_stored() {
    for (name, head, shape) in [
        ("llama-tied", "lm_head.weight", [128, 64]),
        ("gemma3", "lm_head.weight", [128, 64]),
        ("bert", "cls.predictions.decoder.weight", [128, 64]),
    ] {
        for absent in [false, true] {
            // Llama does not tie the head by default.
            if absent && name == "llama-tied" {
                continue;
            }
            let edit = |config: &mut Value| {
                let config = config.as_object_mut().expect("an object");
                config.remove("tie_word_embeddings").filter(|_| absent);
                if !absent {
                    config.insert("tie_word_embeddings".into(), true.into());
                }
            };
            let model = Model::with(&format!("tied-head-stored/{name}"), edit, &[(head, shape)]);
            for scheme in ["W8A8", "W8A16"] {
                let receipt = model.planned(&for_transformers(scheme));
                assert!(!names(&receipt).contains(&head.to_owned()), "{name}");
                assert_warned(&receipt, &[head, "tied to the embedding"]);
                let named = [&for_transformers(scheme)[..], &["--include", head]].concat();
                assert_says(&model.refused(&named), &[head, "tied to the embedding"]);
            }
        }
    }
}

#[test]
fn what_transformers_splits_while_loading_stays_float() {
    let tensors = [
        weights("encoder.layers.0.attn.Wqkv.weight", &[192, 64]),
        weights("encoder.layers.0.mlp.fc11.weight", &[64, 64]),
    ];
    let model = Model::of(&tensors, &serde_json::json!({"model_type": "nomic_bert"}));
    let receipt = model.planned(&TRANSFORMERS);
    assert_eq!(names(&receipt), ["encoder.layers.0.mlp.fc11.weight"]);
    assert_warned(&receipt, &["Wqkv", "does not find its scale"]);
    let named = [&TRANSFORMERS[..], &["--include", "encoder.layers.0.attn.Wqkv.weight"]].concat();
    assert_says(&model.refused(&named), &["transformers 5.24", "Wqkv", "leave it out"]);
    // In another architecture the same name is a plain Linear layer.
    let model = Model::of(&tensors, &serde_json::json!({"model_type": "modernbert"}));
    assert_eq!(names(&model.planned(&TRANSFORMERS)).len(), 2);
}

#[test]
fn a_unit_that_a_loader_merges_is_not_split() {
    let llama = data("tiny-llama/single");
    let directory = tempdir().expect("a directory");
    let out = directory.path().join("out");
    let out = out.to_str().expect("text");
    let save = ["quantize", &llama, "-o", out, "--for", "vllm"];
    let (_, sentence) = failure(&[&save[..], &["--include", "*.q_proj.weight"]].concat());
    assert_says(
        &sentence,
        &["vLLM 0.32 joins q_proj, k_proj, v_proj", "float: k_proj, v_proj", "quantize the rest"],
    );
    let whole = ["--include", "*.[qkv]_proj.weight"];
    assert_eq!(names(&json(&[&save[..], &whole].concat())).len(), 6);
}

/// The tensor of a unit with the lowest SQNR decides for the whole unit.
/// What vLLM merges beside q/k/v and gate/up. Its version 0.32 has these names; the first Qwen is
/// opened by versions up to 0.23.
#[test]
fn layers_that_vllm_merges_under_other_names_are_not_split() {
    for (model_type, merged, others) in [
        (
            "qwen",
            &["transformer.h.0.mlp.w1", "transformer.h.0.mlp.w2"][..],
            "transformer.h.0.mlp.c_proj",
        ),
        (
            "llama",
            &["layers.0.feed_forward.w1", "layers.0.feed_forward.w3"],
            "layers.0.feed_forward.w2",
        ),
        (
            "qwen3_5_text",
            &["model.layers.0.linear_attn.in_proj_qkv", "model.layers.0.linear_attn.in_proj_z"],
            "model.layers.0.mlp.down_proj",
        ),
        (
            "qwen3_5_text",
            &["model.layers.0.linear_attn.in_proj_b", "model.layers.0.linear_attn.in_proj_a"],
            "model.layers.0.mlp.down_proj",
        ),
        (
            "exaone",
            &["transformer.h.0.mlp.c_fc_0", "transformer.h.0.mlp.c_fc_1"],
            "transformer.h.0.mlp.c_proj",
        ),
    ] {
        let all = merged.iter().chain([&others]).map(|module| format!("{module}.weight"));
        let tensors: Vec<Tensor> = all.map(|name| weights(&name, &[64, 64])).collect();
        let model = Model::of(&tensors, &serde_json::json!({"model_type": model_type}));
        let vllm = ["--for", "vllm", "--scheme", "W8A8"];
        let one = format!("{}.weight", merged[0]);
        let sentence = model.refused(&[&vllm[..], &["--include", &one]].concat());
        assert_says(&sentence, &["vLLM 0.32", "into one layer"]);
        let other = format!("{others}.weight");
        let receipt = model.planned(&[&vllm[..], &["--include", &other]].concat());
        assert_eq!(names(&receipt), [other]);
    }
}

#[test]
fn a_unit_keeps_a_ratio_as_a_whole() {
    let layer = |name: &str| format!("model.layers.0.{name}_proj.weight");
    let outliers = (0..64 * 64).map(|i| if i % 64 == 0 { 9.0 } else { (i as f32).sin() * 0.1 });
    let tensors = [
        weights(&layer("self_attn.q"), &[64, 64]),
        f32s(&layer("self_attn.k"), &[64, 64], outliers),
        weights(&layer("self_attn.v"), &[64, 64]),
        weights(&layer("self_attn.o"), &[64, 64]),
    ];
    let model = Model::of(&tensors, &serde_json::json!({"model_type": "llama"}));
    let kept =
        |options: &[&str]| names(&model.planned(&[&["--min-sqnr", "40dB"], options].concat()));
    assert_eq!(kept(&["--for", "vllm"]), [layer("self_attn.o")]);
    // Plain safetensors has no fusion units.
    assert_eq!(kept(&["--scheme", "per-channel"]).len(), 3);
}

#[test]
fn attention_of_bert_is_found_by_vllm_too() {
    let model = Model::named("tied-head-stored/bert");
    let receipt = model.saved(&["--for", "vllm"]);
    assert_warned(&receipt, &["vLLM 0.32", "--dtype bfloat16"]);
    let config = std::fs::read(format!("{}/config.json", model.path("out"))).expect("written");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    let targets = &config["quantization_config"]["config_groups"]["group_0"]["targets"];
    for layer in ["query", "key", "value"] {
        for parent in ["self", "output"] {
            let path = format!(r"re:(.*\.)?encoder\.layer\.\d+\.attention\.{parent}\.{layer}$");
            assert!(targets.as_array().expect("a list").contains(&path.into()), "{targets}");
        }
    }
}

#[test]
fn a_budget_has_units() {
    let (llama, directory) = (data("tiny-llama/single"), tempdir().expect("a directory"));
    let out = directory.path().join("out.safetensors");
    let save = |options: &[&str]| {
        let out = out.to_str().expect("text");
        [&["quantize", &llama, "-o", out, "--force"], options].concat().join("\n")
    };
    let args = |joined: &str| joined.lines().map(str::to_owned).collect::<Vec<_>>();
    let receipt = |options: &[&str]| {
        let all = args(&save(options));
        json(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let sentence = |options: &[&str]| {
        let all = args(&save(options));
        failure(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let before = receipt(&["--max-bytes", "70%"])["bytes_before"].as_f64().expect("a number");
    for (size, limit) in [("500kB", 500e3), ("0.4MiB", 419_430.4), ("70%", before * 0.7)] {
        let written = receipt(&["--max-bytes", size])["bytes_written"].as_f64().expect("a number");
        assert!(written < limit * 1.02 && written > limit * 0.8, "{size}: {written}");
    }
    let (code, printed) = sentence(&["--max-bytes", "10GB"]);
    assert!(code == 1 && printed.contains("722 kB, which is within 10.0 GB already"), "{printed}");
    let (code, printed) = sentence(&["--max-bytes", "1kB"]);
    assert!(
        code == 1 && printed.contains("no choice of schemes brings it to 1.00 kB"),
        "{printed}"
    );
    let (code, printed) = sentence(&["--min-sqnr", "400dB"]);
    assert!(code == 1 && printed.contains("no scheme keeps 400 dB in any tensor"), "{printed}");
    for (option, value) in [("--max-bytes", "40dB"), ("--min-sqnr", "60MB")] {
        let (code, printed) = sentence(&[option, value]);
        assert!(code == 2 && printed.contains("expected"), "{printed}");
    }
}

/// Compares figures up to the rounding of sums.
#[track_caller]
fn same(predicted: &Value, found: &Value) {
    match (predicted, found) {
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.len(), b.len(), "{predicted} {found}");
            a.iter().for_each(|(key, value)| same(value, &b[key]));
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{predicted} {found}");
            a.iter().zip(b).for_each(|(a, b)| same(a, b));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().expect("finite"), b.as_f64().expect("finite"));
            assert!((a - b).abs() <= 1e-6 * b.abs(), "{a} {b}");
        }
        (a, b) => assert_eq!(a, b),
    }
}

fn f16s(name: &str, shape: &[u64], scale: f32) -> Tensor {
    let of_f32 = weights(name, shape);
    let values = of_f32.bytes.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw));
    let bytes = values.flat_map(|x| half::f16::from_f32(x * scale).to_le_bytes()).collect();
    Tensor { dtype: "F16", bytes, ..of_f32 }
}

/// Scales of small F16 weights lose precision when stored in F16, and the preview must include
/// this.
#[test]
fn predicted_figures_equal_the_receipt() {
    let layer = |number: u32, last: &str| format!("model.layers.{number}.mlp.{last}.weight");
    let tensors: Vec<Tensor> = [(0, 1.0), (1, 1e-4), (2, 3e-5)]
        .into_iter()
        .flat_map(|(number, scale)| {
            let up = f16s(&layer(number, "up_proj"), &[96, 128], scale);
            let down = f32s(&layer(number, "down_proj"), &[64, 96], {
                (0..64 * 96).map(move |i| (i as f32 * 0.37).sin() * scale)
            });
            [up, f16s(&layer(number, "gate_proj"), &[96, 128], scale * 0.3), down]
        })
        .collect();
    let model = Model::of(&tensors, &serde_json::json!({"model_type": "llama"}));
    let (source, out) = (model.path("source"), model.path("out"));
    for options in [
        &["--scheme", "per-tensor"][..],
        &["--scheme", "per-channel", "--calibration", "mse"],
        &["--scheme", "per-block:32"],
        &["--format", "fake-quantized", "--scheme", "per-channel"],
        &["--format", "compressed-tensors", "--scheme", "per-tensor"],
        &["--for", "vllm"],
        &["--for", "transformers", "--scheme", "W8A16"],
        &["--for", "transformers", "--calibration", "percentile:99"],
        &["--for", "vllm", "--min-sqnr", "30dB"],
    ] {
        let quantize = [&["quantize", &source, "-o", &out], options].concat();
        let mut predicted = json(&[&quantize[..], &["--dry-run"]].concat());
        assert!(!Path::new(&out).exists(), "a dry run writes nothing");
        assert_eq!(predicted["dry_run"], true);
        predicted.as_object_mut().expect("an object").remove("dry_run");
        let sort = |receipt: &mut Value| {
            let list = receipt["quantized"].as_array_mut().expect("a list");
            list.sort_by_key(|one| one["name"].to_string());
        };
        let mut receipt = json(&quantize);
        receipt.as_object_mut().expect("an object").remove("check");
        [&mut predicted, &mut receipt].into_iter().for_each(sort);
        same(&predicted, &receipt);
        std::fs::remove_dir_all(&out).expect("own directory");
    }
    let least = |options: &[&str]| {
        let receipt = model.saved(&[&["--for", "vllm", "--min-sqnr"], options].concat());
        let ratios = receipt["quantized"].as_array().expect("a list").clone();
        ratios.iter().map(|one| one["sqnr_db"].as_f64().expect("a number")).fold(1e9, f64::min)
    };
    assert!(least(&["40"]) >= 40.0);
}

/// The bytes of all tensors in a saved model, as its file or directory lists them.
fn stored_bytes(out: &str) -> u64 {
    let saved = Checkpoint::open(Path::new(out)).expect("opens");
    saved.all_stored().map(|(_, stored)| stored.bytes()).sum()
}

/// A model directory of two Linear layers and their neighbours, with weights of about `size`.
fn linear_model((dtype, name): (FloatType, &'static str), size: f32) -> Model {
    let names = ["self_attn.o_proj", "mlp.down_proj"];
    let mut tensors: Vec<Tensor> = names
        .iter()
        .map(|module| weights(&format!("model.layers.0.{module}.weight"), &[96, 128]))
        .collect();
    tensors.push(weights("model.layers.0.input_layernorm.weight", &[128]));
    tensors.push(weights("model.embed_tokens.weight", &[64, 128]));
    for tensor in &mut tensors {
        let values =
            tensor.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let mut bytes = Vec::new();
        values.for_each(|value| write_f64(dtype, f64::from(value * size), &mut bytes));
        (tensor.bytes, tensor.dtype) = (bytes, name);
    }
    let config = serde_json::json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"]});
    Model::of(&tensors, &config)
}

/// Figures and sizes that `analyze` and `inspect` show for a target are those of the saved file.
fn assert_shown_is_saved(source: &str, out: &str, options: &[&str]) {
    let saved = json(&[&["quantize", source, "-o", out, "--force"], options].concat());
    let shown = json(&[&["analyze", source], options].concat());
    let listed = json(&[&["inspect", source], options].concat());
    let tensors = shown["tensors"].as_array().expect("a list");
    let quantized = saved["quantized"].as_array().expect("a list");
    assert!(!quantized.is_empty(), "{options:?}");
    let offered = tensors.iter().filter(|tensor| tensor["quantizable"] == true).count();
    assert_eq!(offered, quantized.len(), "{source} {options:?}");
    for tensor in quantized {
        let name = &tensor["name"];
        let found = tensors.iter().find(|other| other["name"] == *name).expect("there");
        let (found, on_disk) = (&found["quantization"], tensor);
        for figure in ["sqnr_db", "mse", "max_abs_error", "relative_error"] {
            let of = |value: &Value| value[figure].as_f64();
            let (Some(shown), Some(saved)) = (of(found), of(on_disk)) else {
                panic!("{figure} of {name}: {found} {on_disk}")
            };
            // Sums differ in their last digits by the order of the elements.
            let near = (shown - saved).abs() <= saved.abs() * 1e-6;
            assert!(near, "{figure} of {name} for {options:?}: shown {shown}, saved {saved}");
        }
    }
    if !options.contains(&"fake-quantized") {
        assert_eq!(listed["totals"]["bytes_quantized"], stored_bytes(out), "{source} {options:?}");
    }
    // The file that was written is compared with the source once more.
    let verified = json(&["verify", out, "--against", source]);
    let pairs = verified["quantized"].as_array().expect("a list");
    for tensor in quantized {
        let pair = pairs.iter().find(|pair| pair["name"] == tensor["name"]).expect("there");
        let (measured, saved) = (pair["sqnr_db"].as_f64(), tensor["sqnr_db"].as_f64());
        let off = measured.zip(saved).map(|(measured, saved)| (measured - saved).abs());
        assert!(off.is_some_and(|off| off < 1e-6), "{pair}");
    }
}

#[test]
fn what_is_shown_for_a_target_is_what_is_saved() {
    let targets: [&[&str]; 12] = [
        &["--format", "safetensors", "--scheme", "per-channel"],
        &["--format", "safetensors", "--scheme", "per-block:32"],
        &["--for", "vllm"],
        &["--for", "transformers", "--scheme", "W8A16"],
        &["--format", "compressed-tensors", "--scheme", "per-tensor"],
        &["--for", "mlx"],
        &["--for", "mlx", "--scheme", "per-block:32"],
        &["--for", "torchao"],
        &["--for", "torchao", "--scheme", "per-block:32"],
        &["--for", "comfyui"],
        &["--for", "burn"],
        &["--format", "fake-quantized", "--scheme", "per-channel"],
    ];
    // Scales of F16 weights this small are subnormal in F16.
    let f16 = (FloatType::F16, "F16");
    let types = [((FloatType::F32, "F32"), 1.0), ((FloatType::BF16, "BF16"), 1.0), (f16, 1e-4)];
    for (dtype, size) in types {
        let model = linear_model(dtype, size);
        for (number, options) in targets.iter().enumerate() {
            let ending = match options {
                ["--for", "burn", ..] => ".bpk",
                ["--for", "comfyui", ..] | ["--format", "safetensors", ..] => ".safetensors",
                _ => "",
            };
            assert_shown_is_saved(
                &model.path("source"),
                &model.path(&format!("{number}{ending}")),
                options,
            );
        }
    }
    let directory = tempdir().expect("a directory");
    let out = directory.path().join("out.gguf");
    let out = out.to_str().expect("text");
    for options in [&["--format", "gguf"][..], &["--for", "llama.cpp"]] {
        assert_shown_is_saved(&data("gguf/floats.gguf"), out, options);
    }
}

#[test]
fn the_type_of_scales_changes_the_figures() {
    let model = linear_model((FloatType::F16, "F16"), 1e-4);
    let source = model.path("source");
    let worst = |options: &[&str]| {
        let shown = json(&[&["analyze", &source, "--scheme", "per-channel"], options].concat());
        let tensors = shown["tensors"].as_array().expect("a list").iter();
        let quantized = tensors.filter_map(|tensor| tensor["quantization"]["sqnr_db"].as_f64());
        quantized.fold(f64::INFINITY, f64::min)
    };
    assert!(worst(&[]) > worst(&["--for", "vllm"]) + 3.0);
    let listed = stdout(&["analyze", &source, "--for", "vllm"]);
    assert!(listed.contains("no: it is an embedding"), "{listed}");
    let (code, said) = failure(&["analyze", &source, "--for", "mlx", "--scheme", "per-channel"]);
    assert!(code == 1 && said.contains("mlx does not store per-channel"), "{said}");
    let (code, said) = failure(&["inspect", &source, "--format", "gguf"]);
    assert!(code == 1 && said.contains("GGUF"), "{said}");
    let of = |options: &[&str]| {
        let name = "model.layers.0.mlp.down_proj.weight";
        json(&[&["show", &source, name, "--values", "0..4"], options].concat())["values"].clone()
    };
    assert_ne!(of(&["--scheme", "per-channel"]), of(&["--for", "vllm"]));
}

#[test]
fn columns_that_blocks_do_not_divide_are_listed_as_float() {
    let mut tensors = vec![weights("model.layers.0.self_attn.o_proj.weight", &[64, 128])];
    tensors.push(weights("model.layers.0.mlp.down_proj.weight", &[64, 100]));
    let config = serde_json::json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"]});
    let model = Model::of(&tensors, &config);
    let source = model.path("source");
    for options in [&["--for", "vllm", "--scheme", "W8A16"][..], &["--for", "mlx"]] {
        let listed = stdout(&[&["inspect", &source], options].concat());
        assert!(listed.contains("no: its 100 columns"), "{listed}");
        assert_shown_is_saved(&source, &model.path("out"), options);
    }
}

#[test]
fn architectures_whose_float_weights_are_joined_are_refused() {
    let edit = |config: &mut Value| config["model_type"] = "olmo_hybrid".into();
    let model = Model::with("not-loadable/dinov2", edit, &[]);
    let (source, out) = (model.path("source"), model.path("out"));
    let save = ["quantize", &source, "-o", &out, "--for", "transformers"];
    let (code, said) = failure(&save);
    assert!(code == 1 && said.contains("split or join weights"), "{said}");
}

#[test]
fn a_weight_file_that_the_loader_does_not_look_for_is_refused_before_writing() {
    let model = linear_model((FloatType::F32, "F32"), 1.0);
    let file = |name: &str| Path::new(&model.path("source")).join(name);
    std::fs::rename(file("model.safetensors"), file("weights.safetensors")).expect("renames");
    for options in [
        &["--for", "transformers"][..],
        &["--for", "sentence-transformers", "--scheme", "W8A16"],
        &["--for", "transformers", "--scheme", "FP8_DYNAMIC"],
        &["--for", "torchao"],
    ] {
        let said = model.refused(options);
        assert!(said.contains("opens model.safetensors") && said.contains("rename"), "{said}");
    }
    assert!(
        stdout(&["quantize", &model.path("source"), "-o", &model.path("out"), "--for", "vllm"])
            .contains("nothing found that keeps it from loading in vLLM")
    );
}

#[test]
fn biases_of_experts_stay_float_for_any_target() {
    let experts = "model.layers.0.mlp.experts";
    let tensors = [
        weights(&format!("{experts}.gate_up_proj"), &[2, 32, 64]),
        weights(&format!("{experts}.gate_up_proj_bias"), &[2, 64]),
        weights(&format!("{experts}.down_proj"), &[2, 32, 32]),
        weights(&format!("{experts}.down_proj_bias"), &[2, 32]),
        weights("model.layers.0.self_attn.o_proj.weight", &[32, 32]),
    ];
    let config = serde_json::json!({
        "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"]
    });
    let model = Model::of(&tensors, &config);
    let o_proj = "model.layers.0.self_attn.o_proj.weight".to_owned();
    let fused = ["down_proj", "gate_up_proj"].map(|name| format!("{experts}.{name}"));
    let all = fused.iter().cloned().chain([o_proj.clone()]).collect::<Vec<_>>();
    let mut planned = names(&model.planned(&["--format", "fake-quantized"]));
    planned.sort();
    assert_eq!(planned, all);
    for loader in ["vllm", "transformers", "mlx", "torchao"] {
        assert_eq!(names(&model.planned(&["--for", loader])), [o_proj.as_str()]);
    }
    let listed = stdout(&["inspect", &model.path("source")]);
    assert!(listed.contains("no: it is a bias"), "{listed}");
}
