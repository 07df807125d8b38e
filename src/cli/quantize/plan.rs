//! The plan of a save: the selected tensors and their schemes.

use crate::checkpoint::Checkpoint;
use crate::cli::budget_choices::{gguf_schemes, reserve};
use crate::cli::error::{Error, UsageError};
use crate::cli::listing::refusal;
use crate::cli::quantize::args::Quantize;
use crate::cli::quantize::gguf::mark_f16;
use crate::cli::scan::Scan;
use crate::export::{KnownScales, OutputFormat, WeightLayout};
use crate::job::cache::Cache;
use crate::plan::gguf_baseline::MixPoint;
use crate::plan::gguf_mix::becomes_f16;
use crate::plan::rules::{Reason, TargetRules};
use crate::plan::{Plan, Selection, SelectionError, effective_quantizer};
use crate::quantization::ggml::Importance;
use crate::quantization::{
    AnalysisSpec, Calibration, ErrorDetail, NotQuantizable, Outcome, QuantizationScheme, Rounding,
};
use crate::tensor::TensorId;
use crate::text::figures::counted;
use std::sync::Arc;

/// The plan of a save.
#[derive(Default)]
pub(super) struct Planned {
    pub plan: Plan,
    /// Scales that were found while schemes were chosen.
    pub known: KnownScales,
    /// Tensors that were left out, with the reason.
    pub warnings: Vec<String>,
    /// llama.cpp's mixes beside the budget's curve, for a dry run.
    pub mixes: Vec<MixPoint>,
}

impl Quantize {
    /// The plan for the selected tensors. A tensor that has no scale because of its values is an
    /// error if it was named, and otherwise left out with a warning.
    pub(super) fn plan(
        &self,
        checkpoint: &Arc<Checkpoint>,
        selection: &Selection,
        format: OutputFormat,
        rules: &TargetRules,
        importance: &Importance,
    ) -> Result<Planned, Error> {
        if let Some(mix) = self.target.mix() {
            let plan = self.mix(checkpoint, mix, &selection.matching(checkpoint)?, importance)?;
            let mixes = if self.dry_run {
                self.compare_mix(checkpoint, mix, rules, importance)?
            } else {
                Vec::new()
            };
            return Ok(Planned { plan, mixes, ..Planned::default() });
        }
        let mut warnings = left_out(checkpoint, rules, selection)?;
        let tensors = match selection.resolve_for(checkpoint, rules) {
            // The loader takes none of them: say why.
            Err(SelectionError::Nothing { path, .. }) if !warnings.is_empty() => {
                let why = format!("nothing to quantize: {}", warnings.join("; "));
                return Err(UsageError::options(&path, why).into());
            }
            tensors => tensors?,
        };
        let schemes = self.schemes(checkpoint, format, &tensors, importance);
        let (tensors, mut refused) =
            self.without_undivided(checkpoint, format, &schemes, tensors, &mut warnings)?;
        // Rows of a GGUF that no block divides become F16.
        if tensors.is_empty() && format != OutputFormat::Gguf {
            let why = format!("nothing to quantize: {}", warnings.join("; "));
            return Err(UsageError::options(checkpoint.path(), why).into());
        }
        if self.partition.partition.is_some() {
            let mut kept = tensors.into_iter().map(|id| (id, Vec::new())).collect();
            self.keep_units_whole(checkpoint, rules, &refused, &mut kept, &mut warnings);
            let tensors: Vec<TensorId> = kept.into_iter().map(|(id, _)| id).collect();
            let mut plan = self.headers_plan(checkpoint, &tensors, &schemes)?;
            if format == OutputFormat::Gguf {
                mark_f16(checkpoint, &refused, &mut plan);
            }
            return Ok(Planned { plan, warnings, ..Planned::default() });
        }
        let errors = if self.has_budget() { ErrorDetail::Full } else { ErrorDetail::None };
        let measured = self.measure(checkpoint, format, tensors, schemes, errors, importance)?;
        let mut outcomes = Vec::new();
        for (id, found) in measured {
            match found.iter().find_map(|outcome| outcome.result.as_ref().err()) {
                Some(why) => {
                    let refusal = refusal(checkpoint, id, why);
                    if selection.names(&checkpoint.tensor(id).name) {
                        return Err(refusal.into());
                    }
                    warnings.push(format!("{refusal}; it was left as it is"));
                    refused.push(id);
                }
                None => outcomes.push((id, found)),
            }
        }
        outcomes.sort_by_key(|(id, _)| *id);
        self.keep_units_whole(checkpoint, rules, &refused, &mut outcomes, &mut warnings);
        let (mut plan, mixes) = if self.has_budget() {
            let choices = self.choices(checkpoint, format, rules, &outcomes, &refused)?;
            warnings.extend(self.max_bytes.and_then(reserve));
            let mixes = match format {
                OutputFormat::Gguf => choices.mix_points(checkpoint, importance),
                _ => Vec::new(),
            };
            (self.choose(checkpoint, &choices)?, mixes)
        } else {
            (self.uniform(&outcomes), Vec::new())
        };
        if plan.is_empty() {
            let path = checkpoint.path().to_owned();
            return Err(SelectionError::Nothing { path, excluded: false }.into());
        }
        if format == OutputFormat::Gguf {
            mark_f16(checkpoint, &refused, &mut plan);
        }
        warnings.extend(self.describe_learned(checkpoint, &plan));
        let known = scales(&plan, &outcomes);
        Ok(Planned { plan, known, warnings, mixes })
    }

