//! `quantize`: writes the checkpoint with the selected tensors as int8.

use super::activations::{ACTIVATION_SCHEMES, ActivationArgs, ActivationScheme, Outputs};
use super::budget_choices::{BudgetChoices, gguf_schemes, reserve, schemes_with_mix};
use super::dry_run;
use super::error::{Error, UsageError};
use super::listing::refusal;
use super::options::{
    CalibrationArgs, ModelArgs, OutputArgs, RoundingArgs, SaveArgs, SelectionArgs, WorkArgs, choice,
};
use super::output;
use super::partition::{PartitionArgs, WrittenShare};
use super::receipt;
use super::save::save;
use super::scan::Scan;
use super::target::{TargetArgs, output_format};
use crate::activations::ActivationMode;
use crate::checkpoint::Checkpoint;
use crate::export::{KnownScales, LoadCheck, OutputFormat, Task, WeightLayout};
use crate::job::cache::Cache;
use crate::plan::budget::{self, Choice, Curve};
use crate::plan::gguf_baseline::MixPoint;
use crate::plan::gguf_mix::{GgufMix, becomes_f16};
use crate::plan::rules::{Reason, TargetRules};
use crate::plan::target::Target;
use crate::plan::{
    Decibels, ErrorCompensation, InputQuantization, Plan, Selection, SelectionError,
    effective_quantizer, observed_input_scales, recipe,
};
use crate::quantization::ggml::{Importance, ImportanceUse, importance_use};
use crate::quantization::{
    AnalysisSpec, Calibration, ErrorDetail, NotQuantizable, Outcome, Preset, QuantizationScheme,
    Quantizer, Rounding, Thresholds,
};
use crate::tensor::{BlockType, FloatType, TensorId};
use crate::text::figures::counted;
use crate::text::names;
use crate::text::size::SizeLimit;
use clap::Args;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quantscope quantize my-model -o for-vllm --for vllm --dry-run\n  \
    quantscope quantize my-model -o small.safetensors --max-bytes 60%\n  \
    quantscope quantize my-model -o mlp.safetensors --include '*.mlp.*' --min-sqnr 35\n  \
    quantscope quantize my-model -o plan.safetensors --write-recipe plan.toml\n  \
    quantscope quantize my-model -o again.safetensors --recipe plan.toml")]
pub struct Quantize {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten, next_help_heading = "Output")]
    save: SaveArgs,
    #[command(flatten, next_help_heading = "Selection")]
    selection: SelectionArgs,
    #[command(flatten, next_help_heading = "Target")]
    target: TargetArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    calibration: CalibrationArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    rounding: RoundingArgs,
    /// Choose the schemes with the least error such that all tensors together take at most SIZE:
    /// 60MB, 1.5GiB, 50% of the model, 4.5bpw (bits per weight), or fits:24GB: what a memory of
    /// that size holds beside a tenth of it in reserve for the context and buffers
    /// (fits:24GB-4GB: beside 4 GB). The error is that of the layers' outputs if
    /// --activations are given, otherwise that of the weights
    #[arg(long, value_name = "SIZE", help_heading = "Budget")]
    max_bytes: Option<SizeLimit>,
    /// Choose the smallest scheme for each tensor that keeps at least this SQNR, such as 40dB;
    /// a tensor that no scheme keeps so well stays as it is. Tensors that the loader of --for
    /// merges share a scheme
    #[arg(long, value_name = "DB", allow_negative_numbers = true)]
    min_sqnr: Option<Decibels>,
    #[command(flatten, next_help_heading = "Activations")]
    activations: ActivationArgs,
    /// With W8A8: how the layers' inputs are quantized. `static` uses the ranges of --activations,
    /// or else those of the model's observers
    #[arg(long, help_heading = "Activations", value_name = "SCHEME", default_value = "dynamic", value_parser = choice(&ACTIVATION_SCHEMES))]
    activation_scheme: ActivationScheme,
    /// Round W4A16, W4A16_ASYM and W8A16/127.5 with error compensation (GPTQ): the error that a
    /// column makes in the layer's outputs is made up for in the columns after it. Needs the
    /// layers' inputs in --activations; takes eight bytes for each pair of a layer's columns. The
    /// receipt has the output errors; they do not replace an evaluation of the model
    #[arg(long, help_heading = "Activations", requires = "activations")]
    error_compensation: bool,
    /// Print the plan, the sizes, the warnings and the predicted errors; write nothing but the
    /// recipe, if --write-recipe asks for it
    #[arg(long, help_heading = "Output")]
    dry_run: bool,
    /// Use the plan in a recipe file instead of a selection
    #[arg(long, value_name = "FILE", help_heading = "Selection", conflicts_with_all = ["include", "exclude", "scheme", "schemes", "calibration", "rounding", "max_bytes", "min_sqnr"])]
    recipe: Option<PathBuf>,
    /// Also write the plan to a recipe file; `-` is standard output. An existing FILE needs --force
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    write_recipe: Option<PathBuf>,
    /// With --format burn: the orientation of the weights of linear layers
    #[arg(long, value_name = "LAYOUT", help_heading = "Target", value_parser = choice(&WeightLayout::ALL.map(|l| (l.name(), l.summary(), l))))]
    layout: Option<WeightLayout>,
    #[command(flatten, next_help_heading = "Output")]
    output: OutputArgs,
    #[command(flatten, next_help_heading = "Execution")]
    partition: PartitionArgs,
    #[command(flatten, next_help_heading = "Execution")]
    work: WorkArgs,
}

