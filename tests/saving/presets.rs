//! Saving the presets of compressed-tensors: stored tensors, config groups, mixtures and
//! refusals.

use crate::support::checkpoint::{Tensor, write};
use crate::support::stdout;
use quantscope::checkpoint::Checkpoint;
use quantscope::export::{OutputFormat, Receipt, Request, Task};
use quantscope::job::{Progress, save, verify};
use quantscope::plan::{Plan, Selection};
use quantscope::quantization::{
    Calibration, Preset, QuantizationScheme, QuantizationType, Quantizer, encode_preset,
};
use quantscope::tensor::{FloatType, TensorId};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const SINGLE: &str = "tests/data/tiny-llama/single";
const SHARDED: &str = "tests/data/tiny-llama/sharded";

fn open(path: impl AsRef<Path>) -> Checkpoint {
    Checkpoint::open(path.as_ref()).expect("opens")
}

fn chosen(source: &Checkpoint, pattern: &str) -> Vec<TensorId> {
    let include = vec![pattern.to_owned()];
    Selection { include, exclude: vec![] }.resolve(source).expect("selects")
}

fn quantizer(preset: Preset) -> Quantizer {
    Quantizer { calibration: Calibration::MinMax, scheme: QuantizationScheme::Preset(preset) }
}

/// A plan with a preset for each pattern.
fn plan(source: &Checkpoint, presets: &[(&str, Preset)]) -> Plan {
    let mut plan = Plan::default();
    for (pattern, preset) in presets {
        for id in chosen(source, pattern) {
            plan.mark(id, quantizer(*preset));
        }
    }
    plan
}

fn saved(
    source: &Checkpoint,
    presets: &[(&str, Preset)],
    format: OutputFormat,
    out: PathBuf,
    threads: usize,
) -> Result<Receipt, String> {
    let task = Task::Quantize { plan: plan(source, presets), format };
    let request = Request { task, out, force: false, copy: Vec::new() };
    let progress = Progress::default();
    save::run(source, &request, Some(threads), &progress, &|_| {}).map_err(|e| e.to_string())
}

fn quantization_config(out: &Path) -> Value {
    let text = std::fs::read(out.join("config.json")).expect("reads");
    let config: Value = serde_json::from_slice(&text).expect("json");
    config["quantization_config"].clone()
}

fn elements(checkpoint: &Checkpoint, name: &str) -> (FloatType, Vec<u8>) {
    let id = checkpoint.find(name).expect(name);
    let mut reader = checkpoint.reader();
    let found = reader.elements(id, 0..checkpoint.tensor(id).parameters());
    let (dtype, bytes) = found.expect("reads").expect("has floats");
    (dtype, bytes.to_vec())
}

fn stored(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let found = checkpoint.all_stored().find(|(_, stored)| stored.name == name);
    let (id, stored) = found.unwrap_or_else(|| panic!("{name}"));
    checkpoint.reader().stored(id, 0..stored.bytes()).expect("reads").to_vec()
}

fn absmax(bytes: &[u8]) -> f64 {
    let values = bytes.as_chunks::<2>().0.iter().map(|raw| half::bf16::from_le_bytes(*raw));
    values.map(|x| f64::from(x).abs()).fold(0.0, f64::max)
}