    /// The schemes to choose from.
    fn schemes(
        &self,
        checkpoint: &Checkpoint,
        format: OutputFormat,
        tensors: &[TensorId],
        importance: &Importance,
    ) -> Vec<QuantizationScheme> {
        let named = self.target.schemes();
        if !named.is_empty() {
            return named;
        }
        match (self.target.shared_scheme(), format) {
            (Some(scheme), _) => vec![scheme],
            (None, OutputFormat::Gguf) if self.has_budget() => gguf_schemes(importance),
            (None, _) if self.has_budget() && !format.container().has_one_scheme() => {
                let mut schemes = format.container().schemes();
                // Presets have no other calibration and rounding.
                if self.calibration.is_given() || self.rounding.rounding == Rounding::HalfAway {
                    schemes.retain(|scheme| scheme.preset().is_none());
                }
                if let OutputFormat::Burn(layout) = format {
                    schemes.retain(|&scheme| divides_rows(checkpoint, tensors, scheme, layout));
                }
                schemes
            }
            (None, _) => vec![format.default_scheme(checkpoint, tensors.iter().copied())],
        }
    }

    /// The tensors that can have one of the schemes, and those that cannot, which are left in
    /// float: an error for one that was asked for by name, a warning for the others.
    fn without_undivided(
        &self,
        checkpoint: &Checkpoint,
        format: OutputFormat,
        schemes: &[QuantizationScheme],
        tensors: Vec<TensorId>,
        warnings: &mut Vec<String>,
    ) -> Result<(Vec<TensorId>, Vec<TensorId>), Error> {
        let obstacle = |id: TensorId| {
            let shape = &checkpoint.tensor(id).shape;
            let why = |&scheme| format.container().scheme_obstacle(scheme, shape);
            let all: Option<Vec<String>> = schemes.iter().map(why).collect();
            all?.into_iter().next()
        };
        let selection = self.selection.selection();
        let (mut fit, mut refused, mut halves, mut first) =
            (Vec::new(), Vec::new(), Vec::new(), None);
        for id in tensors {
            let Some(why) = obstacle(id) else {
                fit.push(id);
                continue;
            };
            if format == OutputFormat::Gguf && becomes_f16(checkpoint, id) {
                halves.push(id);
                continue;
            }
            let name = &checkpoint.tensor(id).name;
            if selection.names(name) {
                let why = format!("tensor '{}' cannot have the scheme: {why}", name.escape_debug());
                return Err(UsageError::options(checkpoint.path(), why).into());
            }
            first.get_or_insert((name, why));
            refused.push(id);
        }
        warnings.extend(first.map(|(name, why)| {
            let name = name.escape_debug();
            match refused.len() {
                1 => format!("tensor '{name}' was left in float: {why}"),
                n => format!("{n} tensors were left in float, the first '{name}': {why}"),
            }
        }));
        refused.extend(halves);
        Ok((fit, refused))
    }

