//! The checkpoint with everything measured of its tensors, and the plan for it.

mod eligibility;
mod marks;
mod quality;
mod recorded_fp8;
mod recorded_rounding;

pub use quality::Quality;
pub(crate) use recorded_fp8::PRESETS;

use crate::activations::OutputError;
use crate::app::name_shapes::NameShapes;
use crate::app::outputs::Outputs;
use crate::app::tensor_metrics::{Cost, Measurement, SCHEMES, Sqnr, TensorMetrics};
use crate::checkpoint::{Checkpoint, Content, Format, ReadError};
use crate::job::duplicates;
use crate::job::duplicates::Candidates;
use crate::plan::experts::ExpertLayers;
use crate::plan::gguf_mix::{becomes_f16_in, new_mark_in};
use crate::plan::rules::{Eligibility, Reason, TargetRules};
use crate::plan::target::Container;
use crate::plan::{
    History, InputQuantization, Obstacle, Plan, Totals, default_scheme, observed_input_scales,
};
use crate::quantization::{
    Analysis, Calibration, Diagnostic, ErrorStatistics, QuantizationScheme, Quantizer, Rating,
    ScaleStorage, SharedAbsmax, Thresholds,
};
use crate::tensor::{FloatType, TensorId};
use crate::text::names;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Counts over the whole checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Inventory {
    /// Number of parameters.
    pub parameters: u64,
    /// Each dtype with its number of tensors, most frequent first.
    pub dtypes: Vec<(String, usize)>,
}

impl Inventory {
    fn of(checkpoint: &Checkpoint) -> Inventory {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            *counts.entry(tensor.dtype.name()).or_default() += 1;
        }
        let mut dtypes: Vec<_> =
            counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        dtypes.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        Inventory { parameters: checkpoint.parameters(), dtypes }
    }
}

/// A checkpoint with its plan and what was measured.
#[derive(Debug)]
pub struct Model {
    /// The checkpoint.
    pub checkpoint: Arc<Checkpoint>,
    /// Counts over the whole checkpoint.
    pub inventory: Inventory,
    measurements: Vec<Measurement>,
    /// The rules of the plan's target for this checkpoint.
    rules: TargetRules,
    /// Whether the target takes each tensor.
    eligibility: Vec<Eligibility>,
    /// Whether each tensor is quantized by default: `eligibility` in a few bytes, because many keys
    /// read it for every tensor.
    quantizable: Vec<bool>,
    /// The schemes that the target allows, smallest first.
    schemes: Vec<QuantizationScheme>,
    /// Whether a tensor has floats of 16 bits.
    has_half_floats: bool,
    /// Whether the checkpoint holds quantized tensors.
    holds_quantized: bool,
    /// The layers of experts; found when one is shown.
    experts: OnceLock<ExpertLayers>,
    /// The names by shape, for filters; computed when the first one is typed.
    name_shapes: OnceLock<NameShapes>,
    /// The limits between ratings.
    pub thresholds: Thresholds,
    /// The scheme of new marks, and of tensors that are not marked.
    scheme: QuantizationScheme,
    plan: Plan,
    /// The SQNR of each tensor under its scheme. Kept in one vector because every key reads it for
    /// every tensor, and metrics are scattered in memory.
    sqnrs: Vec<Sqnr>,
    /// The plan that `sqnrs` were computed for.
    sqnr_plan: Plan,
    history: History<Plan>,
    /// The plan as it was last saved.
    saved: Plan,
    totals: Totals,
    quality: Quality,
    /// Output errors of the layers, once captured activations are open.
    pub outputs: Option<Outputs>,
    /// Bytes of the histograms in memory.
    histogram_bytes: usize,
    /// Marks whose error may be unknown because they, or the metrics of their tensors, changed.
    unchecked_marks: Vec<TensorId>,
}

/// Tensors per parallel task; smaller tasks cost more to start than they save.
pub(crate) const TENSORS_PER_TASK: usize = 4096;

/// Limit for the histograms in memory, in bytes. The others are built again when they are shown.
const MAX_HISTOGRAM_BYTES: usize = 64 << 20;

