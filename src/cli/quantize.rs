//! `quantize`: writes the checkpoint with the selected tensors as int8.

use super::activations::{ACTIVATION_SCHEMES, ActivationArgs, ActivationScheme, Outputs};
use super::error::Error;
use super::listing::refusal;
use super::options::{
    CalibrationArgs, ModelArgs, OutputArgs, RoundingArgs, SaveArgs, SelectionArgs, WorkArgs,
    choice, int8_scheme,
};
use super::output;
use super::receipt;
use super::save::save;
use super::scan::Scan;
use crate::activations::ActivationMode;
use crate::checkpoint::Checkpoint;
use crate::export::{KnownScales, OutputFormat, Request, SaveError, Task, WeightLayout};
use crate::plan::budget::{self, Curve};
use crate::plan::{
    InputQuantization, Plan, Selection, SelectionError, observed_input_scales, recipe,
};
use crate::quantization::{
    AnalysisSpec, Calibration, ErrorDetail, Outcome, QuantizationScheme, Thresholds,
};
use crate::tensor::TensorId;
use crate::text::figures::counted;
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Args)]
pub struct Quantize {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    save: SaveArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Which elements share a scale; if not given, per-channel for int8 and where training
    /// learned a scale for each, the largest block of 128, 64 and 32 that divides every row for
    /// int8-weight-only, per-tensor for others
    #[arg(long, value_name = "per-tensor|per-channel|per-block:N", value_parser = int8_scheme)]
    scheme: Option<QuantizationScheme>,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    rounding: RoundingArgs,
    /// What to write
    #[arg(long, value_name = "FORMAT", default_value = OutputFormat::default().name(), value_parser = choice(&OutputFormat::ALL.map(|f| (f.name(), f.summary(), f))))]
    format: OutputFormat,
    /// Choose each tensor's scheme, or none, so that all tensors together take at most N
    /// bytes with the least error: of the layers' outputs where --activations tell it, else
    /// of the weights
    #[arg(long, value_name = "N")]
    max_bytes: Option<u64>,
    /// Choose the smallest scheme for each tensor that keeps at least so many dB; a tensor
    /// that no scheme keeps so well stays as it is
    #[arg(long, value_name = "DB", allow_negative_numbers = true)]
    min_sqnr: Option<f64>,
    #[command(flatten)]
    activations: ActivationArgs,
    /// With --format int8: how the layers' inputs are quantized; static by the ranges that
    /// --activations have, or else by those that observers of the model's own inputs saw
    #[arg(long, value_name = "SCHEME", default_value = "dynamic", value_parser = choice(&ACTIVATION_SCHEMES))]
    activation_scheme: ActivationScheme,
    /// The plan that a recipe file holds, instead of a selection
    #[arg(long, value_name = "FILE", conflicts_with_all = ["include", "exclude", "scheme", "calibration", "rounding", "max_bytes", "min_sqnr", "activations"])]
    recipe: Option<PathBuf>,
    /// Also write the plan as a recipe file; `-` and /dev/stdout are standard output. An
    /// existing FILE needs --force, as OUT does
    #[arg(long, value_name = "FILE")]
    write_recipe: Option<PathBuf>,
    /// With --format burn: which way round the weights of linear layers lie
    #[arg(long, value_name = "LAYOUT", value_parser = choice(&WeightLayout::ALL.map(|l| (l.name(), l.summary(), l))))]
    layout: Option<WeightLayout>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    work: WorkArgs,
}

/// What is to be quantized.
#[derive(Default)]
struct Planned {
    plan: Plan,
    /// The scales that choosing has found on its way.
    known: KnownScales,
    /// What was left out, and why.
    warnings: Vec<String>,
}

/// The scales of tensors that have one: all the scales that a range of scales tells.
fn scales(plan: &Plan, outcomes: &[(TensorId, Vec<Outcome>)]) -> KnownScales {
    let one = |id: TensorId, outcomes: &[Outcome]| {
        let chosen = outcomes.iter().find(|outcome| plan.get(id) == Some(outcome.quantizer))?;
        let scales = &chosen.result.as_ref().ok()?.scales;
        (scales.count == 1).then(|| vec![scales.min])
    };
    outcomes.iter().filter_map(|(id, outcomes)| Some((*id, one(*id, outcomes)?))).collect()
}

