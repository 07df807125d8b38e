//! Orientation of linear weights in an output.

use crate::checkpoint::formats::burnpack::LAYOUT_KEY;
use crate::checkpoint::{Checkpoint, Format};
use crate::export::request::WeightLayout;
use crate::plan::obstacle;
use crate::tensor::TensorId;

/// Returns whether a tensor is the weight of a linear layer, which Burn stores as `[in, out]`.
pub(crate) fn is_linear(checkpoint: &Checkpoint, id: TensorId) -> bool {
    let tensor = checkpoint.tensor(id);
    let is_weight = tensor.name == "weight" || tensor.name.ends_with(".weight");
    is_weight && tensor.shape.rank() == 2 && obstacle(checkpoint, id).is_none()
}

/// Returns the layout recorded in an output's metadata.
pub(crate) fn layout_of(out: &Checkpoint) -> WeightLayout {
    let metadata = out.shards().iter().flat_map(|shard| &shard.metadata);
    let mut metadata = metadata.filter(|_| out.format() == Format::Burnpack);
    if metadata.any(|(key, value)| key == LAYOUT_KEY && value == WeightLayout::Burn.name()) {
        WeightLayout::Burn
    } else {
        WeightLayout::Source
    }
}

/// Returns whether the output holds the transpose of a tensor of the source.
pub(crate) fn is_transposed(out: &Checkpoint, source: &Checkpoint, id: TensorId) -> bool {
    layout_of(out) == WeightLayout::Burn && is_linear(source, id)
}