/// The plan of a save.
#[derive(Default)]
struct Planned {
    plan: Plan,
    /// Scales that were found while schemes were chosen.
    known: KnownScales,
    /// Tensors that were left out, with the reason.
    warnings: Vec<String>,
    /// llama.cpp's mixes beside the budget's curve, for a dry run.
    mixes: Vec<MixPoint>,
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

/// Marks the tensors that llama.cpp stores as F16 since no block divides their rows.
fn mark_f16(checkpoint: &Checkpoint, tensors: &[TensorId], plan: &mut Plan) {
    let (calibration, scheme) = (Calibration::MinMax, QuantizationScheme::Ggml(BlockType::Q8_0));
    for &id in tensors.iter().filter(|&&id| becomes_f16(checkpoint, id)) {
        plan.mark(id, Quantizer { calibration, scheme });
    }
}

/// Checks whether the saved model will load in the target's loaders.
fn check_saved(out: &Path, target: &Target) -> Result<LoadCheck, Error> {
    let saved = Checkpoint::open(out)?;
    Ok(LoadCheck::new(&saved, target.loaders())?)
}

impl Quantize {
    pub fn run(self, thresholds: &Thresholds) -> Result<(), Error> {
        let checkpoint = self.model.open_to_save(&self.save)?;
        let recipe =
            self.recipe.as_ref().map(|path| recipe::read(path, &checkpoint)).transpose()?;
        let target = self.target.target(&checkpoint, recipe.as_ref().map(|plan| &plan.target))?;
        let target = self.target.or_by_ending(target, &checkpoint, &self.save.out);
        let format = output_format(&checkpoint, &target, self.layout)?;
        if let Some(why) = format.unfit(&checkpoint) {
            return Err(UsageError::options(checkpoint.path(), why).into());
        }
        let rules = TargetRules::new(&checkpoint, &target)?;
        let importance = self.importance(&checkpoint, format)?;
        if self.partition.partition.is_some() {
            self.check_partition(&importance)?;
        }
        let Planned { mut plan, known, mut warnings, mixes } = match recipe {
            Some(plan) => Planned { plan, ..Planned::default() },
            None => {
                let selection = self.selection.selection();
                self.plan(&checkpoint, &selection, format, &rules, &importance)?
            }
        };
        plan.target = target.clone();
        if plan.importance.missing().is_none() || !importance.is_empty() {
            plan.importance = importance;
        }
        self.check_presets(&plan)?;
        let used = self.has_budget()
            || self.activation_scheme == ActivationScheme::Static
            || !plan.importance.is_empty()
            || self.error_compensation
            || !plan.compensation.tensors().is_empty();
        if !used && !self.activations.activations.is_empty() {
            let why = "--activations are for --activation-scheme static, --error-compensation, --max-bytes and --min-sqnr, none of which is given, and an importance matrix is for --format gguf";
            return Err(UsageError::options(&self.save.out, why).into());
        }
        if self.activation_scheme == ActivationScheme::Static {
            self.calibrate_inputs(&checkpoint, format, &mut plan, &mut warnings)?;
        }
        self.compensate(&checkpoint, &mut plan, &mut warnings)?;
        if let Some(path) = &self.write_recipe {
            output::write(
                &checkpoint,
                path,
                self.save.force,
                &recipe::to_toml(&plan, &checkpoint),
            )?;
        }
        let request = self.save.request(Task::Quantize { plan, format });
        if let Some(partition) = self.partition.partition {
            for warning in &warnings {
                eprintln!("warning: {}", names::visible(warning));
            }
            let keeps = self.save.training_state;
            return WrittenShare::write(&checkpoint, request, partition, keeps, &self.work)?
                .print(self.output.json, thresholds);
        }
        let mut receipt = if self.dry_run {
            dry_run::predict(&checkpoint, &request, &self.work)?
        } else {
            save(&checkpoint, request, known, self.save.verify, &self.work)?
        };
        receipt.warnings.splice(0..0, warnings);
        let checked = if self.dry_run || target.is_default() {
            None
        } else {
            Some(check_saved(&receipt.out, &target)?)
        };
        let predicted = self.dry_run.then_some(mixes.as_slice());
        receipt::print(&receipt, checked.as_ref(), predicted, self.output.json, thresholds)?;
        match checked.filter(|checked| !checked.loads()) {
            None => Ok(()),
            Some(checked) => {
                Err(Error::WontLoad { path: receipt.out, conclusion: checked.conclusion() })
            }
        }
    }