impl Model {
    /// A model without marks or measurements.
    pub fn new(checkpoint: Arc<Checkpoint>) -> Model {
        let float = |id| match checkpoint.float_type(id) {
            Some(_) => Measurement::Waiting,
            None => Measurement::NotFloat,
        };
        let measurements = checkpoint.ids().map(float).collect();
        let inventory = Inventory::of(&checkpoint);
        let totals = Plan::default().totals(&checkpoint);
        let scheme = initial_scheme(&checkpoint);
        let is_half = |id| {
            let float = checkpoint.float_type(id);
            matches!(float, Some(FloatType::F16 | FloatType::BF16))
        };
        let has_half_floats = checkpoint.ids().any(is_half);
        let is_packed = |id| matches!(checkpoint.content(id), Content::Packed(_));
        let holds_quantized = checkpoint.ids().any(is_packed);
        let mut model = Model {
            checkpoint,
            inventory,
            measurements,
            rules: TargetRules::default(),
            eligibility: Vec::new(),
            quantizable: Vec::new(),
            schemes: SCHEMES.to_vec(),
            has_half_floats,
            holds_quantized,
            experts: OnceLock::new(),
            name_shapes: OnceLock::new(),
            thresholds: Thresholds::default(),
            scheme,
            plan: Plan::default(),
            sqnrs: Vec::new(),
            sqnr_plan: Plan::default(),
            history: History::default(),
            saved: Plan::default(),
            totals,
            quality: Quality::default(),
            outputs: None,
            histogram_bytes: 0,
            unchecked_marks: Vec::new(),
        };
        model.update_eligibility();
        model.update_sqnrs();
        model
    }

    /// Whether writing the checkpoint as floats to safetensors would change anything.
    pub fn can_become_floats(&self) -> bool {
        self.checkpoint.format() != Format::Safetensors || self.holds_quantized
    }

    /// The layers of experts.
    pub(super) fn experts(&self) -> &ExpertLayers {
        self.experts.get_or_init(|| ExpertLayers::of(&self.checkpoint))
    }

    /// The names of the tensors by shape.
    pub(super) fn name_shapes(&self) -> &NameShapes {
        let names = || self.checkpoint.tensors().iter().map(|tensor| tensor.name.as_str());
        self.name_shapes.get_or_init(|| NameShapes::of(names()))
    }

    /// The rules of the target for this checkpoint.
    pub fn rules(&self) -> &TargetRules {
        &self.rules
    }

    /// The format that sizes and errors are for: the target's, or without a target that of the
    /// usual output.
    pub fn container(&self) -> Container {
        self.plan.target.container_from(self.checkpoint.format())
    }

    /// The type that the format stores scales in, which errors depend on. F32 if that is the
    /// type of the elements.
    pub fn scale_storage(&self) -> ScaleStorage {
        let container = self.rules.target().container_from(self.checkpoint.format());
        match container.scale_storage() {
            ScaleStorage::ElementType if !self.has_half_floats => ScaleStorage::F32,
            storage => storage,
        }
    }

    /// The schemes that a mark may have, smallest first: those that the target allows.
    pub fn schemes(&self) -> &[QuantizationScheme] {
        &self.schemes
    }

    /// The schemes to compare for a tensor: those that the target allows, then the others that are
    /// measured for every tensor.
    pub fn scheme_rows(&self) -> Vec<QuantizationScheme> {
        if self.schemes.iter().all(|scheme| SCHEMES.contains(scheme)) {
            return SCHEMES.to_vec();
        }
        let others = SCHEMES.into_iter().filter(|scheme| !self.schemes.contains(scheme));
        self.schemes.iter().copied().chain(others).collect()
    }

    /// Bytes of a tensor in a scheme, as the target stores it.
    pub fn bytes(&self, id: TensorId, scheme: QuantizationScheme) -> u64 {
        self.container().bytes(scheme, self.checkpoint.tensor(id))
    }

    /// Why a tensor cannot have a scheme in the target's format, if it cannot.
    pub fn scheme_obstacle(&self, id: TensorId, scheme: QuantizationScheme) -> Option<String> {
        if self.becomes_f16(id) {
            return None;
        }
        let container = self.plan.target.container();
        container.scheme_obstacle(scheme, &self.checkpoint.tensor(id).shape)
    }

