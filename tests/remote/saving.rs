//! Quantizing and dequantizing a model on a server gives the same bytes as its local files.

use crate::reading::{hub, run};
use crate::server::Hub;
use crate::support::checkpoint::{weights, write};
use crate::support::{data, quantscope};
use std::collections::BTreeMap;
use std::path::Path;

/// The files below a directory, with their bytes.
pub(crate) fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).expect("lists") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pending.push(path)
            } else {
                let name = path.strip_prefix(root).expect("below").display().to_string();
                found.insert(name, std::fs::read(&path).expect("reads"));
            }
        }
    }
    found
}

#[test]
fn outputs_are_those_of_the_local_files() {
    let hub = hub();
    let directory = tempfile::tempdir().expect("a directory");
    let out = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    for (repository, local) in [("model", "single"), ("sharded", "sharded")] {
        let near = data(&format!("tiny-llama/{local}"));
        let url = format!("hf://org/{repository}");
        for target in [&["--for", "vllm"][..], &[]] {
            let [here, there] = ["here", "there"].map(|side| out(&format!("{repository}-{side}")));
            let save = |model: &str, out: &str| {
                run(&hub, &[&["quantize", model, "-o", out, "--force"][..], target].concat(), None)
            };
            save(&near, &here);
            save(&url, &there);
            let [here, there] = [here, there].map(|out| tree(Path::new(&out)));
            assert!(here.contains_key("config.json"));
            assert!(here == there, "{repository} {target:?}");
        }
        let saved = out(&format!("{repository}-there"));
        run(&hub, &["verify", &saved, "--against", &url], None);
    }
}

/// Workers read only their own tensors from the server; the shares are local.
#[test]
fn shares_of_a_remote_model_are_joined_to_the_local_output() {
    let hub = hub();
    let directory = tempfile::tempdir().expect("a directory");
    let out = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    let (here, there) = (out("here"), out("there"));
    run(&hub, &["quantize", &data("tiny-llama/sharded"), "-o", &here], None);
    for partition in ["1/3", "2/3", "3/3"] {
        let words = ["quantize", "hf://org/sharded", "-o", &there, "--partition", partition];
        run(&hub, &words, None);
    }
    run(&hub, &["join", &there], None);
    assert!(tree(Path::new(&here)) == tree(Path::new(&there)));
}

#[test]
fn dequantized_models_are_those_of_the_local_files() {
    let near = data("formats/ct-int8-channel");
    let hub = Hub::start(&[("org/packed", Path::new(&near))]);
    let directory = tempfile::tempdir().expect("a directory");
    let dequantize = |model: &str, name: &str| {
        let out = directory.path().join(name);
        run(&hub, &["dequantize", model, "-o", out.to_str().expect("text")], None);
        tree(&out)
    };
    let here = dequantize(&near, "here");
    assert!(here.keys().any(|name| name.ends_with(".safetensors")), "{:?}", here.keys());
    assert!(here == dequantize("hf://org/packed", "there"));
}

/// Files beside the weights decide what loaders look for, and are on the server too.
#[test]
fn checks_find_what_they_find_in_the_local_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    for name in ["adapter", "copies/onnx"] {
        std::fs::create_dir_all(path(name)).expect("made");
    }
    let layer = || [weights("model.layers.0.mlp.up_proj.weight", &[8, 8])];
    write(&path("adapter/adapter_model.safetensors"), &layer(), &[]);
    std::fs::write(path("adapter/adapter_config.json"), "{}").expect("written");
    write(&path("copies/model.safetensors"), &layer(), &[]);
    write(&path("copies/consolidated.safetensors"), &layer(), &[]);
    std::fs::write(path("copies/onnx/model.onnx"), "weights").expect("written");
    for name in ["adapter", "copies"] {
        let config = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}"#;
        std::fs::write(path(name).join("config.json"), config).expect("written");
    }
    let [adapter, copies] = ["adapter", "copies"].map(&path);
    let hub = Hub::start(&[("org/adapter", &adapter), ("org/copies", &copies)]);
    let home = tempfile::tempdir().expect("a directory");
    let check = |model: &str| {
        let args = ["check", model, "--for", "transformers"];
        let mut command = hub.quantscope(&args, home.path());
        let output = command.output().expect("runs");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).expect("text").replace(model, "MODEL");
        (output.status.code(), text)
    };
    let near = |path: &Path| check(path.to_str().expect("text"));
    let (code, found) = near(&copies);
    assert!(code == Some(0) && found.contains("another copy of the weights"), "{found}");
    assert!(found.contains("onnx/") && found.contains("consolidated.safetensors"), "{found}");
    assert_eq!(check("hf://org/copies"), (code, found));
    assert_eq!(check("hf://org/adapter"), near(&adapter));
}

#[test]
fn an_output_cannot_be_an_address() {
    let hub = hub();
    let mut command = quantscope(&["quantize", "hf://org/model", "-o", "hf://org/other"]);
    let run = command.env("HF_ENDPOINT", &hub.endpoint).assert().failure();
    let printed = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    assert!(printed.contains("outputs are written to this machine"), "{printed}");
}
