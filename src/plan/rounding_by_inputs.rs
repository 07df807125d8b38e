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

    /// The same tensors, all rounded in one way.
    pub(crate) fn rounded(mut self, rounding: InputRounding) -> RoundingByInputs {
        self.tensors.values_mut().for_each(|each| *each = rounding);
        self
    }

    /// Keeps the tensors whose preset, if they are marked, can be rounded for inputs.
    pub(crate) fn retain(&mut self, mark: impl Fn(TensorId) -> Option<Quantizer>) {
        let preset = |id| mark(id)?.scheme.preset();
        self.tensors.retain(|&id, _| preset(id).is_some_and(Preset::can_be_rounded_by_inputs));
    }

    /// What is done to at least one of the tensors.
    pub fn any(&self) -> InputRounding {
        let all = self.tensors.values();
        all.fold(InputRounding::default(), |any, each| InputRounding {
            compensates: any.compensates || each.compensates,
            searches_clips: any.searches_clips || each.searches_clips,
        })
    }

    /// How all of `marks` whose inputs were recorded are rounded; `None` if some differ.
    pub(crate) fn uniform(
        &self,
        checkpoint: &Checkpoint,
        marks: impl Iterator<Item = (TensorId, Quantizer)>,
    ) -> Option<InputRounding> {
        if self.is_empty() {
            return Some(InputRounding::default());
        }
        let (open, any) = (self.activations.clone()?, self.any());
        (RoundingByInputs::new(checkpoint, marks, any, open) == *self).then_some(any)
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