    /// Whether a mark makes the tensor F16, as in llama.cpp: no block type of GGUF divides its rows.
    pub fn becomes_f16(&self, id: TensorId) -> bool {
        becomes_f16_in(self.container(), &self.checkpoint, id)
    }

    /// The largest magnitudes of tensors that share a global scale, as far as they are measured.
    pub fn shared_absmax(&self) -> SharedAbsmax {
        let quantizable = self.checkpoint.ids().filter(|&id| self.quantizable(id));
        let absmax = |id| self.measurement(id).metrics().map(|metrics| metrics.statistics.absmax);
        self.rules.units().shared_absmax(quantizable, absmax)
    }

    /// Takes over the rules of the plan's target.
    pub fn set_rules(&mut self, rules: TargetRules) {
        let schemes = rules.schemes(&self.checkpoint);
        self.rules = rules;
        self.update_eligibility();
        if !schemes.is_empty() && !schemes.contains(&self.scheme) {
            let tensors: Vec<TensorId> =
                self.checkpoint.ids().filter(|&id| self.quantizable(id)).collect();
            let preferred = self.rules.preferred_scheme(&self.checkpoint, &schemes, &tensors);
            self.scheme = preferred.unwrap_or(self.scheme);
        }
        self.schemes = schemes;
        self.offer_recorded_fp8();
        self.update_sqnrs();
        self.update_quality();
    }

    /// Takes over another target as one undo step, and changes the marks as far as it needs.
    /// Returns what was changed.
    pub fn retarget(&mut self, rules: TargetRules) -> Vec<String> {
        let fitted = rules.fit(&self.checkpoint, &self.plan);
        self.set_rules(rules);
        let changes = fitted.done();
        self.replace(fitted.plan);
        changes
    }

    /// The scheme the table starts with: the best one for the checkpoint's format.
    pub fn initial_scheme(&self) -> QuantizationScheme {
        initial_scheme(&self.checkpoint)
    }

    /// What was measured of a tensor.
    pub fn measurement(&self, id: TensorId) -> &Measurement {
        &self.measurements[id.index()]
    }

    /// The scheme of new marks, and of tensors that are not marked.
    pub fn scheme(&self) -> QuantizationScheme {
        self.scheme
    }

    /// Sets the scheme of new marks.
    pub fn choose_scheme(&mut self, scheme: QuantizationScheme) {
        self.scheme = scheme;
        self.update_sqnrs();
    }

    /// The scheme of the tensor's mark, or the one a new mark would get.
    pub fn scheme_of(&self, id: TensorId) -> QuantizationScheme {
        self.quantizer_of(id).scheme
    }

    /// The quantizer of the tensor's mark, or the one a new mark would get.
    pub fn quantizer_of(&self, id: TensorId) -> Quantizer {
        self.quantizer_by(&self.plan, id)
    }

    fn quantizer_by(&self, plan: &Plan, id: TensorId) -> Quantizer {
        plan.get(id).unwrap_or_else(|| self.default_quantizer(id, self.scheme))
    }

    /// The quantizer of a scheme if nothing else is chosen: scales learned by quantization-aware
    /// training if the scheme can use them, otherwise the usual calibration.
    pub fn default_quantizer(&self, id: TensorId, scheme: QuantizationScheme) -> Quantizer {
        let quantizer = Quantizer { scheme, ..self.quantizer() };
        new_mark_in(self.container(), &self.checkpoint, id, quantizer)
    }

    /// The error with that quantizer; `None` while it is not measured.
    pub fn cost(&self, id: TensorId, scheme: QuantizationScheme) -> Option<&Cost> {
        self.measurement(id).metrics()?.cost_of(self.default_quantizer(id, scheme))
    }

    /// The error statistics with that quantizer.
    pub fn error(&self, id: TensorId, scheme: QuantizationScheme) -> Option<&ErrorStatistics> {
        self.cost(id, scheme)?.error()
    }

    /// Whether the tensor will be measured and is not yet.
    pub fn is_waiting(&self, id: TensorId) -> bool {
        *self.measurement(id) == Measurement::Waiting
    }

    /// The SQNR under the tensor's scheme.
    pub fn sqnr(&self, id: TensorId) -> Sqnr {
        self.sqnrs[id.index()]
    }

