//! How a plan quantizes what reaches the layers, where the format has a word for it.

use crate::checkpoint::Checkpoint;
use crate::tensor::TensorId;
use std::collections::BTreeMap;

/// The scales of the inputs that observers in the checkpoint watched; by the layer's weight.
/// `Err`: why there are none.
pub fn observed_input_scales(checkpoint: &Checkpoint) -> Result<BTreeMap<TensorId, f32>, String> {
    let watched = |id| Some((id, checkpoint.watched(id)?.input_scale()?));
    let scales: BTreeMap<_, _> = checkpoint.ids().filter_map(watched).collect();
    if !scales.is_empty() {
        return Ok(scales);
    }
    let outputs = checkpoint.ids().filter(|&id| checkpoint.watched(id).is_some()).count();
    let observers = match outputs + checkpoint.unplaced().len() {
        0 => String::new(),
        1 => "; the one observer in this model watched an activation of which the names do not tell whose input it is: that stands in the graph, which is not in the file".to_owned(),
        n => format!("; the {n} observers in this model watched activations of which the names do not tell whose inputs they are: that stands in the graph, which is not in the file"),
    };
    Err(format!("static quantization needs recorded inputs, --activations FILE{observers}"))
}

/// What becomes of a quantized layer's inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum InputQuantization {
    /// int8 as they come, a scale for each token.
    #[default]
    Dynamic,
    /// int8 by one scale for each layer, calibrated on recorded inputs; by the layer's weight.
    Static(BTreeMap<TensorId, f32>),
}

impl InputQuantization {
    /// The calibrated scale of a layer's inputs.
    pub fn scale(&self, weight: TensorId) -> Option<f32> {
        match self {
            InputQuantization::Dynamic => None,
            InputQuantization::Static(scales) => scales.get(&weight).copied(),
        }
    }

    pub fn is_static(&self) -> bool {
        matches!(self, InputQuantization::Static(_))
    }
}