impl Quantize {
    pub fn run(self, words: &Thresholds) -> Result<(), Error> {
        let checkpoint = self.model.open()?;
        let Planned { mut plan, known, mut warnings } = match &self.recipe {
            Some(path) => Planned { plan: recipe::read(path, &checkpoint)?, ..Planned::default() },
            None => self.plan(&checkpoint, &self.selection.selection())?,
        };
        let used = self.has_budget() || self.activation_scheme == ActivationScheme::Static;
        if !used && !self.activations.activations.is_empty() {
            let why = "--activations are for --activation-scheme static, --max-bytes and --min-sqnr; none of these is given";
            return Err(SaveError::Unfit { path: self.save.out, why: why.to_owned() }.into());
        }
        if self.activation_scheme == ActivationScheme::Static {
            self.calibrate_inputs(&checkpoint, &mut plan, &mut warnings)?;
        }
        if let Some(path) = &self.write_recipe {
            output::write(
                &checkpoint,
                path,
                self.save.force,
                &recipe::to_toml(&plan, &checkpoint),
            )?;
        }
        let format = match (self.format, self.layout) {
            (OutputFormat::Burn(_), Some(layout)) => OutputFormat::Burn(layout),
            (format, Some(_)) => {
                let why = format!("--layout is for --format burn, not {}", format.name());
                return Err(SaveError::Unfit { path: self.save.out, why }.into());
            }
            (format, None) => format,
        };
        let request = Request {
            task: Task::Quantize { plan, format },
            out: self.save.out,
            force: self.save.force,
        };
        let mut receipt = save(&checkpoint, request, known, &self.work)?;
        receipt.warnings.splice(0..0, warnings);
        receipt::print(&receipt, self.output.json, words)
    }

