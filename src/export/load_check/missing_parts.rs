//! Finds quantized weights with missing or contradictory parts.

use crate::checkpoint::{Checkpoint, Content, PackedFormat, Role};
use crate::export::load_check::finding::Finding;
use crate::export::load_check::saved_format::{COMPRESSED_TENSORS, SavedFormat};
use crate::tensor::{DType, TensorId};

/// The last name components of quantized values.
const VALUE_NAMES: [&str; 4] = ["weight", "weight_packed", "qweight", "weight_compressed"];

/// Returns a finding for each tensor that no loader can assemble.
pub(super) fn find(checkpoint: &Checkpoint, format: &SavedFormat) -> Vec<Finding> {
    let needs_scale = format.method.as_deref() == Some(COMPRESSED_TENSORS);
    checkpoint.ids().filter_map(|id| of_tensor(checkpoint, id, needs_scale)).collect()
}

/// Returns whether one of the stored tensors of a weight is a scale.
fn has_scale(checkpoint: &Checkpoint, format: &dyn PackedFormat) -> bool {
    format.parts().iter().any(|&id| checkpoint.stored(id).name.contains("scale"))
}

/// Returns the finding about one tensor, if there is one. `needs_scale` says whether values without
/// other parts are known to be part of a weight.
fn of_tensor(checkpoint: &Checkpoint, id: TensorId, needs_scale: bool) -> Option<Finding> {
    let tensor = checkpoint.tensor(id);
    let name = tensor.name.escape_debug();
    let last = tensor.name.rsplit('.').next().unwrap_or_default();
    let missing_scale =
        || Finding::fails(format!("tensor '{name}' is {}, and its scale is missing", tensor.dtype));
    match checkpoint.content(id) {
        Content::Packed(format)
            if needs_scale
                && VALUE_NAMES.contains(&last)
                && !has_scale(checkpoint, format.as_ref()) =>
        {
            Some(missing_scale())
        }
        Content::Packed(format) if format.decoded().is_none() => {
            let stored = format.name();
            // A format without a reason is one that is known by name only.
            Some(if stored.contains("not decoded") {
                Finding::fails(format!("tensor '{name}' is stored as {stored}"))
            } else {
                Finding::warns(format!(
                    "tensor '{name}' is stored as {stored}; nothing else is known about it"
                ))
            })
        }
        Content::Packed(_) => None,
        Content::Plain(_) => {
            if let Some(why) = checkpoint.unreadable(id) {
                return Some(Finding::fails(format!("tensor '{name}': {why}")));
            }
            let is_coded = matches!(tensor.dtype, DType::I8 | DType::U8 | DType::I32)
                || tensor.dtype.name().starts_with("F8");
            let is_network = checkpoint.role(id) == Role::Network;
            (is_coded && is_network && VALUE_NAMES.contains(&last)).then(missing_scale)
        }
    }
}
