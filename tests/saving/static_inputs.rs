//! Saving with calibrated input scales, and budgets that minimise output errors.

use crate::support::checkpoint::{Tensor, f32s, write};
use crate::support::{data, failure, stdout};
use quantscope::checkpoint::Checkpoint;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::{TempDir, tempdir};

const LAYER: &str = "model.layers.0.mlp.up_proj";

struct Saved {
    dir: TempDir,
    model: String,
    captures: String,
}

/// Saves tiny-llama with synthetic inputs of the MLP of its first layer.
fn tiny_llama() -> Saved {
    let dir = tempdir().expect("temp");
    let inputs = |module: &str, width: u64| -> Tensor {
        let values = (0..3 * width).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0);
        f32s(&format!("model.layers.0.mlp.{module}.input"), &[1, 3, width], values)
    };
    let captures = dir.path().join("captures.safetensors");
    write(&captures, &[inputs("up_proj", 128), inputs("gate_proj", 128)], &[]);
    let captures = captures.to_str().expect("text").to_owned();
    Saved { dir, model: data("tiny-llama/single"), captures }
}

impl Saved {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("text").to_owned()
    }

    fn quantize(&self, out: &str, options: &[&str]) -> String {
        let out = self.path(out);
        stdout(&[&["quantize", &self.model, "-o", &out, "--format", "int8"], options].concat());
        out
    }

    fn statically(&self, out: &str) -> String {
        let options = ["--activation-scheme", "static", "--activations", &self.captures];
        self.quantize(out, &[&["--include", "*.0.mlp.*"], &options[..]].concat())
    }
}

