//! Rounding with error compensation (GPTQ) and clips chosen by the output error: the outputs get
//! closer, the figures in the receipt are those of the file, and the same bytes come out again.

use crate::support::checkpoint::{f32s, write};
use crate::support::{data, failure, stdout};
use quantscope::checkpoint::Checkpoint;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::{TempDir, tempdir};

const SAMPLES: usize = 192;
const FEATURES: usize = 128;
const LAYERS: [&str; 2] = ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"];

struct Scene {
    dir: TempDir,
    model: String,
    captures: String,
    inputs: Vec<f32>,
    /// Further inputs of the same kind, which are not recorded.
    held_out: Vec<f32>,
}

/// Correlated features: mixtures of sixteen, and a little of their own.
fn inputs() -> Vec<f32> {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let mixture: Vec<f32> = (0..16 * FEATURES).map(|_| next()).collect();
    let mut inputs = Vec::new();
    for _ in 0..2 * SAMPLES {
        let sources: Vec<f32> = (0..16).map(|_| next()).collect();
        for feature in 0..FEATURES {
            let mixed = sources.iter().zip(mixture.chunks(FEATURES));
            let mixed: f32 = mixed.map(|(source, mix)| source * mix[feature]).sum();
            inputs.push(mixed + 0.1 * next());
        }
    }
    inputs
}

impl Scene {
    fn new() -> Scene {
        let (dir, mut inputs) = (tempdir().expect("temp"), inputs());
        let held_out = inputs.split_off(SAMPLES * FEATURES);
        let captures = dir.path().join("captures.safetensors");
        let of = |layer: &str| {
            let shape = [SAMPLES as u64, FEATURES as u64];
            f32s(&format!("{layer}.input"), &shape, inputs.iter().copied())
        };
        write(&captures, &LAYERS.map(of), &[]);
        let captures = captures.to_str().expect("text").to_owned();
        Scene { dir, model: data("tiny-llama/single"), captures, inputs, held_out }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("text").to_owned()
    }

    fn save(&self, out: &str, options: &[&str]) -> Value {
        let out = self.path(out);
        let scope =
            ["--include", "*.0.mlp.gate_proj.weight", "--include", "*.0.mlp.up_proj.weight"];
        let scope = if options.contains(&"--recipe") { &[][..] } else { &scope[..] };
        let first = ["quantize", &self.model, "-o", &out, "--json", "--quiet"];
        let text = stdout(&[&first[..], scope, options].concat());
        serde_json::from_str(&text).expect("JSON")
    }

    /// ‖(W−Ŵ)x‖² / ‖Wx‖² over the recorded inputs, in dB.
    fn output_error(&self, out: &str, layer: &str) -> f64 {
        self.output_error_on(&self.inputs, out, layer)
    }

    fn output_error_on(&self, inputs: &[f32], out: &str, layer: &str) -> f64 {
        let name = format!("{layer}.weight");
        let [original, written] =
            [&self.model, &self.path(out)].map(|path| floats(Path::new(path), &name));
        let (mut noise, mut signal) = (0.0, 0.0);
        for x in inputs.chunks(FEATURES) {
            for (w, q) in original.chunks(FEATURES).zip(written.chunks(FEATURES)) {
                let dot = |row: &dyn Fn(usize) -> f64| {
                    (0..FEATURES).map(|i| row(i) * f64::from(x[i])).sum::<f64>()
                };
                signal += dot(&|i| w[i]).powi(2);
                noise += dot(&|i| w[i] - q[i]).powi(2);
            }
        }
        10.0 * (noise / signal).log10()
    }

    fn weights(&self, out: &str) -> Vec<u8> {
        fs::read(Path::new(&self.path(out)).join("model.safetensors")).expect("reads")
    }
}

fn floats(path: &Path, name: &str) -> Vec<f64> {
    let checkpoint = Checkpoint::open(path).expect("opens");
    let id = checkpoint.find(name).expect(name);
    let mut reader = checkpoint.reader();
    let read = reader.elements(id, 0..checkpoint.tensor(id).parameters()).expect("reads");
    let (dtype, bytes) = read.expect("floats");
    let count = bytes.len() / dtype.size();
    let element = |at| quantscope::tensor::read_f64(dtype, bytes, at).expect("within");
    (0..count).map(element).collect()
}

