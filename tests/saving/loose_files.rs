//! Files beside the weights, and the names of an output's files.

use crate::support::checkpoint::{Tensor, bytes, weights, write};
use crate::support::{data, failure, json, quantscope, stdout};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::{TempDir, tempdir};

const W8A8: [&str; 4] = ["--format", "compressed-tensors", "--scheme", "W8A8"];

/// A model directory, and a directory for outputs.
struct ModelFixture {
    directory: TempDir,
}

impl ModelFixture {
    fn new() -> ModelFixture {
        let fixture = ModelFixture { directory: tempdir().expect("a directory") };
        fs::create_dir(fixture.model()).expect("a directory");
        fixture
    }

    /// A copy of a directory in `tests/data/saving`.
    fn copied(name: &str) -> ModelFixture {
        let fixture = ModelFixture::new();
        let source = PathBuf::from(data("saving")).join(name);
        for file in files(&source) {
            fixture.add(&file, &fs::read(source.join(&file)).expect("reads"));
        }
        fixture
    }

    fn model(&self) -> PathBuf {
        self.directory.path().join("model")
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("text").to_owned()
    }

    fn add(&self, name: &str, bytes: &[u8]) {
        let path = self.model().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, bytes).expect("writes");
    }

    fn add_weights(&self, name: &str, tensors: &[Tensor]) {
        self.add(name, &bytes(tensors));
    }

    /// Runs a command on the model with `out` as its output, and returns the receipt.
    fn run(&self, command: &str, out: &str, options: &[&str]) -> Value {
        let (model, out) = (self.path("model"), self.path(out));
        json(&[&[command, &model, "-o", &out, "--quiet"], options].concat())
    }

    fn quantize(&self, out: &str, options: &[&str]) -> Value {
        self.run("quantize", out, options)
    }

    fn out(&self, name: &str) -> Vec<String> {
        files(Path::new(&self.path(name)))
    }
}