#[test]
fn each_preset_is_stored_as_compressed_tensors_stores_it() {
    let directory = tempfile::tempdir().expect("temp");
    for preset in Preset::ALL {
        // Both ways to store a model are laid out alike.
        let source = open(if preset == Preset::W4A16Asym(128) { SHARDED } else { SINGLE });
        let out = directory.path().join(format!("{preset}-{}", source.shards().len()));
        let presets = [("*proj.weight", preset)];
        let receipt = saved(&source, &presets, OutputFormat::Presets, out.clone(), 2);
        let receipt = receipt.expect("saves");
        assert_eq!(receipt.quantized.len(), 14, "{preset}");
        let written = open(&out);
        for name in
            ["model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.o_proj.weight"]
        {
            let id = source.find(name).expect(name);
            let shape = &source.tensor(id).shape;
            let (dtype, bytes) = elements(&source, name);
            let parts = encode_preset(preset, dtype, shape, &bytes, None).expect("finite");
            for (part, expected) in parts {
                let part_name = format!("{name}{}", part.suffix);
                assert!(stored(&written, &part_name) == expected, "{preset} {part_name}");
            }
        }
        let config = quantization_config(&out);
        assert_eq!(config["format"], preset.format());
        assert_eq!(config["dequantize"], true);
        assert_eq!(config["config_groups"]["group_0"]["format"], preset.format());
        assert_eq!(config["config_groups"].as_object().expect("groups").len(), 1);

        let verified = verify::run(&written, &source, Some(2), &Progress::default());
        let verified = verified.expect("is what the source gives");
        let errors: Vec<_> = verified.tensors.iter().filter_map(|tensor| tensor.error).collect();
        assert_eq!(errors.len(), 14);
        for error in errors {
            let db = error.statistics().sqnr_db;
            let most =
                if preset.quantization_type() == QuantizationType::QInt8 { 50.0 } else { 45.0 };
            assert!((15.0..most).contains(&db), "{preset}: {db} dB");
        }

        let again = directory.path().join(format!("{preset}-{}-again", source.shards().len()));
        saved(&source, &presets, OutputFormat::Presets, again.clone(), 1).expect("saves");
        for shard in written.shards() {
            let bytes = |out: &Path| std::fs::read(out.join(shard.name())).expect("reads");
            assert!(bytes(&out) == bytes(&again), "{preset}: one thread and two differ");
        }
    }
}

/// The type in config.json may be absent, or be that of other tensors.
#[test]
fn the_type_in_the_configuration_need_not_be_that_of_the_weights() {
    let directory = tempfile::tempdir().expect("temp");
    let name = "model.layers.0.mlp.up_proj.weight";
    for dtype in ["BF16", "F16", "F32"] {
        for configured in [None, Some("bfloat16"), Some("float16"), Some("float32")] {
            let model = directory.path().join(format!("{dtype}-{}", configured.unwrap_or("none")));
            std::fs::create_dir_all(&model).expect("creates");
            let x = (0..64 * 256u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 * 1e-9);
            let bytes = match dtype {
                "BF16" => x.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
                "F16" => x.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
                _ => x.flat_map(f32::to_le_bytes).collect::<Vec<u8>>(),
            };
            let weight = Tensor { name: name.to_owned(), dtype, shape: vec![64, 256], bytes };
            write(&model.join("model.safetensors"), &[weight], &[]);
            let mut config = json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"]});
            if let Some(configured) = configured {
                config["dtype"] = configured.into();
            }
            std::fs::write(model.join("config.json"), config.to_string()).expect("writes");
            for preset in Preset::ALL {
                let out = model.with_extension(preset.to_string().replace('/', "-"));
                let presets = [("*.weight", preset)];
                let saved = saved(&open(&model), &presets, OutputFormat::Presets, out, 2);
                let saved =
                    saved.unwrap_or_else(|e| panic!("{dtype} {configured:?} {preset}: {e}"));
                assert_eq!(saved.quantized.len(), 1, "{dtype} {configured:?} {preset}");
            }
        }
    }
}

#[test]
fn a_changed_byte_of_any_part_is_found() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SINGLE);
    for preset in [Preset::W4A16Asym(64), Preset::Nvfp4A16] {
        let out = directory.path().join(preset.name());
        let presets = [("*.0.mlp.*", preset)];
        saved(&source, &presets, OutputFormat::Presets, out.clone(), 2).expect("saves");
        let file = out.join("model.safetensors");
        let bytes = std::fs::read(&file).expect("reads");
        let written = open(&out);
        let parts: Vec<(String, u64)> = written
            .all_stored()
            .filter(|(_, stored)| stored.name.starts_with("model.layers.0.mlp.up_proj.weight"))
            .map(|(_, stored)| (stored.name.to_string(), stored.range.start))
            .collect();
        assert_eq!(parts.len(), if preset == Preset::Nvfp4A16 { 3 } else { 4 });
        for (name, start) in parts {
            let mut changed = bytes.clone();
            changed[start as usize] ^= 1;
            std::fs::write(&file, changed).expect("writes");
            // A shape that does not fit the values is reported when the model is opened.
            let found = Checkpoint::open(&out).map_err(|e| e.to_string()).and_then(|written| {
                let found = verify::run(&written, &source, Some(2), &Progress::default());
                found.map_err(|e| e.to_string())
            });
            assert!(found.is_err(), "{name}");
        }
    }
}