    /// Finds the scales of the layers' inputs. What was not recorded is left out of the plan,
    /// unless it was asked for by name.
    fn calibrate_inputs(
        &self,
        checkpoint: &Arc<Checkpoint>,
        plan: &mut Plan,
        warnings: &mut Vec<String>,
    ) -> Result<(), Error> {
        let refuse = |why: String| {
            let path = self.save.out.clone();
            Error::Export(SaveError::Unfit { path, why })
        };
        if self.format != OutputFormat::Int8 {
            let name = self.format.name();
            return Err(refuse(format!("{name} has no scales of inputs; --format int8 has")));
        }
        let ids: Vec<TensorId> = plan.iter().map(|(id, _)| id).collect();
        let scales = match self.activations.open(checkpoint)? {
            Some(activations) => {
                let (args, rounding) = (&self.activations, plan.rounding);
                let (none, ids) = (Vec::new(), ids.clone());
                let found =
                    args.measure(checkpoint, &activations, ids, none, rounding, &self.work)?;
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
                return Err(refuse(format!("no inputs were recorded for '{shown}'")));
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
                    left.push(format!("tensor '{name}' was calibrated anew: {why}"));
                }
            }
        }
        let mut said = left;
        let all = match taken {
            0 => return said,
            1 => "1 weight has the scales that its training learned".to_owned(),
            n => format!("{n} weights have the scales that their training learned"),
        };
        said.insert(0, all);
        said
    }

    fn has_budget(&self) -> bool {
        self.max_bytes.is_some() || self.min_sqnr.is_some()
    }

    /// What the selection names, without what its values keep from having a scale; that is
    /// an error where it was asked for by name, and a warning where it was not.
    fn plan(&self, checkpoint: &Arc<Checkpoint>, selection: &Selection) -> Result<Planned, Error> {
        let mut warnings = Vec::new();
        let mut tensors = selection.resolve(checkpoint)?;
        // What the format cannot hold is left out, unless it was asked for by name.
        for (id, why) in self.format.refused(checkpoint, &tensors)? {
            let name = &checkpoint.tensor(id).name;
            if !selection.names(name) {
                tensors.retain(|&other| other != id);
                let name = name.escape_debug();
                warnings.push(format!("tensor '{name}' was left as it is: {why}"));
            }
        }
        let schemes = self.schemes(checkpoint, &tensors).into_iter();
        let quantizer = |scheme| self.calibration.quantizer(checkpoint, scheme);
        let quantizers = schemes.map(quantizer).collect();
        let questions = AnalysisSpec {
            errors: match self.has_budget() {
                true => ErrorDetail::Full,
                false => ErrorDetail::None,
            },
            ..AnalysisSpec::scales(quantizers, self.rounding.rounding)
        };
        let scan = Scan::start(checkpoint, tensors, questions, "calibrating", &self.work, None)?;
        let mut outcomes = Vec::new();
        for found in scan {
            let (id, found) = found?;
            let Some(analysis) = found.transpose()? else { continue };
            match analysis.outcomes.iter().find_map(|outcome| outcome.result.as_ref().err()) {
                Some(why) => {
                    let refusal = refusal(checkpoint, id, why);
                    if selection.names(&checkpoint.tensor(id).name) {
                        return Err(refusal.into());
                    }
                    warnings.push(format!("{refusal}; it was left as it is"));
                }
                None => outcomes.push((id, analysis.outcomes)),
            }
        }
        outcomes.sort_by_key(|(id, _)| *id);
        let plan = if self.has_budget() {
            self.within_budget(checkpoint, &outcomes)?
        } else {
            self.uniform(&outcomes)
        };
        if plan.is_empty() {
            let path = checkpoint.path().to_owned();
            return Err(SelectionError::Nothing { path, excluded: false }.into());
        }
        warnings.extend(self.describe_learned(checkpoint, &plan));
        let known = scales(&plan, &outcomes);
        Ok(Planned { plan, known, warnings })
    }

    /// The schemes that are up for choice.
    fn schemes(&self, checkpoint: &Checkpoint, tensors: &[TensorId]) -> Vec<QuantizationScheme> {
        let default = || self.format.default_scheme(checkpoint, tensors.iter().copied());
        match (self.scheme, self.format) {
            (Some(scheme), _) => vec![scheme],
            (None, OutputFormat::Safetensors | OutputFormat::FakeQuantized)
                if self.has_budget() =>
            {
                budget::SCHEMES.to_vec()
            }
            (None, _) => vec![default()],
        }
    }

    fn uniform(&self, outcomes: &[(TensorId, Vec<Outcome>)]) -> Plan {
        let mut plan = Plan::default();
        plan.rounding = self.rounding.rounding;
        for (id, outcomes) in outcomes {
            outcomes.iter().for_each(|outcome| plan.mark(*id, outcome.quantizer));
        }
        plan
    }

    /// What the outputs of the layers up for choice lose, if activations are given.
    fn outputs(
        &self,
        checkpoint: &Arc<Checkpoint>,
        outcomes: &[(TensorId, Vec<Outcome>)],
    ) -> Result<Option<Outputs>, Error> {
        let Some(activations) = self.activations.open(checkpoint)? else { return Ok(None) };
        let ids = outcomes.iter().map(|(id, _)| *id).collect();
        let schemes = outcomes.first().map(|(_, outcomes)| outcomes.as_slice());
        let schemes = schemes.unwrap_or_default().iter().map(|outcome| outcome.quantizer.scheme);
        let (args, rounding) = (&self.activations, self.rounding.rounding);
        let quantizer = |scheme| self.calibration.quantizer(checkpoint, scheme);
        let quantizers = schemes.map(quantizer).collect();
        let found =
            args.measure(checkpoint, &activations, ids, quantizers, rounding, &self.work)?;
        found.conclude()?;
        Ok(Some(found))
    }

    fn within_budget(
        &self,
        checkpoint: &Arc<Checkpoint>,
        outcomes: &[(TensorId, Vec<Outcome>)],
    ) -> Result<Plan, Error> {
        let chosen_from: u64 = outcomes.iter().map(|(id, _)| checkpoint.tensor(*id).bytes).sum();
        let fixed = checkpoint.total_bytes().saturating_sub(chosen_from);
        let outputs = self.outputs(checkpoint, outcomes)?;
        let way = match (self.format, self.activation_scheme) {
            (OutputFormat::Int8, ActivationScheme::Dynamic) => ActivationMode::Dynamic,
            (OutputFormat::Int8, ActivationScheme::Static) => ActivationMode::Static,
            _ => ActivationMode::Weights,
        };
        let options = outcomes.iter().map(|(id, outcomes)| {
            let output = |quantizer| outputs.as_ref()?.ratio(*id, quantizer, way);
            (*id, budget::options(checkpoint.tensor(*id), outcomes, self.min_sqnr, output))
        });
        let curve = Curve::new(fixed, options);
        let smallest = curve.points().len() - 1;
        let point = match self.max_bytes {
            None => smallest,
            Some(wanted) => curve.within(wanted).ok_or_else(|| Error::Budget {
                path: checkpoint.path().to_owned(),
                wanted,
                smallest: curve.points().last().map_or(fixed, |point| point.bytes),
            })?,
        };
        Ok(curve.plan(point, self.rounding.rounding))
    }
}