    /// Compensates rounding where the plan's presets and the recorded inputs allow it, or where a
    /// recipe says so.
    fn compensate(
        &self,
        checkpoint: &Arc<Checkpoint>,
        plan: &mut Plan,
        warnings: &mut Vec<String>,
    ) -> Result<(), Error> {
        let is_planned = !plan.compensation.tensors().is_empty();
        if !self.error_compensation && !is_planned {
            return Ok(());
        }
        let Some(activations) = self.activations.open(checkpoint)? else { return Ok(()) };
        if is_planned {
            plan.compensation = std::mem::take(&mut plan.compensation).with(activations);
            return Ok(());
        }
        plan.compensation = ErrorCompensation::new(checkpoint, plan.iter(), activations);
        let found = plan.compensation.tensors();
        let can_be = |quantizer: Quantizer| {
            quantizer.scheme.preset().is_some_and(Preset::can_be_compensated)
        };
        let wanted = plan.iter().filter(|(_, quantizer)| can_be(*quantizer));
        let left: Vec<TensorId> =
            wanted.map(|(id, _)| id).filter(|id| !found.contains(id)).collect();
        match (found.len(), left.first()) {
            (0, None) => {
                let why = "--error-compensation is for --scheme W4A16, W4A16_ASYM and W8A16/127.5, and mixtures of them";
                Err(UsageError::options(&self.save.out, why).into())
            }
            (0, Some(_)) => {
                let why = "--error-compensation needs recorded inputs of linear layers, and --activations have none of the selected ones";
                Err(UsageError::options(&self.save.out, why).into())
            }
            (_, Some(first)) => {
                let name = checkpoint.tensor(*first).name.escape_debug();
                let tensors = counted(left.len(), "tensor");
                warnings.push(format!(
                    "{tensors} without recorded inputs are rounded to nearest, the first '{name}'"
                ));
                Ok(())
            }
            (_, None) => Ok(()),
        }
    }