fn config(out: &str) -> Value {
    let text = fs::read(PathBuf::from(out).join("config.json")).expect("a config");
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn static_input_scales_are_stored_and_the_config_is_static() {
    let saved = tiny_llama();
    let out = saved.statically("static");
    let group = &config(&out)["quantization_config"]["config_groups"]["group_0"];
    assert_eq!(
        group["input_activations"],
        json!({"num_bits": 8, "type": "int", "symmetric": true, "strategy": "tensor", "dynamic": false})
    );
    let written = Checkpoint::open(Path::new(&out)).expect("opens");
    let (id, part) = written
        .all_stored()
        .find(|(_, stored)| stored.name == format!("{LAYER}.input_scale"))
        .expect("a scale");
    assert_eq!((part.dtype.name(), part.shape.dims()), ("BF16", &[1][..]));
    let raw = written.reader().stored(id, 0..2).expect("reads").to_vec();
    // The largest magnitude is 50 / 8; BF16 keeps eight bits of its 127th.
    let scale = f32::from_bits(u32::from(u16::from_le_bytes([raw[0], raw[1]])) << 16);
    assert!((scale * 127.0 / 6.25 - 1.0).abs() < 1.0 / 256.0, "{scale}");
    // Layers without recorded inputs stay float, and input scales are not listed as tensors.
    let down = written.find("model.layers.0.mlp.down_proj.weight").expect("there");
    assert!(written.packed_format(down).is_none());
    assert!(written.find(&format!("{LAYER}.input_scale")).is_none());
}

#[test]
fn transformers_is_said_to_leave_inputs_as_floats() {
    let saved = tiny_llama();
    let scope = ["--include", "*.0.mlp.up_proj.weight", "--include", "*.0.mlp.gate_proj.weight"];
    let inputs = ["--activation-scheme", "static", "--activations", &saved.captures];
    let said = "reports the scales of inputs as unexpected keys and leaves inputs as floats";
    for scheme in ["W8A8", "FP8"] {
        let out = saved.path(scheme);
        let command = ["quantize", &saved.model, "-o", &out, "--for", "transformers"];
        let options = [&command[..], &["--scheme", scheme], &scope, &inputs].concat();
        let text = stdout(&[&options[..], &["--dry-run"]].concat());
        assert!(text.contains(said), "{scheme}: {text}");
        stdout(&options);
        let text = stdout(&["check", &out, "--for", "transformers"]);
        assert!(text.contains(said), "{scheme}: {text}");
    }
    let out = saved.path("dynamic");
    let command = ["quantize", &saved.model, "-o", &out, "--for", "transformers"];
    let text = stdout(&[&command[..], &scope].concat());
    assert!(!text.contains(said), "{text}");
}

#[test]
fn static_outputs_are_verified_and_dequantized() {
    let saved = tiny_llama();
    let out = saved.statically("static");
    let verify = ["verify", &out, "--against", &saved.model];
    let text = stdout(&verify);
    assert!(text.contains("scales of inputs: 2, all positive and finite"), "{text}");
    let text = stdout(&[&verify[..], &["--activations", &saved.captures]].concat());
    assert!(text.contains("scales of inputs: 2, calibrated again with the same result"), "{text}");

    let floats = saved.path("floats");
    stdout(&["dequantize", &out, "-o", &floats]);
    let back = Checkpoint::open(Path::new(&floats)).expect("opens");
    assert!(back.all_stored().all(|(_, stored)| !stored.name.contains("input_scale")));

    // A wrong scale is found only with the captures; a missing one without them.
    let file = PathBuf::from(&out).join("model.safetensors");
    let mut bytes = fs::read(&file).expect("reads");
    let written = Checkpoint::open(Path::new(&out)).expect("opens");
    let name = format!("{LAYER}.input_scale");
    let part = written.all_stored().find(|(_, stored)| stored.name == name).expect("a scale");
    let at = part.1.range.start as usize;
    drop(written);
    bytes[at] ^= 1;
    fs::write(&file, &bytes).expect("writes");
    stdout(&verify);
    let (_, printed) = failure(&[&verify[..], &["--activations", &saved.captures]].concat());
    assert!(
        printed.contains("the scale of its inputs is") && printed.contains("up_proj"),
        "{printed}"
    );
    bytes[at + 1] ^= 0x80;
    fs::write(&file, &bytes).expect("writes");
    let (_, printed) = failure(&verify);
    assert!(printed.contains("expected a positive finite number"), "{printed}");
}

#[test]
fn a_recipe_replays_static_inputs_to_the_same_bytes() {
    let saved = tiny_llama();
    let recipe = saved.path("recipe.toml");
    let static_options = ["--activation-scheme", "static", "--activations", &saved.captures];
    let options = [&["--include", "*.0.mlp.*", "--write-recipe", &recipe], &static_options[..]];
    let first = saved.quantize("first", &options.concat());
    let text = fs::read_to_string(&recipe).expect("a recipe");
    assert!(text.contains("[inputs]") && text.contains("scheme = \"static\""), "{text}");
    let second = saved.quantize("second", &["--recipe", &recipe]);
    for name in ["model.safetensors", "config.json"] {
        let read = |dir: &str| fs::read(PathBuf::from(dir).join(name)).expect("reads");
        assert_eq!(read(&first), read(&second), "{name}");
    }
}

#[test]
fn impossible_static_inputs_are_refused() {
    let saved = tiny_llama();
    let out = saved.path("out");
    let quantize = ["quantize", &saved.model, "-o", &out];
    let with = |options: &[&str]| failure(&[&quantize[..], options].concat());
    let captures = ["--activations", saved.captures.as_str()];
    let statically = ["--activation-scheme", "static", captures[0], captures[1]];
    let (_, printed) = with(&[&["--format", "int8-weight-only"], &statically[..]].concat());
    assert!(printed.contains("W8A16 stores no scales of inputs"), "{printed}");
    let named = ["--format", "int8", "--include", "model.layers.1.mlp.up_proj.weight"];
    let (_, printed) = with(&[&named[..], &statically].concat());
    assert!(
        printed.contains("no inputs were recorded for 'model.layers.1.mlp.up_proj"),
        "{printed}"
    );
    let (_, printed) = with(&captures);
    assert!(printed.contains("--activations are for --activation-scheme static"), "{printed}");
    let (_, printed) = with(&["--format", "int8", "--activation-scheme", "static"]);
    assert!(
        printed.ends_with("static quantization needs recorded inputs, --activations FILE"),
        "{printed}"
    );
    let (_, printed) =
        with(&[&["--format", "int8", "--include", "*.1.*"], &statically[..]].concat());
    assert!(
        printed.contains("nothing to quantize") || printed.contains("no tensor is marked"),
        "{printed}"
    );
}

/// With activations, the same budget gives another choice of schemes.
#[test]
fn the_budget_minimises_the_error_of_the_outputs() {
    let dir = tempdir().expect("temp");
    let kept = |options: &[&str]| -> Vec<String> {
        let out = dir.path().join(format!("{}.safetensors", options.len()));
        let out = out.to_str().expect("text");
        let args =
            ["quantize", "demo:", "-o", out, "--scheme", "per-tensor", "--max-bytes", "37500"];
        stdout(&[&args, options].concat());
        let written = Checkpoint::open(Path::new(out)).expect("opens");
        let plain = written.ids().filter(|&id| written.packed_format(id).is_none());
        let weights = plain.filter(|&id| written.tensor(id).shape.rank() > 1);
        weights.map(|id| written.tensor(id).name.to_string()).collect()
    };
    let by_weights = kept(&[]);
    let by_output = kept(&["--activations", "demo:"]);
    assert_ne!(by_weights, by_output);
}

#[test]
fn fp8_has_static_scales_of_weights_and_inputs() {
    let saved = tiny_llama();
    let out = saved.path("fp8");
    let command = ["quantize", &saved.model, "-o", &out, "--for", "transformers"];
    let scope = ["--include", "*.0.mlp.up_proj.weight", "--include", "*.0.mlp.gate_proj.weight"];
    let options = ["--scheme", "FP8", "--activation-scheme", "static"];
    let captures = ["--activations", saved.captures.as_str()];
    let error = failure(&[&command[..], &scope, &["--scheme", "FP8"]].concat()).1;
    assert!(error.contains("--activation-scheme static"), "{error}");
    let dynamic = ["--scheme", "FP8_DYNAMIC", "--activation-scheme", "static"];
    let error = failure(&[&command[..], &scope, &dynamic, &captures].concat()).1;
    assert!(error.contains("W8A8 or FP8"), "{error}");
    stdout(&[&command[..], &scope, &options, &captures].concat());
    let quantization = &config(&out)["quantization_config"];
    let group = &quantization["config_groups"]["group_0"];
    let tensor = json!({
        "num_bits": 8, "type": "float", "symmetric": true, "dynamic": false,
        "strategy": "tensor", "group_size": null,
    });
    assert_eq!(group["weights"], tensor);
    assert_eq!(group["input_activations"], tensor);
    assert_eq!(quantization["format"], "float-quantized");
    let written = Checkpoint::open(Path::new(&out)).expect("opens");
    let scale_of = |name: &str| {
        let found = written.all_stored().find(|(_, stored)| stored.name == *name);
        let (id, stored) = found.unwrap_or_else(|| panic!("{name}"));
        assert_eq!((stored.dtype.name(), stored.shape.dims()), ("BF16", &[1][..]), "{name}");
        let bytes = written.reader().stored(id, 0..2).expect("reads").to_vec();
        half::bf16::from_le_bytes(bytes.try_into().expect("one BF16")).to_f32()
    };
    // The largest magnitude of the inputs is 50/8.
    let expected = half::bf16::from_f32(50.0 / 8.0 / 448.0).to_f32();
    assert_eq!(scale_of(&format!("{LAYER}.input_scale")), expected);
    assert!(scale_of(&format!("{LAYER}.weight_scale")) > 0.0);
    let verify = ["verify", &out, "--against", &saved.model];
    stdout(&verify);
    stdout(&[&verify[..], &captures].concat());
    let other = saved.path("other.safetensors");
    let changed = |module: &str| {
        let values = (0..384).map(|i| i as f32);
        f32s(&format!("model.layers.0.mlp.{module}.input"), &[1, 3, 128], values)
    };
    write(Path::new(&other), &[changed("up_proj"), changed("gate_proj")], &[]);
    let error = failure(&[&verify[..], &["--activations", &other]].concat()).1;
    assert!(error.contains("the scale of its inputs is"), "{error}");
    let recipe = saved.path("plan.toml");
    let planned = ["--dry-run", "--write-recipe", &recipe];
    let again = saved.path("again");
    let again_command = ["quantize", &saved.model, "-o", &again, "--for", "transformers"];
    stdout(&[&again_command[..], &scope, &options, &captures, &planned].concat());
    stdout(&["quantize", &saved.model, "-o", &again, "--recipe", &recipe]);
    let file = |out: &str| fs::read(PathBuf::from(out).join("model.safetensors")).expect("reads");
    assert!(file(&out) == file(&again), "a recipe gives other bytes");
}