    /// Leaves out every fusion unit with a tensor that has no quantized form, because loaders load a
    /// unit only as a whole. Tensors that were named are kept.
    fn keep_units_whole(
        &self,
        checkpoint: &Checkpoint,
        rules: &TargetRules,
        refused: &[TensorId],
        outcomes: &mut Vec<(TensorId, Vec<Outcome>)>,
        warnings: &mut Vec<String>,
    ) {
        let selection = self.selection.selection();
        for &refused in refused {
            let Some(unit) = rules.units().unit_of(refused) else { continue };
            let before = outcomes.len();
            outcomes.retain(|(id, _)| {
                !unit.tensors.contains(id) || selection.names(&checkpoint.tensor(*id).name)
            });
            if outcomes.len() < before {
                let count = counted(before - outcomes.len(), "tensor");
                warnings.push(format!(
                    "{count} of '{}' left in float too: loaders take them only together",
                    unit.path.escape_debug()
                ));
            }
        }
    }

    /// Measures tensors with several schemes. Of several, those that do not fit a tensor's shape
    /// are left out.
    pub(super) fn measure(
        &self,
        checkpoint: &Arc<Checkpoint>,
        format: OutputFormat,
        tensors: Vec<TensorId>,
        schemes: Vec<QuantizationScheme>,
        errors: ErrorDetail,
        importance: &Importance,
    ) -> Result<Vec<(TensorId, Vec<Outcome>)>, Error> {
        let quantizer = |scheme| self.calibration.quantizer(checkpoint, scheme);
        let quantizers = schemes.into_iter().map(quantizer).collect();
        let spec = AnalysisSpec {
            errors,
            scale_storage: format.scale_storage(),
            importance: importance.clone(),
            ..AnalysisSpec::scales(quantizers, self.rounding.rounding)
        };
        // Results are cached, so that the same command does not fetch these tensors again.
        let cache = checkpoint.is_remote().then(Cache::of_user).flatten();
        let mut measured = Vec::new();
        for found in Scan::start(checkpoint, tensors, spec, "calibrating", &self.work, cache)? {
            let (id, found) = found?;
            let Some(analysis) = found.transpose()? else { continue };
            let mut found = analysis.outcomes;
            if found.iter().any(|outcome| outcome.result.is_ok()) {
                found.retain(|outcome| {
                    let misfit = matches!(
                        outcome.result,
                        Err(NotQuantizable::DoesNotFit { .. }
                            | NotQuantizable::SchemeDoesNotFit { .. })
                    );
                    !misfit
                });
            }
            measured.push((id, found));
        }
        Ok(measured)
    }