/// The paths of all files below a directory, sorted.
fn files(root: &Path) -> Vec<String> {
    let (mut found, mut pending) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(root).expect("inside");
                found.push(name.to_str().expect("text").replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

fn dtypes(path: &str) -> Vec<(String, String)> {
    let document = json(&["inspect", path]);
    let tensors = document["tensors"].as_array().expect("a list").iter();
    let text = |tensor: &Value, key: &str| tensor[key].as_str().expect("text").to_owned();
    tensors.map(|tensor| (text(tensor, "name"), text(tensor, "dtype"))).collect()
}

/// The header of a safetensors file.
fn header(file: &[u8]) -> Value {
    let (length, rest) = file.split_first_chunk().expect("a length");
    let header = rest.get(..u64::from_le_bytes(*length) as usize).expect("a header");
    serde_json::from_slice(header).expect("JSON")
}

fn layer(number: u32) -> Vec<Tensor> {
    let name = |part: &str| format!("model.layers.{number}.{part}.weight");
    vec![weights(&name("mlp.up_proj"), &[16, 8]), weights(&name("mlp.down_proj"), &[8, 16])]
}

fn sharded() -> ModelFixture {
    let fixture = ModelFixture::new();
    let name = |number: u32| format!("model-0000{}-of-00002.safetensors", number + 1);
    let mut map = serde_json::Map::new();
    for number in 0..2 {
        fixture.add_weights(&name(number), &layer(number));
        map.extend(layer(number).into_iter().map(|t| (t.name, name(number).into())));
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    fixture.add("model.safetensors.index.json", index.to_string().as_bytes());
    fixture.add("config.json", br#"{"model_type": "llama"}"#);
    fixture.add("tokenizer.json", b"{}");
    fixture
}

#[test]
fn other_copies_of_the_weights_are_named_and_not_copied() {
    let fixture = sharded();
    let all = [layer(0), layer(1)].concat();
    fixture.add_weights("consolidated.safetensors", &all);
    fixture.add("params.json", b"{}");
    fixture.add("pytorch_model.bin", b"not looked at");
    fixture.add("original/consolidated.00.pth", b"not looked at");
    fixture.add("original/params.json", b"{}");
    fixture.add_weights(".git/lfs/objects/ab", &all);
    fixture.add("onnx/model.onnx", b"not looked at");
    fixture.add_weights("backup/weights.safetensors", &all);
    // These are not copies of the weights: a separate projection, and another params.json.
    fixture.add_weights("2_Dense/model.safetensors", &[weights("linear.weight", &[4, 8])]);
    fixture.add("2_Dense/pytorch_model.bin", b"another layer");
    fixture.add("2_Dense/params.json", b"{}");

    let model = fixture.path("model");
    let arguments = ["quantize", &model, "-o", &fixture.path("int8"), "--json", "--quiet"];
    let run = quantscope(&[&arguments[..], &W8A8].concat()).assert().success();
    let stderr = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    let receipt: Value = serde_json::from_slice(&run.get_output().stdout).expect("JSON");
    let left_out = [
        ".git/",
        "backup/weights.safetensors",
        "consolidated.safetensors",
        "onnx/",
        "original/",
        "params.json",
        "pytorch_model.bin",
    ];
    assert_eq!(receipt["files_left_out"], serde_json::json!(left_out));
    for name in left_out {
        assert!(stderr.contains(name), "{name}: {stderr}");
    }
    let mut expected = vec![
        "2_Dense/model.safetensors",
        "2_Dense/params.json",
        "2_Dense/pytorch_model.bin",
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ];
    assert_eq!(fixture.out("int8"), expected);
    stdout(&["verify", &fixture.path("int8"), "--against", &model]);

    let options = [&W8A8[..], &["--copy", "params.json", "--copy", "onnx/*", "--copy", "no*"]];
    let receipt = fixture.quantize("with", &options.concat());
    expected.extend(["onnx/model.onnx", "params.json"]);
    expected.sort();
    assert_eq!(fixture.out("with"), expected);
    let warnings = receipt["warnings"].to_string();
    assert!(warnings.contains("--copy no* matches no file"), "{warnings}");
    assert!(!warnings.contains("--copy onnx"), "{warnings}");
    stdout(&["verify", &fixture.path("with"), "--against", &model]);
    let (code, sentence) =
        failure(&["quantize", &model, "-o", &fixture.path("x.safetensors"), "--copy", "*.json"]);
    assert!(code == 1 && sentence.contains("--copy is for a directory"), "{sentence}");
}

#[test]
fn files_that_nothing_explains_are_named_by_verify() {
    let fixture = ModelFixture::copied("verify-extra-files");
    fixture.quantize("int8", &W8A8);
    let (model, out) = (fixture.path("model"), fixture.path("int8"));
    assert!(stdout(&["verify", &out, "--against", &model]).contains("every byte compared"));
    let extra = |name: &str| Path::new(&out).join(name);
    fs::copy(Path::new(&model).join("model.safetensors"), extra("pytorch_model-extra.safetensors"))
        .expect("copies");
    fs::create_dir(extra("code")).expect("a directory");
    fs::write(extra("code/modeling_evil.py"), "x").expect("writes");
    let (code, sentence) = failure(&["verify", &out, "--against", &model]);
    assert_eq!(code, 1, "{sentence}");
    for name in ["'pytorch_model-extra.safetensors'", "'code/modeling_evil.py'"] {
        assert!(sentence.contains(name), "{sentence}");
    }
}

#[test]
fn a_stale_index_is_not_copied() {
    for (case, out) in [("index-beside-whole-model", "a"), ("stale-single-file-beside-shards", "b")]
    {
        let fixture = ModelFixture::copied(case);
        for (format, out) in [(&[][..], out), (&W8A8, "int8")] {
            let receipt = fixture.quantize(out, format);
            assert_eq!(fixture.out(out), ["config.json", "model.safetensors"], "{case}");
            let path = fixture.path(out);
            assert!(dtypes(&path).iter().any(|(_, dtype)| dtype == "I8"), "{case}");
            let left_out = receipt["files_left_out"].as_array().expect("a list");
            assert!(left_out.contains(&"model.safetensors.index.json".into()), "{receipt}");
            stdout(&["verify", &path, "--against", &fixture.path("model")]);
        }
        // The same model, named by its file.
        let file = fixture.model().join("model.safetensors");
        stdout(&["quantize", file.to_str().expect("text"), "-o", &fixture.path("named")]);
        assert_eq!(fixture.out("named"), ["config.json", "model.safetensors"], "{case}");
    }
}

#[test]
fn the_index_of_missing_shards_is_not_copied() {
    let fixture = ModelFixture::copied("index-beside-whole-model");
    for number in 1..=2 {
        let shard = fixture.model().join(format!("model-0000{number}-of-00002.safetensors"));
        fs::remove_file(shard).expect("removes");
    }
    fixture.quantize("int8", &[]);
    assert_eq!(fixture.out("int8"), ["config.json", "model.safetensors"]);
}

#[test]
fn shards_keep_their_folders() {
    let fixture = ModelFixture::copied("index-into-subfolders");
    fixture.add("a/readme.txt", b"beside a shard");
    let expected = ["a/readme.txt", "a/w.safetensors", "b/w.safetensors", "config.json"];
    for (out, options) in [("plain", &[][..]), ("int8", &W8A8)] {
        fixture.quantize(out, options);
        let mut found = fixture.out(out);
        assert_eq!(found.pop().as_deref(), Some("model.safetensors.index.json"));
        assert_eq!(found, expected);
        stdout(&["verify", &fixture.path(out), "--against", &fixture.path("model")]);
        let back = format!("{out}-back");
        stdout(&["dequantize", &fixture.path(out), "-o", &fixture.path(&back)]);
        assert_eq!(dtypes(&fixture.path(&back)), dtypes(&fixture.path("model")));
    }
    let out = fixture.path("one.safetensors");
    stdout(&["quantize", &fixture.path("model"), "-o", &out]);
    assert_eq!(dtypes(&out).len(), 2);
}

#[test]
fn a_single_file_keeps_its_name() {
    let names = [
        "diffusion_pytorch_model.safetensors",
        "adapter_model.safetensors",
        "consolidated.safetensors",
        "model.fp16.safetensors",
    ];
    for name in names {
        let fixture = ModelFixture::new();
        fixture.add_weights(name, &[weights("lin.weight", &[8, 16])]);
        // An adapter's configuration says under which name its weights are looked for.
        let config = match name {
            "adapter_model.safetensors" => "adapter_config.json",
            _ => "config.json",
        };
        fixture.add(config, b"{}");
        let mut expected = [config, name];
        expected.sort_unstable();
        for (out, options) in [("int8", &[][..]), ("fake", &["--format", "fake-quantized"])] {
            fixture.quantize(out, options);
            assert_eq!(fixture.out(out), expected);
        }
        stdout(&["dequantize", &fixture.path("int8"), "-o", &fixture.path("back")]);
        assert_eq!(fixture.out("back"), expected);
    }
}

#[test]
fn files_with_metadata_name_the_framework() {
    let fixture = ModelFixture::new();
    fixture.add_weights("adapter_model.safetensors", &[weights("lin.weight", &[8, 16])]);
    let format = |out: &str| {
        let path = format!("{}/adapter_model.safetensors", fixture.path(out));
        header(&fs::read(path).expect("reads"))["__metadata__"]["format"].clone()
    };
    for (out, options) in [("int8", &[][..]), ("fake", &["--format", "fake-quantized"])] {
        fixture.quantize(out, options);
        assert_eq!(format(out), "pt", "{out}");
    }
    write(
        &fixture.model().join("adapter_model.safetensors"),
        &[weights("lin.weight", &[8, 16])],
        &[("format", "mlx")],
    );
    fixture.quantize("mlx", &[]);
    assert_eq!(format("mlx"), "mlx");
}

#[test]
fn one_file_is_written_from_a_directory_with_packed_tensors() {
    let fixture = ModelFixture::copied("single-file-out-of-named-layout");
    let (model, out) = (fixture.path("model"), fixture.path("out.safetensors"));
    stdout(&["quantize", &model, "-o", &out]);
    stdout(&["verify", &out, "--against", &model]);
    let source = fs::read(fixture.model().join("model.safetensors")).expect("reads");
    let written = fs::read(&out).expect("reads");
    let bytes_of = |file: &[u8], name: &str| {
        let offsets = &header(file)[name]["data_offsets"];
        let at = |end: usize| offsets[end].as_u64().expect("an offset") as usize;
        let length = u64::from_le_bytes(*file.first_chunk().expect("a length")) as usize;
        file[8 + length..][at(0)..at(1)].to_vec()
    };
    for part in ["a.weight", "a.weight_scale"] {
        assert_eq!(bytes_of(&written, part), bytes_of(&source, part), "{part}");
    }
}

/// A Llama with two layers whose MLP has this inner width.
fn llama(inner: u64) -> ModelFixture {
    let fixture = ModelFixture::new();
    let mut tensors = Vec::new();
    for layer in 0..2 {
        let mut add = |part: &str, rows: u64, columns: u64| {
            tensors.push(weights(&format!("model.layers.{layer}.{part}.weight"), &[rows, columns]));
        };
        for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(&format!("self_attn.{part}"), 64, 64);
        }
        add("mlp.gate_proj", inner, 64);
        add("mlp.up_proj", inner, 64);
        add("mlp.down_proj", 64, inner);
    }
    fixture.add_weights("model.safetensors", &tensors);
    fixture.add("config.json", br#"{"model_type": "llama"}"#);
    fixture
}

/// Layers that groups divide are still quantized.
#[test]
fn layers_that_groups_do_not_divide_stay_in_float() {
    for (inner, scheme) in [(108, "W8A16"), (130, "W8A16"), (96, "per-block:64")] {
        let fixture = llama(inner);
        let options = ["--format", "compressed-tensors", "--scheme", scheme];
        let receipt = fixture.quantize("int8", &options);
        assert_eq!(receipt["quantized"].as_array().map(Vec::len), Some(12), "{receipt}");
        let warnings = receipt["warnings"].to_string();
        let expected = format!(
            "2 tensors were left in float, the first 'model.layers.0.mlp.down_proj.weight': its {inner} columns are not a multiple of 64"
        );
        assert!(warnings.contains(&expected), "{warnings}");
        for (name, dtype) in dtypes(&fixture.path("int8")) {
            assert_eq!(dtype == "F32", name.contains("down_proj"), "{name} is {dtype}");
        }
        let config = fs::read(Path::new(&fixture.path("int8")).join("config.json")).expect("reads");
        let config: Value = serde_json::from_slice(&config).expect("JSON");
        let groups = &config["quantization_config"]["config_groups"];
        assert_eq!(groups["group_0"]["weights"]["group_size"], 64);
        assert_eq!(groups.as_object().map(serde_json::Map::len), Some(1));
        stdout(&["verify", &fixture.path("int8"), "--against", &fixture.path("model")]);
    }
    // Selecting such a layer by name is an error.
    let (fixture, name) = (llama(130), "model.layers.1.mlp.down_proj.weight");
    let (model, out) = (fixture.path("model"), fixture.path("named"));
    let command = ["quantize", &model, "-o", &out, "--format", "compressed-tensors"];
    let options = ["--scheme", "per-block:64", "--include", name];
    let (code, sentence) = failure(&[&command[..], &options].concat());
    assert!(code == 1 && sentence.contains("130 columns are not a multiple of 64"), "{sentence}");
    let receipt = fixture.quantize("w8a8", &W8A8);
    assert_eq!(receipt["quantized"].as_array().map(Vec::len), Some(14));
}