#[test]
fn merged_layers_share_the_global_scale_of_nvfp4() {
    let directory = tempfile::tempdir().expect("temp");
    let (source, out) = (open(SHARDED), directory.path().join("out"));
    let presets = [("*proj.weight", Preset::Nvfp4A16)];
    saved(&source, &presets, OutputFormat::Presets, out.clone(), 2).expect("saves");
    let written = open(&out);
    for unit in [["q_proj", "k_proj", "v_proj"].as_slice(), &["gate_proj", "up_proj"], &["o_proj"]]
    {
        let part =
            if unit[0].ends_with('p') || unit[0] == "gate_proj" { "mlp" } else { "self_attn" };
        let names = unit.iter().map(|layer| format!("model.layers.0.{part}.{layer}.weight"));
        let names: Vec<String> = names.collect();
        let largest = names.iter().map(|name| absmax(&elements(&source, name).1));
        let largest = largest.fold(0.0, f64::max);
        for name in &names {
            let (dtype, bytes) = elements(&source, name);
            let shape = &source.tensor(source.find(name).expect(name)).shape;
            let parts = encode_preset(Preset::Nvfp4A16, dtype, shape, &bytes, Some(largest));
            for (part, expected) in parts.expect("finite") {
                let part_name = format!("{name}{}", part.suffix);
                assert!(stored(&written, &part_name) == expected, "{part_name}");
            }
        }
    }
}

#[test]
fn a_mixture_has_a_group_for_each_preset() {
    let directory = tempfile::tempdir().expect("temp");
    let (source, out) = (open(SINGLE), directory.path().join("out"));
    let presets = [
        ("*.self_attn.*", Preset::Fp8Dynamic),
        ("*.mlp.gate_proj.weight", Preset::W4A16(64)),
        ("*.mlp.up_proj.weight", Preset::W4A16(64)),
        ("*.0.mlp.down_proj.weight", Preset::Nvfp4A16),
    ];
    let receipt = saved(&source, &presets, OutputFormat::Presets, out.clone(), 2).expect("saves");
    assert_eq!(receipt.quantized.len(), 13);
    let config = quantization_config(&out);
    assert_eq!(config["format"], "mixed-precision");
    assert_eq!(config.get("dequantize"), None);
    let groups = config["config_groups"].as_object().expect("groups");
    let formats: Vec<_> = groups.values().map(|group| group["format"].as_str()).collect();
    assert_eq!(
        formats,
        [Some("pack-quantized"), Some("float-quantized"), Some("nvfp4-pack-quantized")]
    );
    assert_eq!(groups["group_0"]["weights"]["group_size"], 64);
    assert_eq!(groups["group_2"]["targets"][0], r"re:(.*\.)?layers\.0\.mlp\.down_proj$");
    let written = open(&out);
    verify::run(&written, &source, Some(2), &Progress::default()).expect("is as planned");
}

#[test]
fn fake_quantized_floats_are_those_of_the_stored_preset() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SINGLE);
    for preset in Preset::ALL {
        let presets = [("*proj.weight", preset)];
        let path = |kind: &str| directory.path().join(format!("{preset}-{kind}"));
        saved(&source, &presets, OutputFormat::Presets, path("packed"), 2).expect("saves");
        saved(&source, &presets, OutputFormat::FakeQuantized, path("fake"), 2).expect("saves");
        let request = Request {
            task: Task::Dequantize { to: None },
            out: path("floats"),
            force: false,
            copy: Vec::new(),
        };
        let packed = open(path("packed"));
        save::run(&packed, &request, Some(2), &Progress::default(), &|_| {}).expect("saves");
        let (floats, fake) = (open(path("floats")), open(path("fake")));
        for id in source.ids() {
            let name = &source.tensor(id).name;
            assert!(elements(&floats, name) == elements(&fake, name), "{preset} {name}");
        }
        verify::run(&fake, &source, Some(2), &Progress::default()).expect("is as planned");
    }
}

