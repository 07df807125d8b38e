//! Explains why a directory contains no checkpoint.

use crate::checkpoint::file_names::names_in;
use std::collections::BTreeSet;
use std::path::Path;

/// Extensions of model files that are not supported, and their descriptions.
const FOREIGN: [(&str, &str); 12] = [
    (".onnx", "ONNX"),
    (".h5", "HDF5 (TensorFlow or Keras)"),
    (".hdf5", "HDF5 (TensorFlow or Keras)"),
    (".keras", "Keras"),
    (".tflite", "TensorFlow Lite"),
    (".pb", "a TensorFlow graph"),
    (".msgpack", "Flax"),
    (".ot", "rust-bert"),
    (".mlmodel", "Core ML"),
    (".engine", "a TensorRT engine"),
    (".nemo", "a NeMo archive"),
    (".ggml", "GGML, older than GGUF"),
];

/// Returns a sentence about what a directory contains instead of a checkpoint; `None` if nothing in
/// it looks like a model. `files` and `folders` are the names in it.
pub(super) fn hint(
    directory: &Path,
    files: &BTreeSet<String>,
    folders: &BTreeSet<String>,
) -> Option<String> {
    if let Some((name, what)) = foreign(files) {
        return Some(format!("{name} is {what}, which is not read"));
    }
    for folder in folders {
        let names = names_in(&directory.join(folder));
        let is_weights = |name: &&String| {
            let endings = [".safetensors", ".gguf", ".pt", ".pth", ".bin", ".ckpt"];
            endings.iter().any(|ending| name.ends_with(ending))
        };
        if let Some(name) = names.iter().find(is_weights) {
            return Some(format!("the folder {folder} holds {name}; name that folder or file"));
        }
        if let Some((name, what)) = foreign(&names) {
            return Some(format!("{folder}/{name} is {what}, which is not read"));
        }
    }
    let configured = ["config.json", "model_index.json", "tokenizer.json"];
    configured
        .iter()
        .any(|name| files.contains(*name))
        .then(|| "the weights were not downloaded".to_owned())
}

fn foreign(names: &BTreeSet<String>) -> Option<(&str, &'static str)> {
    names.iter().find_map(|name| {
        let (_, what) = FOREIGN.iter().find(|(ending, _)| name.ends_with(ending))?;
        Some((name.as_str(), *what))
    })
}