    fn computed_sqnr(&self, id: TensorId) -> Sqnr {
        if self.checkpoint.packed_format(id).is_some() && self.measurement(id).metrics().is_some() {
            return Sqnr::Stored;
        }
        if self.becomes_f16(id) && !matches!(self.measurement(id), Measurement::Unreadable(_)) {
            return Sqnr::F16;
        }
        Sqnr::of(self.measurement(id), self.quantizer_of(id))
    }

    /// Updates the SQNR of a tensor whose metrics or mark changed.
    fn update_sqnr(&mut self, id: TensorId) {
        self.sqnrs[id.index()] = self.computed_sqnr(id);
    }

    fn update_sqnrs(&mut self) {
        let ids = 0..self.measurements.len() as u32;
        self.sqnrs = ids.into_par_iter().map(|id| self.computed_sqnr(TensorId(id))).collect();
    }

    /// The SQNR of a scheme with min-max calibration, independent of the mark. `None` while it is
    /// not measured, and for tensors stored quantized.
    pub fn sqnr_by(&self, id: TensorId, scheme: QuantizationScheme) -> Option<f64> {
        if self.checkpoint.packed_format(id).is_some() {
            return None;
        }
        self.measurement(id).metrics()?.error(scheme).map(|error| error.sqnr_db)
    }

    /// The SQNR of one scheme minus that of another, in dB.
    pub fn gain(
        &self,
        id: TensorId,
        of: QuantizationScheme,
        over: QuantizationScheme,
    ) -> Option<f64> {
        let (of, over) = (self.sqnr_by(id, of)?, self.sqnr_by(id, over)?);
        // Both can be infinite.
        Some(if of == over { 0.0 } else { of - over }).filter(|gain| !gain.is_nan())
    }

    /// The rating of the tensor's SQNR, if it has one.
    pub fn rating(&self, id: TensorId) -> Option<Rating> {
        self.sqnr(id).decibels().map(|db| self.thresholds.rate(db))
    }

    /// The output error of the layer under its scheme.
    pub fn output(&self, id: TensorId) -> Option<&OutputError> {
        self.outputs.as_ref()?.error(id, self.quantizer_of(id))
    }

    /// Scales of layer inputs as int8: those of captured activations, or else those of observers in
    /// the checkpoint.
    pub fn recorded_input_scales(&self) -> BTreeMap<TensorId, f32> {
        let captured = self.outputs.as_ref().map(Outputs::input_scales);
        captured.unwrap_or_else(|| observed_input_scales(&self.checkpoint).unwrap_or_default())
    }

