//! Output errors of layers, measured on recorded inputs.

use crate::activations::{ActivationMode, Activations, OutputError};
use crate::job::output::LayerOutput;
use crate::quantization::Quantizer;
use crate::quantization::ggml::Importance;
use crate::tensor::TensorId;
use crate::text::figures;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// An event of the measurement of output errors, in this order.
#[derive(Debug)]
pub enum OutputsEvent {
    /// The captures are open; nothing is measured yet.
    Opened(Outputs),
    /// The output error of a layer, or why it could not be measured.
    Found(TensorId, Result<LayerOutput, String>),
    /// All layers are measured, or why the measurement failed.
    Ended(Result<(), String>),
}

/// Everything measured so far.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// The files that were opened.
    pub files: Vec<PathBuf>,
    /// The open recordings.
    pub activations: Option<Arc<Activations>>,
    /// The weights of the recorded layers.
    pub recorded: BTreeSet<TensorId>,
    /// What was found for each weight.
    pub found: BTreeMap<TensorId, Result<LayerOutput, String>>,
    /// The importance of the weights' elements, if the files are importance matrices.
    pub importance: Importance,
    /// The number of recorded names that match no layer, and the first of them.
    pub unmatched: (usize, String),
}

impl Outputs {
    /// The output error of a layer under a quantizer.
    pub fn error(&self, id: TensorId, quantizer: Quantizer) -> Option<&OutputError> {
        self.found.get(&id)?.as_ref().ok()?.error(quantizer)
    }

    /// Whether a layer was recorded but is not measured yet.
    pub fn is_waiting(&self, id: TensorId) -> bool {
        self.recorded.contains(&id) && !self.found.contains_key(&id)
    }

    /// The calibrated scale of a layer's inputs.
    pub fn input_scale(&self, id: TensorId) -> Option<f32> {
        self.found.get(&id)?.as_ref().ok()?.input_scale
    }

    /// The calibrated scales of layer inputs, as far as they are known.
    pub fn input_scales(&self) -> BTreeMap<TensorId, f32> {
        self.found.keys().filter_map(|&id| Some((id, self.input_scale(id)?))).collect()
    }

    /// Why a recorded layer could not be measured.
    pub fn failure(&self, id: TensorId) -> Option<&str> {
        self.found.get(&id)?.as_ref().err().map(String::as_str)
    }

    /// Summarizes the result in a sentence. `order` is the key that changes the order.
    pub fn describe(&self, order: &str) -> String {
        let layers = figures::counted(self.found.values().flatten().count(), "layer");
        let failed: Vec<&String> = self.found.values().filter_map(|f| f.as_ref().err()).collect();
        match (failed.first(), &self.unmatched) {
            (Some(first), _) => {
                format!("outputs of {layers} measured, {} not: {first}", failed.len())
            }
            (None, (0, _)) => format!("outputs of {layers} measured; {order} sorts by them"),
            (None, (n, first)) => {
                let names = figures::counted(*n, "recorded name");
                format!("outputs of {layers} measured; {names} matched no layer, first {first}")
            }
        }
    }

    /// Whether something did not match or could not be measured.
    pub fn is_doubtful(&self) -> bool {
        self.unmatched.0 > 0 || self.found.values().any(Result::is_err)
    }
}

/// Formats an output error in dB for the screen.
pub fn text(error: &OutputError, mode: ActivationMode) -> Option<String> {
    Some(error.shown(mode)?.replace('-', "−"))
}