    /// Returns the plan of a worker: all selected tensors. It depends only on the headers, so
    /// that all workers make the same plan.
    fn headers_plan(
        &self,
        checkpoint: &Checkpoint,
        tensors: &[TensorId],
        schemes: &[QuantizationScheme],
    ) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        plan.rounding = self.rounding.rounding;
        for &id in tensors {
            for &scheme in schemes {
                let quantizer = self.calibration.quantizer(checkpoint, scheme);
                plan.mark(id, effective_quantizer(checkpoint, id, quantizer));
            }
        }
        if plan.is_empty() {
            let path = checkpoint.path().to_owned();
            return Err(SelectionError::Nothing { path, excluded: false }.into());
        }
        Ok(plan)
    }

    fn uniform(&self, outcomes: &[(TensorId, Vec<Outcome>)]) -> Plan {
        let mut plan = Plan::default();
        plan.rounding = self.rounding.rounding;
        for (id, outcomes) in outcomes {
            outcomes.iter().for_each(|outcome| plan.mark(*id, outcome.quantizer));
        }
        plan
    }

    /// Says which weights have the scales that their training learned, and which do not and
    /// why; nothing where another calibration was asked for.
    fn describe_learned(&self, checkpoint: &Checkpoint, plan: &Plan) -> Vec<String> {
        let scheme = QuantizationScheme::PER_CHANNEL;
        let calibration = self.calibration.quantizer(checkpoint, scheme).calibration;
        if calibration != Calibration::Learned {
            return Vec::new();
        }
        let (mut taken, mut left) = (0, Vec::new());
        for (id, quantizer) in plan.iter() {
            let Some(learned) = checkpoint.learned(id) else { continue };
            match learned.fits(quantizer.scheme) {
                Ok(()) => taken += 1,
                Err(why) => {
                    let name = checkpoint.tensor(id).name.escape_debug();
                    left.push(format!("tensor '{name}' was calibrated again: {why}"));
                }
            }
        }
        let mut notes = left;
        let all = match taken {
            0 => return notes,
            1 => "1 weight has the scales that its training learned".to_owned(),
            n => format!("{n} weights have the scales that their training learned"),
        };
        notes.insert(0, all);
        notes
    }
}

/// The scales of tensors with a single scale, from the outcomes of the plan.
fn scales(plan: &Plan, outcomes: &[(TensorId, Vec<Outcome>)]) -> KnownScales {
    let one = |id: TensorId, outcomes: &[Outcome]| {
        let chosen = outcomes.iter().find(|outcome| plan.get(id) == Some(outcome.quantizer))?;
        let scales = &chosen.result.as_ref().ok()?.scales;
        let has_scale = scales.count == 1 && chosen.quantizer.scheme.preset().is_none();
        has_scale.then(|| vec![scales.min])
    };
    outcomes.iter().filter_map(|(id, outcomes)| Some((*id, one(*id, outcomes)?))).collect()
}

/// Warnings about selected tensors that the target's loaders do not take, one per reason.
fn left_out(
    checkpoint: &Checkpoint,
    rules: &TargetRules,
    selection: &Selection,
) -> Result<Vec<String>, Error> {
    let mut reasons: Vec<(Reason, Vec<TensorId>)> = Vec::new();
    for id in selection.matching(checkpoint)? {
        let Some(reason) = rules.reason(checkpoint, id) else { continue };
        let of_target = !matches!(reason, Reason::Obstacle(_));
        if !of_target || selection.names(&checkpoint.tensor(id).name) {
            continue;
        }
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, ids)) => ids.push(id),
            None => reasons.push((reason, vec![id])),
        }
    }
    let warnings = reasons.into_iter().map(|(reason, ids)| {
        let first = ids.first().map_or("", |&id| &*checkpoint.tensor(id).name).escape_debug();
        match ids.len() {
            0 | 1 => format!("tensor '{first}' was left as it is: {reason}"),
            n => format!("{n} tensors were left as they are, the first '{first}': {reason}"),
        }
    });
    Ok(warnings.collect())
}

/// Whether the blocks of a scheme divide the rows of all tensors, in their output shapes.
fn divides_rows(
    checkpoint: &Checkpoint,
    tensors: &[TensorId],
    scheme: QuantizationScheme,
    layout: WeightLayout,
) -> bool {
    let QuantizationScheme::PerBlock(_, _, block) = scheme else { return true };
    let divides = |length: u64| length.is_multiple_of(u64::from(block));
    tensors.iter().map(|&id| &checkpoint.tensor(id).shape).all(|shape| {
        divides(shape.row_len()) && (layout == WeightLayout::Source || divides(shape.channels()))
    })
}
