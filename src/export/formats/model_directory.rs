//! Functions shared by the formats that write a model directory with a `config.json`.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::io::files;
use crate::export::error::SaveError;
use crate::export::output_plan::{OutputPlan, TextFile};
use crate::export::sidecar_files::pretty;
use crate::plan::Plan;
use crate::plan::target::Loader;
use crate::tensor::TensorInfo;
use serde_json::Value;
use std::collections::HashSet;

/// The configuration of an adapter, whose weights PEFT loads.
const PEFT_CONFIG: &str = "adapter_config.json";

/// Returns why a checkpoint cannot be saved as a quantized model directory, if so.
pub(super) fn model_obstacle(checkpoint: &Checkpoint) -> Option<String> {
    let config = match checkpoint.model_config() {
        Ok(config) => config,
        Err(error) => return Some(error.problem.to_string()),
    };
    if config.is_none() {
        return Some(
            "its directory has no config.json, which names the model's architecture".into(),
        );
    }
    let quantized = checkpoint.ids().find_map(|id| Some((id, checkpoint.packed_format(id)?)));
    quantized.map(|(id, layout)| {
        let name = checkpoint.tensor(id).name.escape_debug();
        format!("'{name}' is quantized already ({}); dequantize the model first", layout.name())
    })
}

/// Checks that the loaders of a plan look for the only weight file of an output under its name,
/// which is that of the source's file.
pub(super) fn check_file_name(
    checkpoint: &Checkpoint,
    plan: &Plan,
    output_plan: &OutputPlan,
) -> Result<(), String> {
    let is_adapter =
        checkpoint.directory().is_some_and(|root| files::is_file(&root.join(PEFT_CONFIG)));
    let [file] = output_plan.files.as_slice() else { return Ok(()) };
    let has_index = output_plan.texts.iter().any(|text| text.name.ends_with(".index.json"));
    let is_found = |name: &str| name.starts_with("model.") && name.ends_with(".safetensors");
    if is_adapter || has_index || is_found(&file.name) {
        return Ok(());
    }
    let of_transformers = [Loader::Transformers, Loader::SentenceTransformers, Loader::Torchao];
    match plan.target.loaders().iter().find(|loader| of_transformers.contains(loader)) {
        None => Ok(()),
        Some(loader) => Err(format!(
            "{} opens model.safetensors, and the weights would be in '{}'; rename the source's file",
            loader.title(),
            file.name.escape_debug()
        )),
    }
}

/// The names of all stored tensors of a source.
pub(super) struct StoredNames<'c>(HashSet<&'c str>);

impl<'c> StoredNames<'c> {
    pub(super) fn of(checkpoint: &'c Checkpoint) -> StoredNames<'c> {
        StoredNames(checkpoint.all_stored().map(|(_, stored)| stored.name.as_str()).collect())
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Checks that the source has no tensor with the name of one of the `parts` of `tensor`.
    pub(super) fn check_parts(
        &self,
        tensor: &TensorInfo,
        parts: impl IntoIterator<Item = String>,
    ) -> Result<(), String> {
        let parts: Vec<String> = parts.into_iter().collect();
        part_taken(tensor, &parts, &self.0)
    }
}

/// Checks that the source has no tensor with the name of a part of `tensor`. `names` are the names
/// of all its stored tensors.
pub(super) fn part_taken(
    tensor: &TensorInfo,
    parts: &[String],
    names: &HashSet<&str>,
) -> Result<(), String> {
    match parts.iter().find(|part| names.contains(part.as_str())) {
        None => Ok(()),
        Some(part) => Err(format!(
            "a part of '{}' would be named '{}', and the source has a tensor of that name; leave this one out",
            tensor.name.escape_debug(),
            part.escape_debug()
        )),
    }
}

/// Adds the source's `config.json` with further `settings` to an output.
pub(super) fn add_config(
    checkpoint: &Checkpoint,
    output_plan: &mut OutputPlan,
    settings: impl IntoIterator<Item = (&'static str, Value)>,
) -> Result<(), SaveError> {
    let config = checkpoint.model_config()?.unwrap_or_default();
    let mut json = config.json().clone();
    json.extend(settings.into_iter().map(|(key, value)| (key.to_owned(), value)));
    output_plan.texts.push(TextFile { name: "config.json".into(), text: pretty(&json) });
    Ok(())
}