    /// The importance of the elements, if the format's blocks are made by it.
    fn importance(
        &self,
        checkpoint: &Checkpoint,
        format: OutputFormat,
    ) -> Result<Importance, Error> {
        if format != OutputFormat::Gguf {
            return Ok(Importance::default());
        }
        let activations = self.activations.open(checkpoint)?;
        Ok(activations.map(|found| found.importance(checkpoint)).unwrap_or_default())
    }

    /// Fails if the plan of a worker would not follow from the headers alone.
    fn check_partition(&self, importance: &Importance) -> Result<(), Error> {
        let refuse = |why: &str| Err(UsageError::options(&self.save.out, why).into());
        if self.dry_run {
            return refuse("--dry-run shows the whole output; leave --partition out");
        }
        if !importance.is_empty() {
            return refuse(
                "quantizing with an importance matrix cannot be divided among workers; leave --partition out",
            );
        }
        let is_static = self.activation_scheme == ActivationScheme::Static;
        if self.has_budget() || is_static {
            refuse(
                "each worker needs the whole plan before it begins: run the same command once with --dry-run --write-recipe plan.toml instead of --partition, then give every worker --recipe plan.toml",
            )
        } else {
            Ok(())
        }
    }

    /// Fails if an option is given that presets do not support.
    fn check_presets(&self, plan: &Plan) -> Result<(), Error> {
        let refuse = |why: &str| Err(UsageError::options(&self.save.out, why).into());
        if !self.target.schemes().is_empty() && !self.has_budget() {
            return refuse(
                "--schemes are for --max-bytes and --min-sqnr, and none of these is given",
            );
        }
        let has_preset = plan.iter().any(|(_, quantizer)| quantizer.scheme.preset().is_some());
        match (has_preset, self.calibration.is_given(), self.rounding.rounding) {
            (true, true, _) => refuse(
                "presets take their scales from the largest magnitudes: leave --calibration out",
            ),
            (true, _, Rounding::HalfAway) => {
                refuse("presets round half to even: leave --rounding out")
            }
            _ => Ok(()),
        }
    }

