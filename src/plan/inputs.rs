//! How a plan quantizes the inputs of layers.

use crate::checkpoint::Checkpoint;
use crate::tensor::TensorId;
use std::collections::BTreeMap;

/// Returns the input scales that observers in the checkpoint recorded, by the layer's weight. The
/// error says why there are none.
pub fn observed_input_scales(checkpoint: &Checkpoint) -> Result<BTreeMap<TensorId, f32>, String> {
    let observed = |id| Some((id, checkpoint.observed(id)?.input_scale()?));
    let scales: BTreeMap<_, _> = checkpoint.ids().filter_map(observed).collect();
    if !scales.is_empty() {
        return Ok(scales);
    }
    let outputs = checkpoint.ids().filter(|&id| checkpoint.observed(id).is_some()).count();
    let observers = match outputs + checkpoint.unmatched_observers().len() {
        0 => String::new(),
        1 => "; the name of the one observer in this model does not say which layer has its activation as input: only the graph does, which is not in the file".to_owned(),
        n => format!("; the names of the {n} observers in this model do not say which layers have their activations as inputs: only the graph does, which is not in the file"),
    };
    Err(format!("static quantization needs recorded inputs, --activations FILE{observers}"))
}

/// How the inputs of quantized layers are quantized.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum InputQuantization {
    /// At run time, with one scale per token.
    #[default]
    Dynamic,
    /// int8 or FP8 with one scale per layer, calibrated on recorded inputs. The key is the layer's
    /// weight.
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

    /// Returns whether the scales of the inputs are fixed.
    pub fn is_static(&self) -> bool {
        matches!(self, InputQuantization::Static(_))
    }
}
