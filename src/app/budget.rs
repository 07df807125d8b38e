//! The budget: a point on the curve of bytes against error, and the marks of that point.

use crate::activations::ActivationMode;
use crate::app::model::Model;
use crate::app::tensor_metrics::Cost;
use crate::plan::Plan;
use crate::plan::budget::{Choice, Curve, Point, error_weight, shared_options};
use crate::plan::composition;
use crate::plan::gguf_baseline::{MixPoint, mix_points};
use crate::plan::gguf_mix::{GgufMix, f16_mark};
use crate::plan::target::Container;
use crate::quantization::{QuantizationScheme, Quantizer};
use crate::tensor::TensorId;
use crate::text::figures;
use crate::text::size::SizeLimit;
use std::collections::{HashMap, HashSet};
use tui_input::Input;

/// The curve of bytes against error, and the selected point.
#[derive(Debug)]
pub struct Budget {
    /// The curve.
    pub curve: Curve,
    /// The selected point; at 0 nothing is quantized.
    pub at: usize,
    /// The schemes that the target allows, and whether each may be used.
    pub schemes: Vec<(QuantizationScheme, bool)>,
    /// Whether all marks must have the same scheme.
    pub one_scheme: bool,
    /// The scheme under the cursor, which Space allows or forbids.
    pub chosen: usize,
    /// Number of tensors that the curve chooses schemes for.
    pub tensors: usize,
    /// The sum of these tensors' weights: the error is averaged over them.
    weight: f64,
    /// Quantizable tensors that are not measured yet and keep their type.
    pub waiting: usize,
    /// Whether the user has moved along the curve. Until then the marks stay as they are.
    pub moved: bool,
    /// The size or error that is being typed.
    pub typing: Option<Input>,
    /// The plan from before the budget was opened.
    pub before: Plan,
    /// Size and error of that plan; `None` while some of its marks are not measured, or if it has
    /// none.
    pub own: Option<Point>,
    /// llama.cpp's mixes beside the curve, largest first; empty for other formats than GGUF.
    pub mixes: Vec<MixPoint>,
    /// The mix whose size the user selected; `None` after any other movement.
    named: Option<GgufMix>,
    choosable: HashSet<TensorId>,
    /// Tensors that become F16, because no block divides their rows.
    halves: HashSet<TensorId>,
}

/// Why there is no budget to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBudget {
    /// No tensor can be quantized.
    NothingQuantizable,
    /// No tensor has been measured yet.
    NothingMeasured,
}

impl Budget {
    /// Draws the curve of a model from what has been measured.
    pub fn new(model: &Model) -> Result<Budget, NoBudget> {
        let quantizable = model.checkpoint.ids().any(|id| model.quantizable(id));
        if !quantizable {
            return Err(NoBudget::NothingQuantizable);
        }
        let one_scheme = model.plan().target.container().has_one_scheme();
        let first = model.plan().iter().next().map(|(_, quantizer)| quantizer.scheme);
        let only = first.filter(|scheme| model.schemes().contains(scheme));
        let only = only.unwrap_or(model.scheme());
        let schemes = model.schemes().iter().filter(|&&s| !model.needs_recorded_inputs(s));
        let schemes = schemes.map(|&scheme| (scheme, !one_scheme || scheme == only));
        let schemes: Vec<_> = schemes.collect();
        let mut budget = Budget {
            curve: Curve::new(0, []),
            at: 0,
            chosen: schemes.iter().position(|(_, allowed)| *allowed).unwrap_or(0),
            schemes,
            one_scheme,
            tensors: 0,
            weight: 0.0,
            waiting: 0,
            moved: false,
            typing: None,
            before: model.plan().clone(),
            own: None,
            mixes: Vec::new(),
            named: None,
            choosable: HashSet::new(),
            halves: HashSet::new(),
        };
        budget.compute_curve(model);
        if budget.tensors == 0 {
            return Err(NoBudget::NothingMeasured);
        }
        // Start at the nearest point that is no larger than the current plan.
        let size = budget.own_bytes(model);
        budget.at = budget.curve.within(size).unwrap_or(budget.last());
        Ok(budget)
    }

