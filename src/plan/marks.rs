//! The plan: which tensors are quantized, and with which quantizer.

use crate::checkpoint::Checkpoint;
use crate::plan::choices::Choices;
use crate::plan::gguf_mix_names::GgufMix;
use crate::plan::inputs::InputQuantization;
use crate::plan::rounding_by_inputs::RoundingByInputs;
use crate::plan::target::Target;
use crate::quantization::ggml::Importance;
use crate::quantization::{Calibration, QuantizationScheme, Quantizer, Rounding};
use crate::tensor::{FloatType, TensorId};
use rayon::prelude::*;

/// The tensors to quantize, each with its quantizer, in the order of the checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The loaders that are to open the output, and its format.
    pub target: Target,
    /// How values halfway between two integers are rounded.
    pub rounding: Rounding,
    /// How the inputs of the layers are quantized.
    pub inputs: InputQuantization,
    /// The importance of the elements, with which ggml's block types are quantized.
    pub importance: Importance,
    /// The mix of llama.cpp that the marks are, if one was asked for.
    pub mix: Option<GgufMix>,
    /// The tensors that are rounded for their layers' recorded inputs.
    pub by_inputs: RoundingByInputs,
    choices: Choices,
}

/// Number of marks, and size before and after quantization.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of marked tensors.
    pub marked: usize,
    /// Bytes of the whole checkpoint's tensors.
    pub before: u64,
    /// The same bytes with the marked tensors quantized.
    pub after: u64,
}

impl Plan {
    /// An empty plan.
    pub fn new(rounding: Rounding) -> Plan {
        Plan { rounding, ..Plan::default() }
    }

    /// A plan with the same quantizer for all of `tensors`.
    pub fn uniform(
        tensors: impl IntoIterator<Item = TensorId>,
        scheme: QuantizationScheme,
        rounding: Rounding,
    ) -> Plan {
        let quantizer = Quantizer { calibration: Calibration::MinMax, scheme };
        let choices = tensors.into_iter().map(|id| (id, quantizer)).collect();
        Plan { rounding, choices, ..Plan::default() }
    }

    /// Marks a tensor, or changes its quantizer.
    pub fn mark(&mut self, id: TensorId, quantizer: Quantizer) {
        self.choices.insert(id, quantizer);
    }

    /// Removes the mark of a tensor.
    pub fn unmark(&mut self, id: TensorId) {
        self.choices.remove(id);
    }

    /// Rounds to nearest what is no longer marked, or has a scheme that cannot be rounded for its
    /// inputs.
    pub(crate) fn keep_possible_by_inputs(&mut self) {
        let mut by_inputs = std::mem::take(&mut self.by_inputs);
        by_inputs.retain(|id| self.get(id));
        self.by_inputs = by_inputs;
    }

    /// Gives each of `ids` the quantizer that `choose` returns for its present one, on all cores.
    /// `None` means no mark.
    pub(crate) fn update(
        &mut self,
        ids: &[TensorId],
        choose: impl Fn(TensorId, Option<Quantizer>) -> Option<Quantizer> + Sync,
    ) {
        self.choices.update(ids, choose);
    }

    /// The quantizer of a tensor; `None` if it is not marked.
    pub fn get(&self, id: TensorId) -> Option<Quantizer> {
        self.choices.get(id)
    }

    /// Returns whether a tensor is marked.
    pub fn is_marked(&self, id: TensorId) -> bool {
        self.get(id).is_some()
    }

    /// The marked tensors with their quantizers, in the order of the checkpoint.
    pub fn iter(&self) -> impl Iterator<Item = (TensorId, Quantizer)> {
        self.choices.iter()
    }

    /// Computes something of parts of the marks on all cores. Returns the results in the order of
    /// the checkpoint; the parts do not depend on the number of cores.
    pub(crate) fn map_parts<T: Send>(
        &self,
        map: impl Fn(&mut dyn Iterator<Item = (TensorId, Quantizer)>) -> T + Sync,
    ) -> Vec<T> {
        self.choices.map_pages(map)
    }

    /// Number of marked tensors.
    pub fn len(&self) -> usize {
        self.choices.len()
    }

    /// Returns whether no tensor is marked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of a marked tensor in the target's format, the scale of its inputs included.
    fn bytes_of(&self, checkpoint: &Checkpoint, id: TensorId, quantizer: Quantizer) -> u64 {
        let tensor = checkpoint.tensor(id);
        let container = self.target.container_from(checkpoint.format());
        let float = tensor.dtype.float().unwrap_or(FloatType::F32);
        let input = match self.inputs.scale(id) {
            Some(_) => container.scale_storage().scale_bytes(float),
            None => 0,
        };
        container.bytes(quantizer.scheme, tensor) + input
    }

    /// The tensors whose quantizer differs between the two plans.
    pub fn differing<'p>(&'p self, other: &'p Plan) -> impl ParallelIterator<Item = TensorId> {
        self.choices.differing(&other.choices)
    }

    /// Size before and after quantization, as the target's format stores the marked tensors.
    pub fn totals(&self, checkpoint: &Checkpoint) -> Totals {
        let before = checkpoint.total_bytes();
        let sizes = self.map_parts(|marks| {
            let sizes = marks.map(|(id, quantizer)| {
                let stored = self.bytes_of(checkpoint, id, quantizer);
                (u128::from(checkpoint.tensor(id).bytes), u128::from(stored))
            });
            sizes.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
        });
        let (float, stored) = sizes.into_iter().fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let after = u128::from(before).saturating_sub(float) + stored;
        Totals { marked: self.len(), before, after: after.try_into().unwrap_or(u64::MAX) }
    }
}
