//! Changes of a model's marks, each of which is one undo step.

use crate::app::model::Model;
use crate::app::tensor_metrics::Measurement;
use crate::plan::gguf_mix::{becomes_f16_in, f16_mark, new_mark_in};
use crate::plan::{Plan, default_calibration, effective_quantizer};
use crate::quantization::{AnalysisSpec, Calibration, QuantizationScheme, Quantizer};
use crate::tensor::TensorId;
use rayon::prelude::*;
use std::collections::HashSet;

impl Model {
    /// Changes the plan as one undo step. Returns false if nothing changed.
    fn change(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut next = self.plan.clone();
        change(&mut next);
        next.keep_possible_by_inputs();
        if next == self.plan {
            return false;
        }
        self.history.record(std::mem::replace(&mut self.plan, next));
        self.update_for_plan();
        true
    }

    /// The quantizer of new marks, before it is adapted to a tensor.
    pub fn quantizer(&self) -> Quantizer {
        Quantizer { calibration: default_calibration(&self.checkpoint), scheme: self.scheme }
    }

    /// The quantizer of a new mark on each tensor.
    fn new_mark(&self) -> impl Fn(TensorId) -> Quantizer + use<> {
        let (checkpoint, quantizer) = (self.checkpoint.clone(), self.quantizer());
        let container = self.container();
        move |id| new_mark_in(container, &checkpoint, id, quantizer)
    }

    /// Marks tensors. Returns whether that changed the plan.
    pub fn mark(&mut self, ids: &[TensorId]) -> bool {
        let new = self.new_mark();
        self.change(|plan| plan.update(ids, |id, mark| mark.or_else(|| Some(new(id)))))
    }

    /// Removes marks. Returns whether that changed the plan.
    pub fn unmark(&mut self, ids: &[TensorId]) -> bool {
        self.change(|plan| plan.update(ids, |_, _| None))
    }

    /// Marks the tensors that are not marked, and unmarks the others.
    pub fn invert(&mut self, ids: &[TensorId]) -> bool {
        let new = self.new_mark();
        self.change(|plan| plan.update(ids, |id, mark| mark.is_none().then(|| new(id))))
    }

    /// Marks these tensors and no others. Existing marks keep their scheme.
    pub fn mark_only(&mut self, ids: &[TensorId]) -> bool {
        let new = self.new_mark();
        self.change(|plan| {
            let wanted: HashSet<TensorId> = ids.iter().copied().collect();
            let others = plan.iter().map(|(id, _)| id).filter(|id| !wanted.contains(id));
            let others: Vec<TensorId> = others.collect();
            plan.update(&others, |_, _| None);
            plan.update(ids, |id, mark| mark.or_else(|| Some(new(id))));
        })
    }

    /// Gives tensors a scheme, and marks those that are not marked. A mark with the default
    /// calibration of its old scheme gets the default calibration of the new one: learned scales
    /// fit only some schemes.
    pub fn mark_as(&mut self, ids: &[TensorId], scheme: QuantizationScheme) -> bool {
        let checkpoint = self.checkpoint.clone();
        let calibration = default_calibration(&checkpoint);
        let container = self.container();
        let quantizer = |id, mark: Option<Quantizer>| {
            if becomes_f16_in(container, &checkpoint, id) {
                return f16_mark();
            }
            let usual =
                |scheme| effective_quantizer(&checkpoint, id, Quantizer { calibration, scheme });
            match mark {
                Some(before) if before != usual(before.scheme) => Quantizer { scheme, ..before },
                _ => usual(scheme),
            }
        };
        self.change(|plan| plan.update(ids, |id, mark| Some(quantizer(id, mark))))
    }

    /// Replaces the plan as one undo step. Tensors known to have no scale are left out. Returns
    /// false if nothing changed.
    pub fn replace(&mut self, mut plan: Plan) -> bool {
        self.drop_impossible(&mut plan);
        self.change(|now| *now = plan)
    }

    /// Shows a plan without an undo step. The caller restores the previous plan.
    pub fn try_out(&mut self, mut plan: Plan) {
        self.drop_impossible(&mut plan);
        self.plan = plan;
        self.update_for_plan();
    }

    /// Changes the calibration of the marked tensors among `ids`.
    pub fn set_calibration(&mut self, ids: &[TensorId], calibration: Calibration) -> bool {
        let checkpoint = self.checkpoint.clone();
        let quantizer = |id, mark: Quantizer| {
            effective_quantizer(&checkpoint, id, Quantizer { calibration, ..mark })
        };
        self.change(|plan| plan.update(ids, |id, mark| Some(quantizer(id, mark?))))
    }

    /// Marks a tensor with a quantizer of its own.
    pub fn mark_with(&mut self, id: TensorId, quantizer: Quantizer) -> bool {
        self.change(|plan| plan.mark(id, quantizer))
    }

    /// Computes the errors of new marks from histograms where that is exact. Returns whether any
    /// was computed, and the marks that have to be measured.
    pub fn unmeasured(&mut self) -> (bool, Vec<(TensorId, Quantizer)>) {
        let (mut counted, mut left) = (Vec::new(), Vec::new());
        for id in std::mem::take(&mut self.unchecked_marks) {
            let Some(quantizer) = self.plan.get(id) else { continue };
            let Some(Measurement::Done(metrics)) = self.measurements.get(id.index()) else {
                continue;
            };
            let is_measured = metrics.cost_of(quantizer).is_some();
            let usual = [Calibration::MinMax, Calibration::Learned];
            if is_measured || usual.contains(&quantizer.calibration) {
                // The calibration of all tensors measures these.
                continue;
            }
            let one_scale = quantizer.scheme.groups(&self.checkpoint.tensor(id).shape).count() == 1;
            let exact = metrics.histogram.as_ref().filter(|found| one_scale && found.is_exact());
            match exact {
                Some(values) => counted.push((id, quantizer, values)),
                None => left.push((id, quantizer)),
            }
        }
        let spec = AnalysisSpec {
            scale_storage: self.scale_storage(),
            ..AnalysisSpec::errors(Vec::new(), self.plan.rounding)
        };
        let answers: Vec<_> = counted
            .into_par_iter()
            .map(|(id, quantizer, values)| (id, spec.outcome_of(values, quantizer)))
            .collect();
        let answered = !answers.is_empty();
        for (id, outcome) in answers {
            if let Some(Measurement::Done(metrics)) = self.measurements.get_mut(id.index()) {
                metrics.record_outcome(&outcome);
            }
            self.update_sqnr(id);
        }
        (answered, left)
    }

    /// Undoes the last change. Returns whether there was one.
    pub fn undo(&mut self) -> bool {
        let done = self.history.undo(&mut self.plan);
        self.after_history_step();
        done
    }

    /// Does again what was undone. Returns whether there was something.
    pub fn redo(&mut self) -> bool {
        let done = self.history.redo(&mut self.plan);
        self.after_history_step();
        done
    }

    /// An old plan may mark a tensor that has turned out to have no scale since.
    fn after_history_step(&mut self) {
        let mut plan = std::mem::take(&mut self.plan);
        self.drop_impossible(&mut plan);
        self.plan = plan;
        self.update_for_plan();
    }

    fn drop_impossible(&self, plan: &mut Plan) {
        let impossible: Vec<TensorId> = plan
            .iter()
            .map(|(id, _)| id)
            .filter(|&id| !self.quantizable(id))
            .filter(|&id| self.obstacle(id).is_some_and(|o| !o.can_be_overruled()))
            .collect();
        impossible.into_iter().for_each(|id| plan.unmark(id));
    }
}