    /// Computes the curve from what is measured and allowed now.
    fn compute_curve(&mut self, model: &Model) {
        (self.tensors, self.weight, self.waiting) = (0, 0.0, 0);
        self.choosable.clear();
        let mut fixed = model.checkpoint.total_bytes();
        let mut own = Some(0.0);
        let mut options = Vec::new();
        let units = model.rules().units();
        let quantizable = || model.checkpoint.ids().filter(|&id| model.quantizable(id));
        // Tensors that become F16 have that size at every point.
        self.halves = quantizable().filter(|&id| model.becomes_f16(id)).collect();
        for &id in self.halves.iter().filter(|&&id| !self.before.is_marked(id)) {
            let half = model.bytes(id, f16_mark().scheme);
            fixed = fixed.saturating_sub(model.checkpoint.tensor(id).bytes).saturating_add(half);
        }
        let quantizable = quantizable().filter(|id| !self.halves.contains(id));
        for unit in units.grouped(quantizable) {
            let Some(shared) = self.options_of(model, &unit) else {
                let waits = unit.iter().filter(|&&id| model.is_waiting(id)).count();
                self.waiting += waits;
                continue;
            };
            for &id in &unit {
                let tensor = model.checkpoint.tensor(id);
                fixed = fixed.saturating_sub(tensor.bytes);
                self.tensors += 1;
                self.weight += error_weight(&model.checkpoint, id, model.container());
                self.choosable.insert(id);
                own = own.zip(error_of(model, &self.before, id)).map(|(sum, e)| sum + e);
            }
            options.push((unit, shared));
        }
        // A mark on a tensor that the curve leaves out keeps its scheme and its size.
        for (id, quantizer) in self.before.iter().filter(|(id, _)| !self.choosable.contains(id)) {
            let tensor = model.checkpoint.tensor(id);
            fixed = fixed
                .saturating_sub(tensor.bytes)
                .saturating_add(model.bytes(id, quantizer.scheme));
        }
        self.curve = Curve::of_units(fixed, options);
        self.mixes = self.mixes_beside(model, fixed);
        let bytes = self.own_bytes(model);
        let marked = self.before.iter().any(|(id, _)| self.choosable.contains(&id));
        self.own = own.filter(|_| marked).map(|error| Point { bytes, error });
    }

    /// Returns llama.cpp's mixes whose types are measured for all tensors, including types that the
    /// user forbids.
    fn mixes_beside(&self, model: &Model, fixed: u64) -> Vec<MixPoint> {
        if model.plan().target.container() != Container::Gguf {
            return Vec::new();
        }
        let all: Vec<_> = self.schemes.iter().map(|(scheme, _)| (*scheme, true)).collect();
        let of = |&id: &TensorId| Some((id, choices(model, id, &all)?));
        let options = self.choosable.iter().filter_map(of).collect();
        let has_importance = !self.before.importance.is_empty();
        mix_points(&model.checkpoint, &self.curve, fixed, &options, has_importance)
    }

    /// The mix whose size the user selected, or else the one whose size is nearest to the selected
    /// point.
    pub fn nearest_mix(&self) -> Option<&MixPoint> {
        if let Some(named) = self.mixes.iter().find(|mix| Some(mix.mix) == self.named) {
            return Some(named);
        }
        let bytes = self.point().bytes;
        self.mixes.iter().min_by_key(|mix| mix.point.bytes.abs_diff(bytes))
    }

    /// The choices of tensors that share a scheme. `None` while one of them is not measured, or if a
    /// part of their fusion unit stays float.
    fn options_of(&self, model: &Model, tensors: &[TensorId]) -> Option<Vec<Choice>> {
        let whole = tensors.first().map(|&id| model.rules().units().with_rest(id).len());
        if whole != Some(tensors.len()) {
            return None;
        }
        let each = tensors.iter().map(|&id| choices(model, id, &self.schemes));
        Some(shared_options(each.collect::<Option<_>>()?))
    }

    /// The number of tensors of each type among those that the curve chooses schemes for, as `int4
    /// 212, fp8 31, float 9`.
    pub fn composition(&self, plan: &Plan) -> String {
        let chosen = self.choosable.iter().map(|&id| plan.get(id));
        composition(chosen.map(|quantizer| quantizer.map(|quantizer| quantizer.scheme)))
    }

    fn own_bytes(&self, model: &Model) -> u64 {
        self.before.totals(&model.checkpoint).after
    }

    /// Index of the point with the fewest bytes.
    pub fn last(&self) -> usize {
        self.curve.points().len().saturating_sub(1)
    }

