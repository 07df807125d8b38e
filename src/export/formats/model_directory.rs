//! Checks shared by the formats that write a model directory with a `config.json`.

use crate::checkpoint::Checkpoint;
use crate::tensor::TensorInfo;
use std::collections::HashSet;

/// Returns why a checkpoint cannot be saved as a quantized model directory, if so.
pub(super) fn model_obstacle(checkpoint: &Checkpoint) -> Option<String> {
    let config = match checkpoint.model_config() {
        Ok(config) => config,
        Err(error) => return Some(error.problem.to_string()),
    };
    if config.is_none() {
        return Some(
            "there is no config.json beside it, which names the model's architecture".into(),
        );
    }
    let quantized = checkpoint.ids().find_map(|id| Some((id, checkpoint.packed_format(id)?)));
    quantized.map(|(id, layout)| {
        let name = checkpoint.tensor(id).name.escape_debug();
        format!("'{name}' is quantized already ({}); dequantize the model first", layout.name())
    })
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
