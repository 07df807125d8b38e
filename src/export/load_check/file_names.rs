//! Names of weight files under which loaders do not look for weights.

use crate::checkpoint::io::files;
use crate::checkpoint::{Checkpoint, Config, Format};
use crate::export::load_check::finding::Finding;
use crate::plan::target::Loader;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::Path;

/// The name of a single weight file in transformers.
const TRANSFORMERS_NAME: &str = "model.safetensors";

/// The name of a single weight file in diffusers.
const DIFFUSERS_NAME: &str = "diffusion_pytorch_model.safetensors";

/// The name of the weight file of an adapter in PEFT.
const PEFT_NAME: &str = "adapter_model.safetensors";

/// The configuration of an adapter.
const PEFT_CONFIG: &str = "adapter_config.json";

/// The start of the names of the files that mlx-lm opens.
const MLX_PREFIX: &str = "model";

/// The findings about a directory's weight files. A single file may have any name. For ComfyUI
/// there must be no more than one.
pub(super) fn find(
    checkpoint: &Checkpoint,
    config: Option<&Config>,
    loaders: &[Loader],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let shards = checkpoint.shards().len();
    if loaders.contains(&Loader::ComfyUi) && shards > 1 {
        findings.push(Finding::fails(format!(
            "ComfyUI opens single files, and the weights are in {shards}; save them as one"
        )));
    }
    let Some(root) = checkpoint.opened_directory() else {
        return findings;
    };
    if checkpoint.format() != Format::Safetensors {
        return findings;
    }
    let names: Vec<&str> = checkpoint
        .shards()
        .iter()
        .filter_map(|shard| shard.source.path().file_name().and_then(OsStr::to_str))
        .collect();
    let Some(&first) = names.first() else { return findings };
    let index = checkpoint.index().map(|index| index.path.as_path());
    let misses = |library: &str, expected: &str| {
        let first = first.escape_debug();
        match names.len() {
            1 => format!(
                "{library} looks for {expected}, and the weights are in '{first}'; rename the file"
            ),
            n => format!(
                "{library} looks for {expected} or its index, and the weights are in {n} files, the first '{first}'"
            ),
        }
    };
    let is_found = |expected: &str| match (index, names.as_slice()) {
        (Some(index), _) => is_index_of(index, expected),
        (None, [name]) => is_variant_of(name, expected),
        (None, _) => false,
    };
    if files::is_file(&root.join(PEFT_CONFIG)) {
        let missed = !is_found(PEFT_NAME);
        findings.extend(missed.then(|| Finding::fails(misses("PEFT", PEFT_NAME))));
        return findings;
    }
    if is_diffusers(config) {
        // The text encoders of a pipeline are models of transformers.
        let missed = !is_found(DIFFUSERS_NAME);
        findings.extend(missed.then(|| Finding::fails(misses("diffusers", DIFFUSERS_NAME))));
        return findings;
    }
    if config.and_then(Config::model_type).is_none() {
        return findings;
    }
    if !is_found(TRANSFORMERS_NAME) {
        let missed = misses("transformers", TRANSFORMERS_NAME);
        let asked = loaders.iter().any(|loader| {
            matches!(loader, Loader::Transformers | Loader::SentenceTransformers | Loader::Torchao)
        });
        findings.push(if asked { Finding::fails(missed) } else { Finding::warns(missed) });
    }
    if loaders.contains(&Loader::Mlx) && !names.iter().all(|name| name.starts_with(MLX_PREFIX)) {
        findings.push(Finding::fails(misses("mlx-lm", "model*.safetensors")));
    }
    findings
}

/// Whether a file has the expected name, or that name with a variant in it, such as `fp16`. Loaders
/// find both.
fn is_variant_of(name: &str, expected: &str) -> bool {
    let stem = expected.strip_suffix(".safetensors").unwrap_or(expected);
    let rest = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(".safetensors"));
    rest.is_some_and(|variant| variant.is_empty() || variant.starts_with('.'))
}

/// Whether an index has the name that belongs to a single weight file of this name, a variant
/// included.
fn is_index_of(index: &Path, single: &str) -> bool {
    let name = index.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let rest = name.strip_prefix(single).and_then(|rest| rest.strip_suffix(".json"));
    rest.is_some_and(|rest| rest == ".index" || rest.starts_with(".index."))
}

/// Whether a configuration is that of a model of the diffusers library.
fn is_diffusers(config: Option<&Config>) -> bool {
    let json = config.map(Config::json);
    let has = |key: &str| json.is_some_and(|json| json.get(key).is_some_and(Value::is_string));
    has("_class_name") && has("_diffusers_version")
}