#[test]
fn outputs_get_closer_and_the_receipt_says_by_how_much() {
    let scene = Scene::new();
    for scheme in ["W4A16", "W4A16_ASYM", "W4A16:32", "W8A16/127.5"] {
        let (nearest, compensated) = (format!("{scheme} nearest"), format!("{scheme} gptq"));
        let [nearest, compensated] = [nearest, compensated].map(|name| name.replace('/', "-"));
        scene.save(&nearest, &["--scheme", scheme]);
        let options =
            ["--scheme", scheme, "--error-compensation", "--activations", &scene.captures];
        let receipt = scene.save(&compensated, &options);
        let quantized = receipt["quantized"].as_array().expect("a list");
        assert_eq!(quantized.len(), LAYERS.len());
        for layer in LAYERS {
            let of_layer = |one: &&Value| one["name"] == format!("{layer}.weight");
            let said = &quantized.iter().find(of_layer).expect(layer)["output_error"];
            let said = |key: &str| said[key].as_f64().expect(key);
            let found = [&nearest, &compensated].map(|out| scene.output_error(out, layer));
            assert!(found[1] < found[0] - 1.0, "{scheme} {layer}: {found:?}");
            assert!((said("nearest_db") - found[0]).abs() < 0.1, "{scheme} {layer}: {found:?}");
            assert!((said("compensated_db") - found[1]).abs() < 0.1, "{scheme} {layer}: {found:?}");
        }
        let (out, model) = (scene.path(&compensated), &scene.model);
        stdout(&["verify", &out, "--against", model]);
    }
}

#[test]
fn searched_clips_bring_outputs_closer_on_other_inputs_too() {
    let scene = Scene::new();
    for scheme in ["W4A16", "W4A16_ASYM", "W8A16/127.5"] {
        let name = |kind: &str| format!("{scheme} {kind}").replace('/', "-");
        let [nearest, clipped, both] = ["nearest", "clipped", "both"].map(name);
        scene.save(&nearest, &["--scheme", scheme]);
        let recorded = ["--scheme", scheme, "--activations", scene.captures.as_str()];
        let clips = scene.save(&clipped, &[&recorded[..], &["--clip-search"]].concat());
        let all = ["--clip-search", "--error-compensation"];
        let all = scene.save(&both, &[&recorded[..], &all].concat());
        for layer in LAYERS {
            let figures = |receipt: &Value| {
                let of_layer = |one: &&Value| one["name"] == format!("{layer}.weight");
                let quantized = receipt["quantized"].as_array().expect("a list");
                quantized.iter().find(of_layer).expect(layer)["output_error"].clone()
            };
            let error = |out: &String| scene.output_error(out, layer);
            let (before, after) = (error(&nearest), error(&clipped));
            let close = |said: &Value, found: f64| {
                let said = said.as_f64().expect("a figure");
                assert!((said - found).abs() < 0.1, "{scheme} {layer}: {said} {found}");
            };
            let (clips, all) = (figures(&clips), figures(&all));
            close(&clips["nearest_db"], before);
            close(&clips["clipped_db"], after);
            assert_eq!(clips.get("compensated_db"), None);
            assert_eq!(all["clipped_db"], clips["clipped_db"], "{scheme} {layer}");
            close(&all["compensated_db"], error(&both));
            // int8 gains little.
            let gain = if scheme.starts_with("W8") { 0.0 } else { 1.0 };
            assert!(after < before - gain, "{scheme} {layer}: {before} {after}");
            let other = |out: &String| scene.output_error_on(&scene.held_out, out, layer);
            assert!(other(&clipped) < other(&nearest) - gain, "{scheme} {layer}");
        }
        for out in [&clipped, &both] {
            stdout(&["verify", &scene.path(out), "--against", &scene.model]);
        }
    }
}

#[test]
fn a_changed_code_of_a_clipped_tensor_is_found_without_its_inputs() {
    let scene = Scene::new();
    let options = ["--scheme", "W4A16:32", "--clip-search", "--activations", &scene.captures];
    scene.save("out", &options);
    let out = scene.path("out");
    let written = Checkpoint::open(Path::new(&out)).expect("opens");
    let intact = scene.weights("out");
    for (part, byte) in [("weight_packed", 5), ("weight_scale", 0)] {
        let name = format!("{}.{part}", LAYERS[1]);
        let (_, stored) = written.all_stored().find(|(_, s)| s.name == *name).expect("stored");
        let mut bytes = intact.clone();
        bytes[stored.range.start as usize + byte] ^= 1;
        fs::write(Path::new(&out).join("model.safetensors"), bytes).expect("writes");
        let (_, said) = failure(&["verify", &out, "--against", &scene.model]);
        assert!(said.contains("differs from the one computed from the source"), "{said}");
    }
}

