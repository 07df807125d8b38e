//! `check`: defects that keep a quantized model from loading.

use crate::support::{data, failure, json, quantscope, stdout};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::{TempDir, tempdir};

/// A tiny Llama quantized for vLLM, in shards, which tests damage.
struct Saved {
    _directory: TempDir,
    path: PathBuf,
}

impl Saved {
    fn new(options: &[&str]) -> Saved {
        let directory = tempdir().expect("a directory");
        let path = directory.path().join("saved");
        let source = data("tiny-llama/sharded");
        let saved = Saved { _directory: directory, path };
        stdout(&[&["quantize", &source, "-o", saved.path(), "--quiet"], options].concat());
        saved
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("text")
    }

    fn edit_config(&self, edit: impl FnOnce(&mut Value)) {
        let path = self.path.join("config.json");
        let mut config: Value =
            serde_json::from_slice(&std::fs::read(&path).expect("reads")).expect("JSON");
        edit(&mut config["quantization_config"]);
        std::fs::write(path, config.to_string()).expect("own directory");
    }

    /// Renames a stored tensor in the header of each shard that has it. Both names must have the
    /// same length.
    fn rename(&self, from: &str, to: &str) {
        assert_eq!(from.len(), to.len());
        for entry in std::fs::read_dir(&self.path).expect("own directory") {
            let path = entry.expect("an entry").path();
            let bytes = std::fs::read(&path).expect("reads");
            let at = bytes.windows(from.len()).position(|window| window == from.as_bytes());
            if let Some(at) = at {
                let renamed = [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat();
                std::fs::write(path, renamed).expect("own directory");
            }
        }
    }

    /// Replaces a part of names by another of the same length, everywhere in the headers.
    fn rename_all(&self, from: &str, to: &str) {
        assert_eq!(from.len(), to.len());
        for entry in std::fs::read_dir(&self.path).expect("own directory") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|e| e == "safetensors" || e == "json") {
                let mut bytes = std::fs::read(&path).expect("reads");
                let places: Vec<usize> = bytes
                    .windows(from.len())
                    .enumerate()
                    .filter_map(|(at, window)| (window == from.as_bytes()).then_some(at))
                    .collect();
                for at in places {
                    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
                }
                std::fs::write(path, bytes).expect("own directory");
            }
        }
    }

    /// The document, and whether the exit code was 0.
    fn check(&self, options: &[&str]) -> (Value, bool) {
        check(self.path(), options)
    }

    #[track_caller]
    fn fails(&self, options: &[&str], parts: &[&str]) {
        let (found, success) = self.check(options);
        assert!(!success && found["loads"] == false, "{found}");
        assert_found(&found, "fails", parts);
    }

    #[track_caller]
    fn warns(&self, options: &[&str], parts: &[&str]) {
        let (found, success) = self.check(options);
        assert!(success && found["loads"] == true, "{found}");
        assert_found(&found, "warning", parts);
    }
}

fn check(path: &str, options: &[&str]) -> (Value, bool) {
    let run = quantscope(&[&["check", path, "--json"], options].concat()).output().expect("runs");
    let document = serde_json::from_slice(&run.stdout).expect("one document");
    (document, run.status.success())
}

#[track_caller]
fn assert_found(found: &Value, severity: &str, parts: &[&str]) {
    let findings = found["findings"].as_array().expect("a list");
    let says = |finding: &&Value| {
        let sentence = finding["sentence"].as_str().expect("a sentence");
        finding["severity"] == severity && parts.iter().all(|part| sentence.contains(part))
    };
    assert!(findings.iter().any(|finding| says(&finding)), "{parts:?} is not in: {found}");
}

const VLLM: [&str; 2] = ["--for", "vllm"];

#[test]
fn what_was_saved_loads() {
    for options in [&VLLM[..], &["--for", "transformers,vllm", "--scheme", "W8A16"]] {
        let saved = Saved::new(options);
        let (found, success) = saved.check(&[]);
        assert!(success && found["loads"] == true, "{found}");
        assert_eq!(found["findings"], json!([]));
        assert_eq!((&found["tensors"], &found["quantized"]), (&json!(21), &json!(14)));
        let text = stdout(&["check", saved.path(), "--for", "vllm,transformers"]);
        assert!(text.contains("14 of 21 tensors quantized"), "{text}");
        assert!(text.ends_with("keeps it from loading in vLLM, transformers\n"), "{text}");
    }
    let directory = tempdir().expect("a directory");
    let out = directory.path().join("out");
    let quantize = ["quantize", "demo:", "-o", out.to_str().expect("text"), "--force"];
    let receipt = json(&[&quantize[..], &["--format", "fake-quantized"]].concat());
    assert_eq!(receipt["check"], json!({"loads": true, "findings": []}));
    assert_eq!(json(&quantize).get("check"), None, "no loader was named");
}

