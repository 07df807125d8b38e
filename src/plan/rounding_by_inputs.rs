//! Which tensors are rounded for their layers' recorded inputs, and the recordings that it needs.

use crate::activations::{Activations, LayerKind, Recording, Source};
use crate::checkpoint::Checkpoint;
use crate::quantization::{InputRounding, Preset, Quantizer};
use crate::tensor::TensorId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The tensors that are rounded for their layers' recorded inputs.
#[derive(Clone, Debug, Default)]
pub struct RoundingByInputs {
    tensors: BTreeMap<TensorId, InputRounding>,
    activations: Option<Arc<Activations>>,
}

/// Recordings do not count: a recipe names the tensors, and recordings are opened for it.
impl PartialEq for RoundingByInputs {
    fn eq(&self, other: &RoundingByInputs) -> bool {
        self.tensors == other.tensors
    }
}

impl RoundingByInputs {
    /// Tensors whose recordings are not open.
    pub(crate) fn of_tensors(tensors: BTreeMap<TensorId, InputRounding>) -> RoundingByInputs {
        RoundingByInputs { tensors, activations: None }
    }

    /// Rounds every mark of a plan for its inputs whose preset allows it and whose inputs were
    /// recorded.
    pub fn new(
        checkpoint: &Checkpoint,
        marks: impl Iterator<Item = (TensorId, Quantizer)>,
        rounding: InputRounding,
        activations: Arc<Activations>,
    ) -> RoundingByInputs {
        let is_rounded = |(id, quantizer): &(TensorId, Quantizer)| {
            let is_matrix = checkpoint.tensor(*id).shape.rank() == 2;
            let preset = quantizer.scheme.preset().filter(|_| is_matrix);
            preset.is_some_and(Preset::can_be_rounded_by_inputs)
                && activations.get(*id).is_some_and(has_inputs)
        };
        let tensors = marks.filter(is_rounded).map(|(id, _)| (id, rounding)).collect();
        RoundingByInputs { tensors, activations: Some(activations) }
    }

    /// The same tensors with their recordings.
    pub fn with(self, activations: Arc<Activations>) -> RoundingByInputs {
        RoundingByInputs { activations: Some(activations), ..self }
    }

    /// Whether there are no such tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// How a tensor is rounded; `None` if its recorded inputs do not matter.
    pub fn get(&self, id: TensorId) -> Option<InputRounding> {
        self.tensors.get(&id).copied()
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// The recorded inputs, if they are open.
    pub fn activations(&self) -> Option<&Arc<Activations>> {
        self.activations.as_ref()
    }

    /// The first tensor whose recorded inputs are not open.
    pub fn without_inputs(&self) -> Option<TensorId> {
        let has_inputs = |id: &TensorId| self.activations.as_ref()?.get(*id).map(has_inputs);
        self.tensors.keys().copied().find(|id| has_inputs(id) != Some(true))
    }
}

/// Returns whether the recording has a linear layer's inputs themselves, not only a summary.
fn has_inputs(recording: &Recording) -> bool {
    recording.kind == LayerKind::Linear && matches!(recording.source, Source::Inputs(_))
}
