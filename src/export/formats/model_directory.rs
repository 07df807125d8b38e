//! Functions shared by the formats that write a model directory with a `config.json`.

use crate::checkpoint::Checkpoint;
use crate::export::error::SaveError;
use crate::export::output_plan::{OutputPlan, TextFile};
use crate::export::sidecar_files::pretty;
use crate::tensor::TensorInfo;
use serde_json::Value;
use std::collections::HashSet;

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