    /// Scales of layer inputs: those of the plan first, then those that were recorded.
    pub fn input_scales(&self) -> BTreeMap<TensorId, f32> {
        let mut scales = self.recorded_input_scales();
        if let InputQuantization::Static(own) = &self.plan.inputs {
            scales.extend(own);
        }
        scales
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns whether a tensor is marked.
    pub fn is_marked(&self, id: TensorId) -> bool {
        self.plan.is_marked(id)
    }

    /// Number of marks, and size before and after.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The number of steps that can be undone and redone.
    pub fn undo_depth(&self) -> (usize, usize) {
        self.history.depth()
    }

    /// Returns whether the marks differ from what was saved last.
    pub fn has_unsaved_marks(&self) -> bool {
        !self.plan.is_empty() && self.plan != self.saved
    }

    /// Records that `plan` was written to disk.
    pub fn record_saved(&mut self, plan: &Plan) {
        self.saved = plan.clone();
    }

    /// Returns whether any tensor can be measured.
    pub fn has_floats(&self) -> bool {
        self.measurements.iter().any(|measurement| *measurement != Measurement::NotFloat)
    }

    /// Drops all measurements, so that every float tensor is measured again.
    pub fn clear_measurements(&mut self) {
        self.histogram_bytes = 0;
        for measurement in self
            .measurements
            .iter_mut()
            .filter(|measurement| **measurement != Measurement::NotFloat)
        {
            *measurement = Measurement::Waiting;
        }
        self.update_sqnrs();
        self.update_quality();
        self.recheck_marks();
    }

    /// Records an analysis. Returns true if a mark was removed because the tensor has no scale.
    pub fn record_analysis(&mut self, id: TensorId, found: Result<Analysis, ReadError>) -> bool {
        let Some(measurement) = self.measurements.get_mut(id.index()) else { return false };
        let dtype = &self.checkpoint.tensor(id).dtype;
        let mark = self.plan.get(id);
        match (found, &mut *measurement) {
            (Ok(analysis), Measurement::Done(metrics)) => metrics.add(dtype, analysis),
            (Ok(analysis), _) => match TensorMetrics::of(dtype, analysis) {
                Some(metrics) => *measurement = Measurement::Done(Box::new(metrics)),
                None => return false,
            },
            (Err(error), _) => *measurement = Measurement::Unreadable(error.to_string()),
        }
        if mark.is_some_and(|mark| mark.calibration != Calibration::MinMax) {
            self.unchecked_marks.push(id);
        }
        if let Measurement::Done(metrics) = measurement {
            if let Some(size) = metrics.histogram.as_ref().map(|found| found.size()) {
                match self.histogram_bytes.saturating_add(size) {
                    held if held <= MAX_HISTOGRAM_BYTES => self.histogram_bytes = held,
                    _ => metrics.histogram = None,
                }
            }
            let s = &metrics.statistics;
            if let Some(first) = s.first_non_finite {
                let non_finite = Obstacle::NonFinite { nan: s.nan, inf: s.inf, first };
                if let Some(eligibility) = self.eligibility.get_mut(id.index()) {
                    *eligibility = Eligibility::Never(Reason::Obstacle(non_finite));
                }
                if let Some(quantizable) = self.quantizable.get_mut(id.index()) {
                    *quantizable = false;
                }
                if mark.is_some() {
                    self.plan.unmark(id);
                    self.update_for_plan();
                    self.update_sqnr(id);
                    return true;
                }
            }
        }
        self.update_sqnr(id);
        false
    }

    /// Measured tensors with equal statistics, which may hold the same bytes.
    pub fn duplicate_candidates(&self) -> Candidates {
        let measured = self.checkpoint.ids().zip(&self.measurements);
        let measured =
            measured.filter_map(|(id, measurement)| Some((id, &measurement.metrics()?.statistics)));
        duplicates::candidates(&self.checkpoint, measured)
    }

    /// Records which tensors hold the same bytes as an earlier one.
    pub fn record_duplicates(&mut self, found: &[(TensorId, TensorId)]) {
        for &(id, first) in found {
            let name = names::visible(&self.checkpoint.tensor(first).name).into();
            if let Some(Measurement::Done(metrics)) = self.measurements.get_mut(id.index()) {
                metrics.flags.retain(|flag| !matches!(flag, Diagnostic::Duplicate(_)));
                metrics.flags.push(Diagnostic::Duplicate(name));
            }
        }
    }

    /// Updates everything that depends on the plan.
    fn update_for_plan(&mut self) {
        let sqnr_plan = std::mem::replace(&mut self.sqnr_plan, self.plan.clone());
        let is_other = |id: &TensorId| self.quantizer_by(&sqnr_plan, *id) != self.quantizer_of(*id);
        let others = self.plan.differing(&sqnr_plan).filter(is_other);
        let sqnrs: Vec<_> = others.map(|id| (id, self.computed_sqnr(id))).collect();
        sqnrs.into_iter().for_each(|(id, sqnr)| self.sqnrs[id.index()] = sqnr);
        self.totals = self.plan.totals(&self.checkpoint);
        self.update_quality();
        self.recheck_marks();
    }

    /// Checks again which marks with their own calibration have to be measured.
    pub fn recheck_marks(&mut self) {
        let own = |(_, mark): &(TensorId, Quantizer)| mark.calibration != Calibration::MinMax;
        let unchecked = |marks: &mut dyn Iterator<Item = (TensorId, Quantizer)>| {
            marks.filter(own).map(|(id, _)| id).collect::<Vec<_>>()
        };
        self.unchecked_marks = self.plan.map_parts(unchecked).concat();
    }
}

/// GGUF stores int8 as Q8_0, in blocks of 32.
fn initial_scheme(checkpoint: &Checkpoint) -> QuantizationScheme {
    match checkpoint.format() {
        Format::Gguf => QuantizationScheme::per_block(32),
        _ => default_scheme(checkpoint),
    }
}