    /// The selected point.
    pub fn point(&self) -> Point {
        self.curve.points().get(self.at).copied().unwrap_or(Point { bytes: 0, error: 0.0 })
    }

    /// Recomputes the curve and selects the point nearest to the current size.
    pub fn follow(&mut self, model: &Model) {
        let size = self.point().bytes;
        self.compute_curve(model);
        self.at = self.curve.within(size).unwrap_or(self.last());
    }

    /// Allows or forbids the scheme under the cursor. If all marks must have the same scheme, it
    /// becomes the only one allowed.
    pub fn toggle(&mut self, model: &Model) {
        let (one_scheme, chosen) = (self.one_scheme, self.chosen);
        for (number, (_, allowed)) in self.schemes.iter_mut().enumerate() {
            if number == chosen {
                *allowed = one_scheme || !*allowed
            } else {
                *allowed &= !one_scheme
            }
        }
        self.follow(model);
    }

    /// Whether any scheme may be used.
    pub fn allows_any(&self) -> bool {
        self.schemes.iter().any(|(_, allowed)| *allowed)
    }

    /// Moves to the point that a text describes: a size such as `60MB`, a share of the current size
    /// such as `50%`, a minimum mean SQNR such as `40dB`, or a mix of llama.cpp such as `Q4_K_M`,
    /// whose size is taken.
    ///
    /// # Errors
    /// Fails if the text is invalid, or if every point is larger than the size.
    pub fn go_to_text(&mut self, text: &str, model: &Model) -> Result<(), String> {
        let text = text.trim();
        let lower = text.to_ascii_lowercase();
        let mut mixes = self.mixes.iter();
        let mix = mixes.find(|mix| mix.mix.to_string().eq_ignore_ascii_case(text));
        let mix = mix.copied();
        self.named = mix.map(|mix| mix.mix);
        if let Some(at) = mix.and_then(|mix| self.curve.within(mix.point.bytes)) {
            (self.at, self.moved) = (at, true);
            return Ok(());
        }
        let at = match lower.strip_suffix("db").map(str::trim) {
            Some(number) => {
                let least = number.parse::<f64>().ok().filter(|db| db.is_finite());
                let least = least
                    .ok_or_else(|| format!("invalid error '{text}': expected dB, such as 40dB"))?;
                self.at_mean(least, model)
            }
            None => {
                let limit: SizeLimit =
                    text.parse().map_err(|why: String| format!("{why}, or 40dB"))?;
                let checkpoint = &model.checkpoint;
                let bytes = limit.bytes(checkpoint.total_bytes(), checkpoint.parameters());
                self.curve.within(bytes).ok_or_else(|| {
                    let smallest = self.curve.points().last().map_or(0, |point| point.bytes);
                    format!("no plan is that small: the smallest has {}", figures::bytes(smallest))
                })?
            }
        };
        (self.at, self.moved) = (at, true);
        Ok(())
    }

    /// The smallest point with a mean SQNR of at least `min_db`.
    fn at_mean(&self, min_db: f64, model: &Model) -> usize {
        let db = |id: TensorId, quantizer: Quantizer| {
            let error =
                model.measurement(id).metrics().and_then(|metrics| metrics.error_of(quantizer));
            error.map(|error| error.sqnr_db).filter(|db| db.is_finite())
        };
        let start = self.plan_at(0);
        let mut each: HashMap<TensorId, f64> =
            start.iter().filter_map(|(id, quantizer)| Some((id, db(id, quantizer)?))).collect();
        let mut sum: f64 = each.values().sum();
        let mut found = 0;
        for (point, (tensors, choice)) in (1..).zip(self.curve.steps()) {
            for &id in tensors {
                sum -= each.remove(&id).unwrap_or(0.0);
                if let Some(db) = choice.quantizer.and_then(|quantizer| db(id, quantizer)) {
                    each.insert(id, db);
                    sum += db;
                }
            }
            if each.is_empty() || sum / each.len() as f64 >= min_db {
                found = point;
            }
        }
        found
    }

