//! Which tensors are rounded with error compensation, and the recorded inputs that it needs.

use crate::activations::{Activations, LayerKind, Recording, Source};
use crate::checkpoint::Checkpoint;
use crate::quantization::{Preset, Quantizer};
use crate::tensor::TensorId;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The tensors whose rounding is compensated for their layers' recorded inputs.
#[derive(Clone, Debug, Default)]
pub struct ErrorCompensation {
    tensors: BTreeSet<TensorId>,
    activations: Option<Arc<Activations>>,
}

/// Recordings do not count: a recipe names the tensors, and recordings are opened for it.
impl PartialEq for ErrorCompensation {
    fn eq(&self, other: &ErrorCompensation) -> bool {
        self.tensors == other.tensors
    }
}

impl ErrorCompensation {
    /// Tensors whose recordings are not open.
    pub(crate) fn of_tensors(tensors: BTreeSet<TensorId>) -> ErrorCompensation {
        ErrorCompensation { tensors, activations: None }
    }

    /// Compensates every mark of a plan whose preset allows it and whose inputs were recorded.
    pub fn new(
        checkpoint: &Checkpoint,
        marks: impl Iterator<Item = (TensorId, Quantizer)>,
        activations: Arc<Activations>,
    ) -> ErrorCompensation {
        let is_compensated = |(id, quantizer): &(TensorId, Quantizer)| {
            let is_matrix = checkpoint.tensor(*id).shape.rank() == 2;
            let preset = quantizer.scheme.preset().filter(|_| is_matrix);
            preset.is_some_and(Preset::can_be_compensated)
                && activations.get(*id).is_some_and(has_inputs)
        };
        let tensors = marks.filter(is_compensated).map(|(id, _)| id).collect();
        ErrorCompensation { tensors, activations: Some(activations) }
    }

    /// The same tensors with their recordings.
    pub fn with(self, activations: Arc<Activations>) -> ErrorCompensation {
        ErrorCompensation { activations: Some(activations), ..self }
    }

    /// The tensors.
    pub fn tensors(&self) -> &BTreeSet<TensorId> {
        &self.tensors
    }

    /// The recorded inputs, if they are open.
    pub fn activations(&self) -> Option<&Arc<Activations>> {
        self.activations.as_ref()
    }

    /// The first tensor whose recorded inputs are not open.
    pub fn without_inputs(&self) -> Option<TensorId> {
        let has_inputs = |id: &TensorId| self.activations.as_ref()?.get(*id).map(has_inputs);
        self.tensors.iter().copied().find(|id| has_inputs(id) != Some(true))
    }
}

/// Returns whether the recording has a linear layer's inputs themselves, not only a summary.
fn has_inputs(recording: &Recording) -> bool {
    recording.kind == LayerKind::Linear && matches!(recording.source, Source::Inputs(_))
}