#[test]
fn what_would_not_load_is_refused() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SINGLE);
    let refused = |presets: &[(&str, Preset)], format| {
        let out = directory.path().join("out");
        saved(&source, presets, format, out, 2).expect_err("is refused")
    };
    let wide = refused(&[("*.mlp.*", Preset::W4A16(192))], OutputFormat::Presets);
    assert!(wide.contains("groups of 192 do not divide its"), "{wide}");
    let split = [
        ("*.self_attn.q_proj.weight", Preset::W4A16(128)),
        ("*.self_attn.k_proj.weight", Preset::Fp8Dynamic),
        ("*.self_attn.v_proj.weight", Preset::Fp8Dynamic),
    ];
    let split = refused(&split, OutputFormat::Presets);
    assert!(split.contains("give them one scheme"), "{split}");
    for format in [OutputFormat::Safetensors, OutputFormat::Int8, OutputFormat::Int8WeightOnly] {
        let other = refused(&[("*.mlp.*", Preset::W4A16(128))], format);
        assert!(other.contains("W4A16"), "{other}");
    }
}

/// The bytes of the weights of an output.
fn weights(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("model.safetensors")).expect("reads")
}

#[test]
fn recipes_and_reports_keep_presets_and_mixtures() {
    let directory = tempfile::tempdir().expect("temp");
    let path = |name: &str| directory.path().join(name);
    let text = |path: PathBuf| path.to_str().expect("text").to_owned();
    let mixture = ["--schemes", "W4A16:64,FP8_DYNAMIC,W8A8", "--max-bytes", "9bpw"];
    let uniform = ["--scheme", "NVFP4A16"];
    let int8 = ["--scheme", "W8A16:64/127.5"];
    for (name, options) in [("mixture", &mixture[..]), ("uniform", &uniform), ("int8", &int8)] {
        let recipe = text(path(&format!("{name}.toml")));
        let (out, again) = (path(name), path(&format!("{name}-again")));
        let first = ["quantize", SINGLE, "-o", &text(out.clone()), "--write-recipe", &recipe];
        stdout(&[&first[..], options].concat());
        stdout(&["quantize", SINGLE, "-o", &text(again.clone()), "--recipe", &recipe]);
        assert!(weights(&out) == weights(&again), "{name}");
        assert_eq!(quantization_config(&out), quantization_config(&again), "{name}");
        stdout(&["verify", &text(out.clone()), "--against", SINGLE]);
        let plan = std::fs::read_to_string(&recipe).expect("reads");
        let report = path(&format!("{name}.json"));
        stdout(&["report", SINGLE, "-o", &text(report.clone()), "--recipe", &recipe]);
        let report = std::fs::read_to_string(report).expect("reads");
        let schemes = plan.lines().filter_map(|line| line.strip_prefix("scheme = \""));
        let schemes: Vec<&str> = schemes.map(|scheme| scheme.trim_end_matches('"')).collect();
        // The last is that of the target.
        assert_eq!(schemes.last(), Some(&"presets"), "{plan}");
        assert_eq!(schemes.len() > 2, name == "mixture", "{plan}");
        for scheme in schemes.split_last().expect("some").1 {
            assert!(report.contains(&format!("\"{scheme}\"")), "{name}: {scheme}");
        }
    }
}

#[test]
fn a_dry_run_predicts_what_is_saved() {
    let directory = tempfile::tempdir().expect("temp");
    let out = directory.path().join("out").to_str().expect("text").to_owned();
    for scheme in ["NVFP4A16", "W4A16_ASYM", "W8A8/127.5"] {
        let figures = |options: &[&str]| {
            let first = ["quantize", SHARDED, "-o", &out, "--scheme", scheme, "--json", "--force"];
            let text = stdout(&[&first[..], options].concat());
            let receipt: Value = serde_json::from_str(&text).expect("JSON");
            receipt["quantized"].clone()
        };
        let sorted = |figures: Value| {
            let mut all = figures.as_array().expect("a list").clone();
            all.sort_by_key(|one| one["name"].to_string());
            all
        };
        let (predicted, saved) = (sorted(figures(&["--dry-run"])), sorted(figures(&[])));
        assert_eq!(predicted.len(), 14);
        for (predicted, saved) in predicted.iter().zip(&saved) {
            assert_eq!(predicted["name"], saved["name"]);
            let db = |one: &Value| one["sqnr_db"].as_f64().expect("a figure");
            assert!((db(predicted) - db(saved)).abs() < 1e-6, "{scheme} {}", saved["name"]);
        }
    }
}
