//! Finds parts of quantized weights without the weight, which loaders report as unexpected keys.

use crate::checkpoint::Checkpoint;
use crate::export::load_check::finding::{Finding, first_and_count};

/// The last name components of scales, zero points and similar parts.
const PART_NAMES: [&str; 18] = [
    "weight_scale",
    "weight_scale_inv",
    "weight_scale_2",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
    "weight_global_scale",
    "weight_scale_and_zero_point",
    "input_scale",
    "input_zero_point",
    "input_global_scale",
    "output_scale",
    "qzeros",
    "g_idx",
    "pre_quant_scale",
    "comfy_quant",
    "scale_weight",
    "scale_input",
];

/// Returns one finding for all of them.
pub(super) fn find(checkpoint: &Checkpoint) -> Option<Finding> {
    let is_part =
        |name: &&str| name.rsplit('.').next().is_some_and(|last| PART_NAMES.contains(&last));
    let plain = checkpoint.ids().filter(|&id| checkpoint.plain(id).is_some());
    let names: Vec<&str> =
        plain.map(|id| checkpoint.tensor(id).name.as_str()).filter(is_part).collect();
    let first = names.first()?;
    Some(Finding::warns(format!(
        "{} is part of a quantized weight that is not there; loaders report an unexpected key",
        first_and_count(first, names.len())
    )))
}
