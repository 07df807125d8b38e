//! FP8 with recorded scales of inputs, which the target offers once scales are known.

use crate::app::model::Model;
use crate::export::fp8_input_scale;
use crate::plan::target::{Container, LinearScheme};
use crate::plan::{InputQuantization, Plan};
use crate::quantization::{Preset, QuantizationScheme};
use crate::tensor::TensorId;

const FP8: QuantizationScheme = QuantizationScheme::Preset(Preset::Fp8);

/// The format that stores recorded scales of FP8 inputs.
pub(crate) const PRESETS: Container = Container::CompressedTensors(LinearScheme::Presets);

impl Model {
    /// Offers FP8 if the target stores scales of its inputs and some are known. Returns true if it
    /// was not offered before.
    pub fn offer_recorded_fp8(&mut self) -> bool {
        let stores = self.rules.target().container() == PRESETS;
        let is_new = stores && !self.schemes.contains(&FP8) && !self.input_scales().is_empty();
        if is_new {
            self.schemes.push(FP8);
        }
        is_new
    }

    /// Whether marks of a scheme need recorded scales of their layers' inputs.
    pub fn needs_recorded_inputs(&self, scheme: QuantizationScheme) -> bool {
        scheme == FP8 && self.rules.target().container() == PRESETS
    }

    /// The marks of FP8 in the plan whose layers have no known scale of inputs.
    pub(crate) fn fp8_without_inputs(&self) -> Vec<TensorId> {
        let scales = self.input_scales();
        let marked = self.plan.iter().filter(|(_, quantizer)| quantizer.scheme == FP8);
        marked.map(|(id, _)| id).filter(|id| !scales.contains_key(id)).collect()
    }

    /// Gives the marks of FP8 in `plan` the scales of their layers' inputs: those that the plan
    /// has, and otherwise the recorded ones.
    pub(crate) fn with_fp8_inputs(&self, mut plan: Plan) -> Plan {
        let recorded = self.recorded_input_scales();
        let marked = plan.iter().filter(|(_, quantizer)| quantizer.scheme == FP8);
        let scale = |id: TensorId| {
            let own = plan.inputs.scale(id);
            own.or_else(|| recorded.get(&id).copied().map(fp8_input_scale))
        };
        let scales = marked.filter_map(|(id, _)| Some((id, scale(id)?)));
        let scales: std::collections::BTreeMap<TensorId, f32> = scales.collect();
        plan.inputs = if scales.is_empty() {
            InputQuantization::Dynamic
        } else {
            InputQuantization::Static(scales)
        };
        plan
    }
}
