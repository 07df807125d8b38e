//! Rounding for recorded inputs, which the save dialog offers once recordings are open.

use crate::activations::Activations;
use crate::app::model::Model;
use crate::plan::{Plan, RoundingByInputs};
use crate::quantization::InputRounding;
use std::sync::Arc;

impl Model {
    fn recordings(&self) -> Option<Arc<Activations>> {
        self.outputs.as_ref()?.activations.clone()
    }

    /// Whether a mark can be rounded for its layer's recorded inputs, or is to be.
    pub fn offers_rounding_by_inputs(&self) -> bool {
        let (checkpoint, plan) = (&self.checkpoint, &self.plan);
        let can_be = |recordings| {
            let found = RoundingByInputs::new(
                checkpoint,
                plan.iter(),
                InputRounding::default(),
                recordings,
            );
            !found.is_empty()
        };
        !plan.by_inputs.is_empty() || self.recordings().is_some_and(can_be)
    }

    /// The marks of `plan` that are rounded for recorded inputs: those that the plan names, or all
    /// whose inputs were recorded if `chosen` says how.
    pub(crate) fn rounded_by_inputs(
        &self,
        plan: &Plan,
        chosen: Option<InputRounding>,
    ) -> RoundingByInputs {
        let recordings = self.recordings();
        match chosen {
            Some(chosen) if chosen == InputRounding::default() => RoundingByInputs::default(),
            Some(chosen) => match recordings {
                Some(open) => RoundingByInputs::new(&self.checkpoint, plan.iter(), chosen, open),
                None => plan.by_inputs.clone().rounded(chosen),
            },
            None => match recordings {
                Some(open) => plan.by_inputs.clone().with(open),
                None => plan.by_inputs.clone(),
            },
        }
    }
}