#[test]
fn the_same_bytes_come_out_again() {
    let scene = Scene::new();
    let recipe = scene.path("recipe.toml");
    let gptq = ["--error-compensation", "--clip-search", "--activations", &scene.captures];
    let options = ["--scheme", "W4A16:64", "--threads", "1", "--write-recipe", &recipe];
    scene.save("one", &[&options[..], &gptq].concat());
    scene.save("three", &[&["--scheme", "W4A16:64", "--threads", "3"][..], &gptq].concat());
    assert!(scene.weights("one") == scene.weights("three"), "threads change the bytes");
    scene.save("again", &["--recipe", &recipe, "--activations", &scene.captures]);
    assert!(scene.weights("one") == scene.weights("again"), "the recipe changes the bytes");
    let (model, out) = (scene.model.as_str(), scene.path("none"));
    let (_, said) = failure(&["quantize", model, "-o", &out, "--recipe", &recipe]);
    assert!(said.contains("name the recording with --activations"), "{said}");
}

#[test]
fn a_changed_scale_of_a_compensated_tensor_is_found() {
    let scene = Scene::new();
    let options = ["--scheme", "W4A16", "--error-compensation", "--activations", &scene.captures];
    scene.save("out", &options);
    let out = scene.path("out");
    let written = Checkpoint::open(Path::new(&out)).expect("opens");
    let name = format!("{}.weight_scale", LAYERS[1]);
    let (_, scale) = written.all_stored().find(|(_, stored)| stored.name == *name).expect("stored");
    let start = scale.range.start as usize;
    let mut bytes = scene.weights("out");
    bytes[start] ^= 1;
    fs::write(Path::new(&out).join("model.safetensors"), bytes).expect("writes");
    let (_, said) = failure(&["verify", &out, "--against", &scene.model]);
    assert!(said.contains("differs from the one computed from the source"), "{said}");
}

#[test]
fn compensation_without_inputs_or_presets_is_refused() {
    let scene = Scene::new();
    let refused = |options: &[&str]| {
        let out = scene.path("refused");
        let first = ["quantize", &scene.model, "-o", &out, "--error-compensation"];
        failure(&[&first[..], options].concat()).1
    };
    let captures = ["--activations", scene.captures.as_str()];
    let said = refused(&[&["--scheme", "FP8_DYNAMIC"][..], &captures].concat());
    assert!(said.contains("--error-compensation is for --scheme W4A16"), "{said}");
    let other = ["--scheme", "W4A16", "--include", "*.1.mlp.*"];
    let said = refused(&[&other[..], &captures].concat());
    assert!(said.contains("needs recorded inputs"), "{said}");
}

/// A save writes tensors in larger chunks than those in which it compares them.
#[test]
fn a_layer_of_several_chunks_is_compared_with_what_was_written() {
    let (dir, mut inputs) = (tempdir().expect("temp"), inputs());
    inputs.truncate(SAMPLES * FEATURES);
    let path = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let (model, captures) = (path("model"), path("captures.safetensors"));
    fs::create_dir(&model).expect("a directory");
    let config = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}"#;
    fs::write(Path::new(&model).join("config.json"), config).expect("writes");
    let (name, rows) = (LAYERS[1], 2200);
    let weights = (0..rows * FEATURES).map(|i| (i as f32 * 0.7).sin());
    let weight = f32s(&format!("{name}.weight"), &[rows as u64, FEATURES as u64], weights);
    write(&Path::new(&model).join("model.safetensors"), &[weight], &[]);
    let shape = [SAMPLES as u64, FEATURES as u64];
    let input = f32s(&format!("{name}.input"), &shape, inputs.iter().copied());
    write(Path::new(&captures), &[input], &[]);
    let out = path("out");
    let save = ["quantize", &model, "-o", &out, "--quiet", "--scheme", "W4A16"];
    stdout(&[&save[..], &["--error-compensation", "--activations", &captures]].concat());
    stdout(&["verify", &out, "--against", &model]);
}
