//! The budget: a point on the curve of bytes against error, and the marks of that point.

use crate::activations::ActivationMode;
use crate::app::model::Model;
use crate::app::tensor_metrics::{Cost, SCHEMES};
use crate::plan::Plan;
use crate::plan::budget::{Choice, Curve, Point};
use crate::quantization::Quantizer;
use crate::tensor::TensorId;
use std::collections::HashSet;

#[derive(Debug)]
pub struct Budget {
    pub curve: Curve,
    /// The selected point; at 0 nothing is quantized.
    pub at: usize,
    /// Which of [`SCHEMES`] may be used.
    pub allowed: [bool; SCHEMES.len()],
    /// The scheme under the cursor, which Space allows or forbids.
    pub chosen: usize,
    /// Number of tensors that the curve chooses schemes for.
    pub tensors: usize,
    /// Parameters of these tensors: the error is averaged over them.
    pub parameters: u64,
    /// Quantizable tensors that are not measured yet and keep their type.
    pub waiting: usize,
    /// Whether the marks are those of the curve; false until the user moves along it.
    pub moved: bool,
    /// The plan from before the budget was opened.
    pub before: Plan,
    /// Size and error of that plan; `None` while some of its marks are not measured.
    pub own: Option<Point>,
    choosable: HashSet<TensorId>,
}

/// Why there is no budget to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBudget {
    NothingQuantizable,
    NothingMeasured,
}

impl Budget {
    pub fn new(model: &Model) -> Result<Budget, NoBudget> {
        let quantizable = model.checkpoint.ids().any(|id| model.quantizable(id));
        if !quantizable {
            return Err(NoBudget::NothingQuantizable);
        }
        let mut budget = Budget {
            curve: Curve::new(0, []),
            at: 0,
            allowed: [true; SCHEMES.len()],
            chosen: 0,
            tensors: 0,
            parameters: 0,
            waiting: 0,
            moved: false,
            before: model.plan().clone(),
            own: None,
            choosable: HashSet::new(),
        };
        budget.draw_up(model);
        if budget.tensors == 0 {
            return Err(NoBudget::NothingMeasured);
        }
        // Start at the nearest point that is no larger than the current plan.
        let size = budget.own_bytes(model);
        budget.at = budget.curve.within(size).unwrap_or(budget.last());
        Ok(budget)
    }

    /// Computes the curve from what is measured and allowed now.
    fn draw_up(&mut self, model: &Model) {
        (self.tensors, self.parameters, self.waiting) = (0, 0, 0);
        self.choosable.clear();
        let mut fixed = model.checkpoint.total_bytes();
        let mut own = Some(0.0);
        let mut options = Vec::new();
        for id in model.checkpoint.ids() {
            let tensor = model.checkpoint.tensor(id);
            let choices = match model.quantizable(id) {
                true => choices(model, id, &self.allowed),
                false => None,
            };
            match choices {
                Some(choices) => {
                    fixed = fixed.saturating_sub(tensor.bytes);
                    self.tensors += 1;
                    self.parameters = self.parameters.saturating_add(tensor.parameters());
                    self.choosable.insert(id);
                    own = own.zip(error_of(model, &self.before, id)).map(|(sum, e)| sum + e);
                    options.push((id, choices));
                }
                None => {
                    self.waiting += usize::from(model.is_waiting(id) && model.quantizable(id));
                    // A mark on a tensor outside the choice keeps its scheme and its size.
                    if let Some(quantizer) = self.before.get(id) {
                        fixed = fixed
                            .saturating_sub(tensor.bytes)
                            .saturating_add(quantizer.scheme.bytes(&tensor.shape, 4));
                    }
                }
            }
        }
        self.curve = Curve::new(fixed, options);
        let bytes = self.own_bytes(model);
        let marked = self.before.iter().any(|(id, _)| self.choosable.contains(&id));
        self.own = own.filter(|_| marked).map(|error| Point { bytes, error });
    }

    fn own_bytes(&self, model: &Model) -> u64 {
        self.before.totals(&model.checkpoint).after
    }

    pub fn last(&self) -> usize {
        self.curve.points().len().saturating_sub(1)
    }

    pub fn point(&self) -> Point {
        self.curve.points().get(self.at).copied().unwrap_or(Point { bytes: 0, error: 0.0 })
    }

