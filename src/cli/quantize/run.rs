//! Makes the plan, and saves or predicts the output.

use crate::checkpoint::Checkpoint;
use crate::cli::activations::ActivationScheme;
use crate::cli::error::{Error, UsageError};
use crate::cli::partition::WrittenShare;
use crate::cli::quantize::args::Quantize;
use crate::cli::quantize::plan::Planned;
use crate::cli::save::save;
use crate::cli::target::output_format;
use crate::cli::{dry_run, output, receipt};
use crate::export::{LoadCheck, OutputFormat, Task, fp8_input_scale};
use crate::plan::rules::TargetRules;
use crate::plan::target::Target;
use crate::plan::{InputQuantization, Plan, RoundingByInputs, observed_input_scales, recipe};
use crate::quantization::ggml::Importance;
use crate::quantization::{AnalysisSpec, InputRounding, Preset, Quantizer, Rounding, Thresholds};
use crate::tensor::TensorId;
use crate::text::figures::counted;
use crate::text::names;
use std::path::Path;
use std::sync::Arc;

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
            self.check_partition()?;
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
            || self.by_inputs() != InputRounding::default()
            || !plan.by_inputs.is_empty();
        if !used && !self.activations.activations.is_empty() {
            let why = "--activations are for --activation-scheme static, --error-compensation, --clip-search, --max-bytes and --min-sqnr, none of which is given, and an importance matrix is for --format gguf";
            return Err(UsageError::options(&self.save.out, why).into());
        }
        if self.activation_scheme == ActivationScheme::Static {
            self.calibrate_inputs(&checkpoint, format, &mut plan, &mut warnings)?;
        }
        self.round_by_inputs(&checkpoint, &mut plan, &mut warnings)?;
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
            let recorded = &self.activations.activations;
            return WrittenShare::write(
                &checkpoint,
                request,
                partition,
                keeps,
                recorded,
                &self.work,
            )?
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

    /// How tensors are rounded for their layers' recorded inputs.
    fn by_inputs(&self) -> InputRounding {
        InputRounding { compensates: self.error_compensation, searches_clips: self.clip_search }
    }

    /// Rounds for the recorded inputs where the plan's presets and the recording allow it, or where
    /// a recipe says so.
    fn round_by_inputs(
        &self,
        checkpoint: &Arc<Checkpoint>,
        plan: &mut Plan,
        warnings: &mut Vec<String>,
    ) -> Result<(), Error> {
        let (is_planned, rounding) = (!plan.by_inputs.is_empty(), self.by_inputs());
        if rounding == InputRounding::default() && !is_planned {
            return Ok(());
        }
        let Some(activations) = self.activations.open(checkpoint)? else { return Ok(()) };
        if is_planned {
            plan.by_inputs = std::mem::take(&mut plan.by_inputs).with(activations);
            return Ok(());
        }
        plan.by_inputs = RoundingByInputs::new(checkpoint, plan.iter(), rounding, activations);
        let found = &plan.by_inputs;
        let can_be = |quantizer: Quantizer| {
            quantizer.scheme.preset().is_some_and(Preset::can_be_rounded_by_inputs)
        };
        let wanted = plan.iter().filter(|(_, quantizer)| can_be(*quantizer));
        let left: Vec<TensorId> =
            wanted.map(|(id, _)| id).filter(|&id| found.get(id).is_none()).collect();
        let option = if self.error_compensation { "--error-compensation" } else { "--clip-search" };
        match (found.len(), left.first()) {
            (0, None) => {
                let why = format!(
                    "{option} is for --scheme W4A16, W4A16_ASYM and W8A16/127.5, and mixtures of them"
                );
                Err(UsageError::options(&self.save.out, &why).into())
            }
            (0, Some(_)) => {
                let why = format!(
                    "{option} needs recorded inputs of linear layers, and --activations have none of the selected ones"
                );
                Err(UsageError::options(&self.save.out, &why).into())
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
    fn check_partition(&self) -> Result<(), Error> {
        let refuse = |why: &str| Err(UsageError::options(&self.save.out, why).into());
        if self.dry_run {
            return refuse("--dry-run shows the whole output; leave --partition out");
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
        let is_fp8 = |quantizer: Quantizer| quantizer.scheme.preset() == Some(Preset::Fp8);
        let has_scale = |quantizer: Quantizer| match format {
            OutputFormat::Int8 => true,
            OutputFormat::Presets => is_fp8(quantizer),
            _ => false,
        };
        let layers = plan.iter().filter(|(_, quantizer)| has_scale(*quantizer));
        let ids: Vec<TensorId> = layers.map(|(id, _)| id).collect();
        if ids.is_empty() {
            let why = format!(
                "{} stores no scales of inputs; --format compressed-tensors --scheme W8A8 or FP8 does",
                plan.target
            );
            return Err(refuse(why).into());
        }
        let mut scales = match self.activations.open(checkpoint)? {
            Some(activations) => {
                // Without quantizers only the inputs are calibrated.
                let spec = AnalysisSpec::scales(Vec::new(), plan.rounding);
                let (args, ids) = (&self.activations, ids.clone());
                let found =
                    args.measure(checkpoint, &activations, ids, &spec, &|_, _| None, &self.work)?;
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
        scales.retain(|&id, _| plan.get(id).is_some_and(has_scale));
        for (&id, scale) in &mut scales {
            if plan.get(id).is_some_and(is_fp8) {
                *scale = fp8_input_scale(*scale);
            }
        }
        plan.inputs = InputQuantization::Static(scales);
        Ok(())
    }
}

/// Checks whether the saved model will load in the target's loaders.
fn check_saved(out: &Path, target: &Target) -> Result<LoadCheck, Error> {
    let saved = Checkpoint::open(out)?;
    Ok(LoadCheck::new(&saved, target.loaders())?)
}