    /// Finds the scales of the layers' inputs. What was not recorded is left out of the plan,
    /// unless it was asked for by name.
    fn calibrate_inputs(
        &self,
        checkpoint: &Arc<Checkpoint>,
        format: OutputFormat,
        plan: &mut Plan,
        warnings: &mut Vec<String>,
    ) -> Result<(), Error> {
        let refuse = |why: String| UsageError::options(&self.save.out, why);
        if format != OutputFormat::Int8 {
            let why = format!(
                "{} stores no scales of inputs; --format compressed-tensors --scheme W8A8 does",
                plan.target
            );
            return Err(refuse(why).into());
        }
        let ids: Vec<TensorId> = plan.iter().map(|(id, _)| id).collect();
        let scales = match self.activations.open(checkpoint)? {
            Some(activations) => {
                // Without quantizers only the inputs are calibrated.
                let spec = AnalysisSpec::scales(Vec::new(), plan.rounding);
                let (args, ids) = (&self.activations, ids.clone());
                let found = args.measure(checkpoint, &activations, ids, &spec, &self.work)?;
                found.input_scales()?
            }
            None => {
                let scales = observed_input_scales(checkpoint).map_err(refuse)?;
                warnings.push(format!(
                    "the inputs of {} have the scales that their observers found",
                    counted(scales.len(), "layer")
                ));
                scales
            }
        };
        let selection = self.selection.selection();
        for id in ids.into_iter().filter(|id| !scales.contains_key(id)) {
            let name = &checkpoint.tensor(id).name;
            let shown = name.escape_debug();
            if selection.names(name) {
                return Err(refuse(format!("no inputs were recorded for '{shown}'")).into());
            }
            plan.unmark(id);
            warnings.push(format!(
                "tensor '{shown}' was left as it is: no inputs were recorded for it"
            ));
        }
        plan.inputs = InputQuantization::Static(scales);
        Ok(())
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

    fn has_budget(&self) -> bool {
        self.max_bytes.is_some() || self.min_sqnr.is_some()
    }

    /// The plan for the selected tensors. A tensor that has no scale because of its values is an
    /// error if it was named, and otherwise left out with a warning.
    fn plan(
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
            let choices = self.choices(checkpoint, format, rules, &outcomes)?;
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

    /// Measures tensors with several schemes. Of several, those that do not fit a tensor's shape
    /// are left out.
    fn measure(
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

    /// Compares the mix with the curve over all types that a budget chooses from.
    fn compare_mix(
        &self,
        checkpoint: &Arc<Checkpoint>,
        mix: GgufMix,
        rules: &TargetRules,
        importance: &Importance,
    ) -> Result<Vec<MixPoint>, Error> {
        let (format, detail) = (OutputFormat::Gguf, ErrorDetail::Full);
        let by_default = |id: &TensorId| rules.reason(checkpoint, *id).is_none();
        let tensors: Vec<TensorId> = checkpoint.ids().filter(by_default).collect();
        let schemes = schemes_with_mix(checkpoint, mix, importance);
        let mut outcomes =
            self.measure(checkpoint, format, tensors, schemes, detail, importance)?;
        outcomes.retain(|(_, found)| found.iter().all(|outcome| outcome.result.is_ok()));
        outcomes.sort_by_key(|(id, _)| *id);
        let choices = self.choices(checkpoint, format, rules, &outcomes)?;
        let mut points = choices.mix_points(checkpoint, importance);
        points.retain(|point| point.mix == mix);
        Ok(points)
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

    /// The types that a mix of llama.cpp gives the selected tensors.
    fn mix(
        &self,
        checkpoint: &Checkpoint,
        mix: GgufMix,
        tensors: &[TensorId],
        importance: &Importance,
    ) -> Result<Plan, Error> {
        let refuse = |why: String| Error::from(UsageError::options(checkpoint.path(), why));
        if self.has_budget() {
            return Err(refuse(format!(
                "{mix} fixes the types; --max-bytes and --min-sqnr choose them"
            )));
        }
        let mut plan = Plan::new(self.rounding.rounding);
        for (id, block) in mix.types(checkpoint, !importance.is_empty()) {
            if !tensors.contains(&id) {
                continue;
            }
            let needs_it = importance_use(block) == Some(ImportanceUse::Required);
            if needs_it && importance.get(id).is_none() {
                let name = checkpoint.tensor(id).name.escape_debug();
                let what = if importance.is_empty() {
                    "needs an importance matrix: name one with --activations"
                } else {
                    "needs importance, which --activations do not have for it"
                };
                return Err(refuse(format!("{mix} makes tensor '{name}' {block}, which {what}")));
            }
            let (calibration, scheme) = (Calibration::MinMax, QuantizationScheme::Ggml(block));
            plan.mark(id, Quantizer { calibration, scheme });
        }
        mark_f16(checkpoint, tensors, &mut plan);
        if plan.is_empty() {
            let path = checkpoint.path().to_owned();
            Err(SelectionError::Nothing { path, excluded: false }.into())
        } else {
            Ok(plan)
        }
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

    /// The output errors of the layers to choose from, if activations are given.
    fn outputs(
        &self,
        checkpoint: &Arc<Checkpoint>,
        format: OutputFormat,
        outcomes: &[(TensorId, Vec<Outcome>)],
    ) -> Result<Option<Outputs>, Error> {
        let Some(activations) = self.activations.open(checkpoint)? else { return Ok(None) };
        let ids = outcomes.iter().map(|(id, _)| *id).collect();
        let schemes = outcomes.first().map(|(_, outcomes)| outcomes.as_slice());
        let schemes = schemes.unwrap_or_default().iter().map(|outcome| outcome.quantizer.scheme);
        let (args, rounding) = (&self.activations, self.rounding.rounding);
        let quantizer = |scheme| self.calibration.quantizer(checkpoint, scheme);
        let spec = AnalysisSpec {
            scale_storage: format.scale_storage(),
            ..AnalysisSpec::scales(schemes.map(quantizer).collect(), rounding)
        };
        let found = args.measure(checkpoint, &activations, ids, &spec, &self.work)?;
        found.conclude()?;
        Ok(Some(found))
    }

    /// Returns the choices of the budget.
    fn choices(
        &self,
        checkpoint: &Arc<Checkpoint>,
        format: OutputFormat,
        rules: &TargetRules,
        outcomes: &[(TensorId, Vec<Outcome>)],
    ) -> Result<BudgetChoices, Error> {
        let chosen_from: u64 = outcomes.iter().map(|(id, _)| checkpoint.tensor(*id).bytes).sum();
        let fixed = checkpoint.total_bytes().saturating_sub(chosen_from);
        let outputs = self.outputs(checkpoint, format, outcomes)?;
        let mode = match (format, self.activation_scheme) {
            (OutputFormat::Int8, ActivationScheme::Dynamic) => ActivationMode::Dynamic,
            (OutputFormat::Int8, ActivationScheme::Static) => ActivationMode::Static,
            _ => ActivationMode::Weights,
        };
        let options = |(id, outcomes): &(TensorId, Vec<Outcome>)| {
            let output = |quantizer| outputs.as_ref()?.ratio(*id, quantizer, mode);
            let tensor = checkpoint.tensor(*id);
            let least = self.min_sqnr.map(|least| least.0);
            let mut options = budget::options(tensor, outcomes, format.container(), least, output);
            if mode == ActivationMode::Static {
                let float = tensor.dtype.float().unwrap_or(FloatType::F32);
                let scale = format.scale_storage().scale_bytes(float);
                let quantized = options.iter_mut().filter(|choice| choice.quantizer.is_some());
                quantized.for_each(|choice| choice.bytes += scale);
            }
            (*id, options)
        };
        let options: HashMap<TensorId, Vec<Choice>> = outcomes.iter().map(options).collect();
        let units = rules.units().grouped(outcomes.iter().map(|(id, _)| *id)).into_iter();
        let units = units.map(|unit| {
            let each = unit.iter().map(|id| options.get(id).cloned().unwrap_or_default());
            let shared = budget::shared_options(each.collect());
            (unit, shared)
        });
        let curve = Curve::of_units(fixed, units);
        Ok(BudgetChoices { curve, fixed, options })
    }

    /// The plan of the point that the budget allows.
    fn choose(&self, checkpoint: &Checkpoint, choices: &BudgetChoices) -> Result<Plan, Error> {
        let BudgetChoices { curve, fixed, .. } = choices;
        let smallest = curve.points().len() - 1;
        let now = checkpoint.total_bytes();
        let wanted = self.max_bytes.map(|limit| limit.bytes(now, checkpoint.parameters()));
        if let Some(wanted) = wanted.filter(|&wanted| wanted >= now) {
            let path = checkpoint.path().to_owned();
            return Err(UsageError::WithinBudget { path, wanted, now }.into());
        }
        let point = match wanted {
            None => smallest,
            Some(wanted) => curve.within(wanted).ok_or_else(|| UsageError::Budget {
                path: checkpoint.path().to_owned(),
                wanted,
                smallest: curve.points().last().map_or(*fixed, |point| point.bytes),
            })?,
        };
        let plan = curve.plan(point, self.rounding.rounding);
        match self.min_sqnr {
            Some(least) if plan.is_empty() => {
                Err(UsageError::NoneKeeps { path: checkpoint.path().to_owned(), least }.into())
            }
            _ => Ok(plan),
        }
    }
}