#[test]
fn a_receipt_says_whether_the_output_loads() {
    let (source, directory) = (data("tiny-llama/single"), tempdir().expect("a directory"));
    let out = directory.path().join("out");
    let text = stdout(&["quantize", &source, "-o", out.to_str().expect("text"), "--for", "vllm"]);
    assert!(
        text.ends_with("\nchecked: nothing found that keeps it from loading in vLLM\n"),
        "{text}"
    );
}

#[test]
fn missing_shards_and_scales_are_named() {
    let saved = Saved::new(&VLLM);
    let name = "model.layers.0.mlp.up_proj.weight";
    saved.rename(&format!("{name}_scale\""), &format!("{name}_other\""));
    saved.fails(&[], &[name, "its scale is missing"]);
    let saved = Saved::new(&VLLM);
    std::fs::remove_file(saved.path.join("model-00004-of-00004.safetensors")).expect("there");
    saved.fails(&[], &["model-00004-of-00004.safetensors"]);
    let (code, sentence) = failure(&["check", saved.path()]);
    assert!(code == 1 && sentence.ends_with("it will not load"), "{sentence}");
}

#[test]
fn groups_that_match_too_little_or_too_much_are_named() {
    let group = |config: &mut Value| config["config_groups"]["group_0"]["targets"].take();
    let saved = Saved::new(&VLLM);
    saved.edit_config(|config| {
        let targets = group(config);
        let kept = targets.as_array().expect("a list").iter();
        let kept: Vec<&Value> = kept.filter(|t| !t.to_string().contains("down_proj")).collect();
        config["config_groups"]["group_0"]["targets"] = json!(kept);
    });
    saved.fails(&[], &["down_proj.weight", "no group of config.json targets its module"]);

    let saved = Saved::new(&[&VLLM[..], &["--exclude", "*down_proj*"]].concat());
    saved.edit_config(|config| config["config_groups"]["group_0"]["targets"] = json!(["Linear"]));
    saved.fails(&[], &["'group_0'", "down_proj' and 2 more", "stored in float"]);
    saved.edit_config(|config| config["ignore"] = json!(["re:.*down_proj", "lm_head"]));
    assert!(saved.check(&[]).1);

    saved.edit_config(|config| config["config_groups"] = json!({}));
    saved.fails(&[], &["config.json has no config_groups"]);
    let saved = Saved::new(&VLLM);
    saved.edit_config(|config| *config = Value::Null);
    saved.warns(&[], &["config.json does not say how its tensors are quantized"]);
}

#[test]
fn limits_of_loaders_are_reported_for_them() {
    let whole = ["--format", "compressed-tensors", "--include", "*.[qk]_proj.weight"];
    let saved = Saved::new(&whole);
    saved.warns(&[], &["vLLM 0.32 joins q_proj, k_proj, v_proj", "float: v_proj"]);
    saved.fails(&VLLM, &["vLLM 0.32 joins q_proj, k_proj, v_proj", "float: v_proj"]);
    assert!(saved.check(&["--for", "transformers"]).1);
    saved.fails(&["--for", "burn"], &["Burn opens burn, not compressed-tensors"]);
    let saved = Saved::new(&[]);
    saved.warns(&[], &["'<name>_scale'", "garbage"]);
    saved.fails(&["--for", "transformers"], &["transformers opens compressed-tensors"]);
    let saved = Saved::new(&["--scheme", "W8A16"]);
    saved.warns(&VLLM, &["no CPU kernel for W8A16"]);
}

#[test]
fn copies_and_leftovers_are_named() {
    let saved = Saved::new(&VLLM);
    let copy = |name: &str| {
        let path = saved.path.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("own directory");
        std::fs::copy(data("tiny-llama/single/model.safetensors"), path).expect("copies");
    };
    copy("consolidated.safetensors");
    copy("original/old.safetensors");
    saved.warns(&[], &["consolidated.safetensors", "another copy"]);
    saved.warns(&[], &["original/", "another copy"]);

    let saved = Saved::new(&[&VLLM[..], &["--exclude", "*down_proj*"]].concat());
    saved.rename("model.layers.1.input_layernorm.weight", "model.layers.1.mlp.down.weight_scale_");
    saved.rename("model.layers.1.mlp.down.weight_scale_", "model.layers.1.mlp.downs.weight_scale");
    saved.warns(&[], &["model.layers.1.mlp.downs.weight_scale", "unexpected key"]);
}