    /// Recomputes the curve and selects the point nearest to the current size.
    pub fn follow(&mut self, model: &Model) {
        let size = self.point().bytes;
        self.draw_up(model);
        self.at = self.curve.within(size).unwrap_or(self.last());
    }

    /// Allows or forbids the scheme under the cursor.
    pub fn toggle(&mut self, model: &Model) {
        if let Some(allowed) = self.allowed.get_mut(self.chosen) {
            *allowed = !*allowed;
        }
        self.follow(model);
    }

    /// Moves by one point, or by a number of twentieths of the curve's size range.
    pub fn step(&mut self, smaller: bool, twentieths: u64) {
        self.moved = true;
        if twentieths == 0 {
            self.at = match smaller {
                true => (self.at + 1).min(self.last()),
                false => self.at.saturating_sub(1),
            };
            return;
        }
        let points = self.curve.points();
        let (Some(largest), Some(smallest)) = (points.first(), points.last()) else { return };
        let stride = ((largest.bytes - smallest.bytes) / 20).max(1) * twentieths;
        let now = self.point().bytes;
        self.at = match smaller {
            true => self.curve.within(now.saturating_sub(stride)).unwrap_or(self.last()),
            // The largest point within the size, but at least one step away.
            false => {
                let at = self.curve.within(now.saturating_add(stride)).unwrap_or(0);
                at.min(self.at.saturating_sub(1))
            }
        };
    }

    /// Moves to a share of the size range: 0 is the smallest point, 1 is unquantized.
    pub fn go_to(&mut self, share: f64) {
        self.moved = true;
        let points = self.curve.points();
        let (Some(largest), Some(smallest)) = (points.first(), points.last()) else { return };
        let span = (largest.bytes - smallest.bytes) as f64;
        let bytes = smallest.bytes + (span * share.clamp(0.0, 1.0)) as u64;
        self.at = self.curve.within(bytes).unwrap_or(self.last());
    }

    /// The marks of the selected point. Tensors outside the choice keep their marks.
    pub fn plan(&self) -> Plan {
        if !self.moved {
            return self.before.clone();
        }
        let mut plan = self.curve.plan(self.at, self.before.rounding);
        plan.inputs = self.before.inputs.clone();
        for (id, quantizer) in self.before.iter().filter(|(id, _)| !self.choosable.contains(id)) {
            plan.mark(id, quantizer);
        }
        plan
    }

    /// The error of a point as a share of the weights' energy, averaged over parameters.
    pub fn share(&self, point: Point) -> f64 {
        match self.parameters {
            0 => 0.0,
            n => point.error / n as f64,
        }
    }
}

/// The choices for a tensor; `None` while none of the allowed schemes is measured.
fn choices(model: &Model, id: TensorId, allowed: &[bool; SCHEMES.len()]) -> Option<Vec<Choice>> {
    let tensor = model.checkpoint.tensor(id);
    let facts = model.known(id).facts()?;
    let mut choices = vec![Choice::kept(tensor)];
    let mut measured = false;
    for (scheme, _) in SCHEMES.into_iter().zip(allowed).filter(|(_, allowed)| **allowed) {
        let quantizer = model.usual(id, scheme);
        match facts.cost_of(quantizer) {
            Some(Cost::Error { noise_share, .. }) => {
                measured = true;
                let share = share(model, id, quantizer).unwrap_or(*noise_share);
                choices.push(Choice::quantized(tensor, quantizer, share));
            }
            Some(Cost::Impossible(_)) => measured = true,
            None => {}
        }
    }
    // If every scheme is forbidden, keeping the type is the only choice.
    (measured || allowed.iter().all(|allowed| !allowed)).then_some(choices)
}

/// The output error of the layer, if it is measured. It replaces the weight error.
fn share(model: &Model, id: TensorId, quantizer: Quantizer) -> Option<f64> {
    model.outputs.as_ref()?.error(id, quantizer)?.ratio(ActivationMode::Weights)
}

/// The error of a tensor under `plan`; `None` if it is not measured.
fn error_of(model: &Model, plan: &Plan, id: TensorId) -> Option<f64> {
    let Some(quantizer) = plan.get(id) else { return Some(0.0) };
    match model.known(id).facts()?.cost_of(quantizer)? {
        Cost::Error { noise_share, .. } => {
            let tensor = model.checkpoint.tensor(id);
            let share = share(model, id, quantizer).unwrap_or(*noise_share);
            Some(Choice::quantized(tensor, quantizer, share).error)
        }
        Cost::Impossible(_) => None,
    }
}
