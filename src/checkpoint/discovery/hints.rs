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
    if let Some(shares) = shares(directory) {
        return Some(shares);
    }
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

/// Describes a directory with the shares that several workers made of an output. Finished shares
/// are named `2-of-7`, unfinished ones `.unfinished-2-of-7.` with a random suffix.
fn shares(directory: &Path) -> Option<String> {
    let parse = |name: &str| {
        let (index, count) = name.split_once("-of-")?;
        Some((index.parse::<u32>().ok()?, count.parse::<u32>().ok()?))
    };
    let (mut finished, mut running) = (BTreeSet::new(), BTreeSet::new());
    for entry in std::fs::read_dir(directory).ok()?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        match name.strip_prefix(".unfinished-") {
            Some(name) => running.extend(name.split_once('.').and_then(|(name, _)| parse(name))),
            None if entry.path().join("fragment.json").is_file() => finished.extend(parse(&name)),
            None => {}
        }
    }
    let &(_, count) = finished.first().or(running.first())?;
    let others: BTreeSet<(u32, u32)> = running.difference(&finished).copied().collect();
    let missing = (1..=count).map(|index| (index, count)).filter(|p| !finished.contains(p));
    let list = |partitions: &mut dyn Iterator<Item = (u32, u32)>| {
        let indices: Vec<String> = partitions.map(|(index, _)| index.to_string()).collect();
        indices.join(", ")
    };
    let mut said = format!(
        "it holds {} of {count} shares of an output that several workers make",
        finished.len()
    );
    let missing = list(&mut missing.filter(|partition| !others.contains(partition)));
    if !others.is_empty() {
        said += &format!("; begun: {}", list(&mut others.into_iter()));
    }
    if !missing.is_empty() {
        said += &format!("; missing: {missing}");
    }
    let out = directory.file_stem().unwrap_or_default().to_string_lossy();
    Some(format!("{said}; `quantscope join {out}` puts them together"))
}

fn foreign(names: &BTreeSet<String>) -> Option<(&str, &'static str)> {
    names.iter().find_map(|name| {
        let (_, what) = FOREIGN.iter().find(|(ending, _)| name.ends_with(ending))?;
        Some((name.as_str(), *what))
    })
}
