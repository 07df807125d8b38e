//! What the layers' outputs lose, once recorded inputs are opened.

use crate::activations::{OutputError, Way};
use crate::job::output::Found;
use crate::quantization::Quantizer;
use crate::tensor::TensorId;
use crate::text::figures;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What comes of opening captures and measuring, in its order.
#[derive(Debug)]
pub enum News {
    /// They are opened, and nothing is measured yet.
    Opened(Outputs),
    Found(TensorId, Result<Found, String>),
    /// All is found; or why the captures cannot be used, or the measuring could not go on.
    Ended(Result<(), String>),
}

/// Everything that was found out.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// What was opened.
    pub files: Vec<PathBuf>,
    /// The weights whose layers were recorded.
    pub recorded: BTreeSet<TensorId>,
    pub found: BTreeMap<TensorId, Result<Found, String>>,
    /// Names in the files that are of no layer of this model, with the first.
    pub unmatched: (usize, String),
}

impl Outputs {
    /// What a layer's output loses by a quantizer.
    pub fn error(&self, id: TensorId, quantizer: Quantizer) -> Option<&OutputError> {
        self.found.get(&id)?.as_ref().ok()?.error(quantizer)
    }

    /// Whether a layer was recorded and is not measured.
    pub fn is_waiting(&self, id: TensorId) -> bool {
        self.recorded.contains(&id) && !self.found.contains_key(&id)
    }

    /// The calibrated scale of a layer's inputs.
    pub fn input_scale(&self, id: TensorId) -> Option<f32> {
        self.found.get(&id)?.as_ref().ok()?.input_scale
    }

    /// The calibrated scales of the layers' inputs, as far as they are known.
    pub fn input_scales(&self) -> BTreeMap<TensorId, f32> {
        self.found.keys().filter_map(|&id| Some((id, self.input_scale(id)?))).collect()
    }

    /// Why a layer has no figures though it was recorded.
    pub fn failure(&self, id: TensorId) -> Option<&str> {
        self.found.get(&id)?.as_ref().err().map(String::as_str)
    }

    /// In a sentence: how many layers, and what is not as it should be. `order`: the key that
    /// changes the order.
    pub fn describe(&self, order: &str) -> String {
        let layers = figures::counted(self.found.values().flatten().count(), "layer");
        let failed: Vec<&String> = self.found.values().filter_map(|f| f.as_ref().err()).collect();
        match (failed.first(), &self.unmatched) {
            (Some(first), _) => {
                format!("outputs of {layers} measured, {} not: {first}", failed.len())
            }
            (None, (0, _)) => format!("outputs of {layers} measured; {order} orders by them"),
            (None, (n, first)) => {
                let names = figures::counted(*n, "recorded name");
                format!("outputs of {layers} measured; {names} of no layer, first {first}")
            }
        }
    }

    /// Whether something is not as it should be.
    pub fn is_doubtful(&self) -> bool {
        self.unmatched.0 > 0 || self.found.values().any(Result::is_err)
    }
}

/// An output error in dB, as the screen writes its figures.
pub fn text(error: &OutputError, way: Way) -> Option<String> {
    Some(error.shown(way)?.replace('-', "−"))
}
