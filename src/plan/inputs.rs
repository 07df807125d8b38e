//! How a plan quantizes what reaches the layers, where the format has a word for it.

use crate::tensor::TensorId;
use std::collections::BTreeMap;

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
