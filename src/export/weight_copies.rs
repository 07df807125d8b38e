//! Recognizes files that hold other copies of a model's weights. In an output they would be
//! outdated, and some loaders prefer them to the new weights.

use crate::checkpoint::{Checkpoint, Format, has_extension, names_in};
use globset::{Glob, GlobSet, GlobSetBuilder};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Directories with another form of the model, its history, or training data.
const COPY_DIRECTORIES: [&str; 13] = [
    ".git",
    ".cache",
    "original",
    "onnx",
    "openvino",
    "coreml",
    "metal",
    "tflite",
    "gguf",
    "global_step*",
    "checkpoint-[0-9]*",
    "*.mlpackage",
    "*.mlmodelc",
];

/// Files in the model's directory that hold its weights for another loader, its training state, or
/// an index of either.
const COPY_NAMES: [&str; 29] = [
    "consolidated*.safetensors",
    "consolidated*.pth",
    "consolidated*.pt",
    "pytorch_model*.bin",
    "diffusion_pytorch_model*.bin",
    "adapter_model*.bin",
    "tf_model*.h5",
    "flax_model*.msgpack",
    "openvino_*model*.bin",
    "openvino_*model*.xml",
    "rust_model.ot",
    "*.gguf",
    "*.ggml",
    "*.onnx",
    "*.onnx_data",
    "*.tflite",
    "*.mlmodel",
    "*.pdparams",
    "*.nemo",
    "*.llamafile",
    "optimizer*.pt",
    "optimizer*.bin",
    "*_optim_states.pt",
    "*_model_states.pt",
    "*.safetensors.index*.json",
    "*.safetensors.{bak,old,orig}",
    "*.bin.index*.json",
    "*.h5.index.json",
    "*.msgpack.index.json",
];

/// Extensions of files whose tensors are compared with the model's.
const COMPARABLE_EXTENSIONS: [&str; 9] =
    ["safetensors", "bin", "pt", "pth", "th", "ckpt", "npz", "bpk", "gguf"];

/// Describes the model's weights for Mistral's own loader, which reads `consolidated*`.
const MISTRAL_PARAMS: &str = "params.json";

/// Recognizes copies of a checkpoint's weights.
pub(crate) struct WeightCopies<'c> {
    directories: GlobSet,
    names: GlobSet,
    /// Whether the model itself is GGUF; then other GGUF files may be parts of it.
    is_gguf: bool,
    shapes: HashMap<&'c str, &'c [u64]>,
}

impl<'c> WeightCopies<'c> {
    pub(crate) fn new(checkpoint: &'c Checkpoint) -> WeightCopies<'c> {
        // The patterns are constant and valid.
        let [directories, names] = [&COPY_DIRECTORIES[..], &COPY_NAMES]
            .map(|patterns| glob_set(patterns).unwrap_or_else(|_| GlobSet::empty()));
        let stored = checkpoint.all_stored();
        let shapes = stored.map(|(_, stored)| (stored.name.as_str(), stored.shape.dims()));
        let is_gguf = checkpoint.format() == Format::Gguf;
        WeightCopies { directories, names, is_gguf, shapes: shapes.collect() }
    }

    /// Returns the path to report if a file is a copy of the weights or belongs to one: the file's
    /// path, or that of a directory that is left out as a whole. `relative` is the file's path
    /// inside the model's directory.
    pub(crate) fn find(&self, relative: &Path, file: &Path) -> Option<PathBuf> {
        let mut directories: Vec<&Path> = relative.ancestors().skip(1).collect();
        directories.reverse();
        let whole = directories.into_iter().find(|directory| {
            directory.file_name().is_some_and(|name| self.directories.is_match(name))
        });
        if let Some(directory) = whole {
            return Some(directory.to_owned());
        }
        let is_beside_model = relative.components().count() == 1
            && !(self.is_gguf && has_extension(relative, "gguf"));
        let is_copy = is_beside_model && self.names.is_match(relative)
            || relative == Path::new(MISTRAL_PARAMS) && has_consolidated(file)
            || COMPARABLE_EXTENSIONS.iter().any(|extension| has_extension(relative, extension))
                && self.shares_tensors(file);
        is_copy.then(|| relative.to_owned())
    }

    /// Returns whether at least half of the tensors of a file match a tensor of the model in name
    /// and shape, ignoring a module around the whole network. False for a file that cannot be
    /// opened.
    fn shares_tensors(&self, file: &Path) -> bool {
        let Ok(other) = Checkpoint::open(file) else { return false };
        let is_shared = |name: &str, dims: &[u64]| {
            let inner = name.split_once('.').map(|(_, inner)| inner);
            let names = [Some(name), inner].into_iter().flatten();
            names.into_iter().any(|name| self.shapes.get(name) == Some(&dims))
        };
        let stored = other.all_stored();
        let all = stored.len();
        let shared = stored.filter(|(_, s)| is_shared(&s.name, s.shape.dims())).count();
        shared > 0 && 2 * shared >= all
    }
}

/// Returns whether Mistral's own weights are in the same directory.
fn has_consolidated(file: &Path) -> bool {
    let directory = file.parent().unwrap_or(file);
    names_in(directory).iter().any(|name| name.starts_with("consolidated"))
}

fn glob_set(patterns: &[&str]) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern)?);
    }
    set.build()
}