#[test]
fn models_of_other_programs_are_checked() {
    for (name, loads) in
        [("ct-pack8-channel", true), ("modelopt-fp8", true), ("ct-transform-config", false)]
    {
        let path = data(&format!("packed/{name}"));
        let model = Path::new(&path).join("model.safetensors");
        let (found, success) = check(model.to_str().expect("text"), &[]);
        assert_eq!((found["loads"].as_bool(), success), (Some(loads), loads), "{name}: {found}");
    }
    let (found, success) = check("no/such/model", &[]);
    assert!(!success, "{found}");
    assert_found(&found, "fails", &["no such file or directory"]);
}

#[test]
fn names_under_which_loaders_look_for_weights_are_known() {
    let directory = tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let weights = data("tiny-llama/single/model.safetensors");
    let model = |name: &str, config: &str, file: &str| {
        std::fs::create_dir_all(path(name)).expect("own directory");
        std::fs::copy(&weights, path(name).join(file)).expect("copies");
        let config_name = if name == "peft" { "adapter_config.json" } else { "config.json" };
        std::fs::write(path(name).join(config_name), config).expect("own directory");
        path(name).to_str().expect("text").to_owned()
    };
    let diffusers = r#"{"_class_name": "UNet2DModel", "_diffusers_version": "0.42.0"}"#;
    let unet = model("unet", diffusers, "model.safetensors");
    let (found, _) = check(&unet, &[]);
    let expected = ["diffusers looks for diffusion_pytorch_model.safetensors"];
    assert_found(&found, "fails", &expected);
    for file in ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"]
    {
        let (found, success) = check(&model(&format!("unet-{file}"), diffusers, file), &[]);
        assert!(success, "{found}");
    }
    let adapter = model("peft", r#"{"peft_type": "LORA"}"#, "lora.safetensors");
    let (found, _) = check(&adapter, &[]);
    assert_found(&found, "fails", &["PEFT looks for adapter_model.safetensors"]);
    let llama = model("llama", r#"{"model_type": "llama"}"#, "weights.safetensors");
    let expected = ["transformers looks for model.safetensors", "'weights.safetensors'"];
    assert_found(&check(&llama, &[]).0, "warning", &expected);
    assert_found(&check(&llama, &["--for", "transformers"]).0, "fails", &expected);
    assert!(check(&llama, &VLLM).1, "vLLM opens any name");
    assert_found(&check(&llama, &["--for", "mlx"]).0, "fails", &["mlx-lm looks for model*"]);
    let shards = data("tiny-llama/sharded");
    assert_found(
        &check(&shards, &["--for", "comfyui"]).0,
        "fails",
        &["ComfyUI opens single files"],
    );
}

#[test]
fn limits_of_mlx_torchao_and_comfyui_are_reported_for_their_formats() {
    for (name, options) in [
        ("mlx", &["--for", "mlx"][..]),
        ("torchao", &["--for", "torchao"]),
        ("torchao", &["--for", "torchao", "--scheme", "per-block:32"]),
    ] {
        let saved = Saved::new(options);
        let (found, success) = saved.check(&["--for", name]);
        assert!(success && found["findings"] == json!([]), "{found}");
        assert_eq!((&found["format"], &found["quantized"]), (&json!(name), &json!(14)));
        saved.fails(&["--for", "burn"], &[&format!("Burn opens burn, not {name}")]);
    }
    let saved = Saved::new(&["--for", "torchao"]);
    assert!(saved.check(&["--for", "transformers"]).1, "transformers reads it through torchao");
    // The layers of a list of experts, in a format whose loader joins them without scales.
    for (loader, sentence) in [("mlx", "joins the experts"), ("torchao", "does not load experts")] {
        let saved = Saved::new(&["--for", loader]);
        saved.rename_all("layers.0.mlp.gate_proj.", "layers.0.experts.0.ff1.");
        saved.rename_all("layers.0.mlp.up_proj.", "layers.0.experts.1.u.");
        saved.fails(&["--for", loader], &[sentence, "experts.0"]);
    }
    let directory = tempdir().expect("a directory");
    let out = directory.path().join("comfyui.safetensors");
    let out = out.to_str().expect("text");
    stdout(&["quantize", &data("tiny-llama/single"), "-o", out, "--for", "comfyui", "--quiet"]);
    let (found, success) = check(out, &["--for", "comfyui"]);
    assert!(success && found["format"] == "comfyui" && found["findings"] == json!([]), "{found}");
}