    /// Moves by one point, or by a number of twentieths of the curve's size range.
    pub fn step(&mut self, smaller: bool, twentieths: u64) {
        (self.moved, self.named) = (true, None);
        if twentieths == 0 {
            self.at =
                if smaller { (self.at + 1).min(self.last()) } else { self.at.saturating_sub(1) };
            return;
        }
        let points = self.curve.points();
        let (Some(largest), Some(smallest)) = (points.first(), points.last()) else { return };
        let stride = ((largest.bytes - smallest.bytes) / 20).max(1) * twentieths;
        let now = self.point().bytes;
        self.at = if smaller {
            self.curve.within(now.saturating_sub(stride)).unwrap_or(self.last())
        } else {
            // The largest point within the size, but at least one step away.
            let at = self.curve.within(now.saturating_add(stride)).unwrap_or(0);
            at.min(self.at.saturating_sub(1))
        };
    }

    /// Moves to a share of the size range: 0 is the smallest point, 1 is unquantized.
    pub fn go_to(&mut self, share: f64) {
        (self.moved, self.named) = (true, None);
        let points = self.curve.points();
        let (Some(largest), Some(smallest)) = (points.first(), points.last()) else { return };
        let span = (largest.bytes - smallest.bytes) as f64;
        let bytes = smallest.bytes + (span * share.clamp(0.0, 1.0)) as u64;
        self.at = self.curve.within(bytes).unwrap_or(self.last());
    }

    /// The marks of the selected point. Tensors that the curve leaves out keep their marks.
    pub fn plan(&self) -> Plan {
        if self.moved { self.plan_at(self.at) } else { self.before.clone() }
    }

    fn plan_at(&self, point: usize) -> Plan {
        let mut plan = self.curve.plan(point, self.before.rounding);
        plan.inputs = self.before.inputs.clone();
        plan.importance = self.before.importance.clone();
        plan.target = self.before.target.clone();
        for (id, quantizer) in self.before.iter().filter(|(id, _)| !self.choosable.contains(id)) {
            plan.mark(id, quantizer);
        }
        self.halves.iter().for_each(|&id| plan.mark(id, f16_mark()));
        plan
    }

    /// The error of a point as a share of the weights' energy, averaged over tensors by their
    /// weights.
    pub fn share(&self, point: Point) -> f64 {
        if self.weight > 0.0 { point.error / self.weight } else { 0.0 }
    }
}

/// The choices for a tensor; `None` while none of the allowed schemes is measured.
fn choices(
    model: &Model,
    id: TensorId,
    schemes: &[(QuantizationScheme, bool)],
) -> Option<Vec<Choice>> {
    let tensor = model.checkpoint.tensor(id);
    let metrics = model.measurement(id).metrics()?;
    let mut choices = vec![Choice::kept(tensor)];
    let mut measured = false;
    let container = model.container();
    let allowed = || schemes.iter().filter(|(_, allowed)| *allowed);
    for &(scheme, _) in allowed() {
        if model.scheme_obstacle(id, scheme).is_some() {
            measured = true;
            continue;
        }
        let quantizer = model.default_quantizer(id, scheme);
        match metrics.cost_of(quantizer) {
            Some(Cost::Error { loss, .. }) => {
                measured = true;
                let share = share(model, id, quantizer).unwrap_or(loss.noise_share());
                let error = share * error_weight(&model.checkpoint, id, container);
                choices.push(Choice::quantized(tensor, container, quantizer, error));
            }
            Some(Cost::Impossible(_)) => measured = true,
            None => {}
        }
    }
    // If every scheme is forbidden, keeping the type is the only choice.
    (measured || allowed().next().is_none()).then_some(choices)
}

/// The output error of the layer, if it is measured. It replaces the weight error.
fn share(model: &Model, id: TensorId, quantizer: Quantizer) -> Option<f64> {
    model.outputs.as_ref()?.error(id, quantizer)?.ratio(ActivationMode::Weights)
}

/// The error of a tensor under `plan`; `None` if it is not measured.
fn error_of(model: &Model, plan: &Plan, id: TensorId) -> Option<f64> {
    let Some(quantizer) = plan.get(id) else { return Some(0.0) };
    match model.measurement(id).metrics()?.cost_of(quantizer)? {
        Cost::Error { loss, .. } => {
            let tensor = model.checkpoint.tensor(id);
            let share = share(model, id, quantizer).unwrap_or(loss.noise_share());
            let container = plan.target.container_from(model.checkpoint.format());
            let error = share * error_weight(&model.checkpoint, id, container);
            Some(Choice::quantized(tensor, container, quantizer, error).error)
        }
        Cost::Impossible(_) => None,
    }
}
