//! `quantize`: writes the checkpoint with the selected tensors as int8.

use super::error::Error;
use super::listing::refusal;
use super::options::{
    CalibrationArgs, ModelArgs, OutputArgs, RoundingArgs, SaveArgs, SelectionArgs, WorkArgs,
    choice, int8_scheme,
};
use super::receipt;
use super::save::save;
use super::scan::Scan;
use crate::checkpoint::Checkpoint;
use crate::export::{ExportError, OutputFormat, Request, Task, WeightLayout};
use crate::plan::{Plan, Selection, SelectionError};
use crate::quantization::{QuantizationScheme, Questions};
use clap::Args;
use std::sync::Arc;

#[derive(Debug, Args)]
pub struct Quantize {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    save: SaveArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Which elements share a scale; the format's own choice unless given
    #[arg(
        long,
        value_name = "per-tensor|per-channel|per-block:N",
        value_parser = int8_scheme
    )]
    scheme: Option<QuantizationScheme>,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    rounding: RoundingArgs,
    /// What to write
    #[arg(long, value_name = "FORMAT", default_value = OutputFormat::default().name(), value_parser = choice(&OutputFormat::ALL.map(|f| (f.name(), f.summary(), f))))]
    format: OutputFormat,
    /// With --format burn: which way round the weights of linear layers lie
    #[arg(long, value_name = "LAYOUT", value_parser = choice(&WeightLayout::ALL.map(|l| (l.name(), l.summary(), l))))]
    layout: Option<WeightLayout>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    work: WorkArgs,
}

impl Quantize {
    pub fn run(self) -> Result<(), Error> {
        let checkpoint = self.model.open()?;
        let selection = self.selection.selection();
        let (plan, warnings) = self.plan(&checkpoint, &selection)?;
        let format = match (self.format, self.layout) {
            (OutputFormat::Burn(_), Some(layout)) => OutputFormat::Burn(layout),
            (format, Some(_)) => {
                let why = format!("--layout is for --format burn, not {}", format.name());
                return Err(ExportError::Unfit { path: self.save.out, why }.into());
            }
            (format, None) => format,
        };
        let request = Request {
            task: Task::Quantize { plan, format },
            out: self.save.out,
            force: self.save.force,
        };
        let mut receipt = save(&checkpoint, request, &self.work)?;
        receipt.warnings.splice(0..0, warnings);
        receipt::print(&receipt, self.output.json)
    }

    /// What the selection names, without what its values keep from having a scale; that is
    /// an error where it was asked for by name, and a warning where it was not.
    fn plan(
        &self,
        checkpoint: &Arc<Checkpoint>,
        selection: &Selection,
    ) -> Result<(Plan, Vec<String>), Error> {
        let tensors = selection.resolve(checkpoint)?;
        let chosen = self.scheme;
        let scheme = chosen
            .unwrap_or_else(|| self.format.default_scheme(checkpoint, tensors.iter().copied()));
        let quantizer = self.calibration.quantizer(scheme);
        let questions = Questions {
            quantizers: vec![quantizer],
            rounding: self.rounding.rounding,
            errors: false,
            keep_scales: false,
        };
        let scan = Scan::start(checkpoint, tensors, questions, "calibrating", &self.work)?;
        let mut plan = Plan::default();
        plan.rounding = self.rounding.rounding;
        let mut warnings = Vec::new();
        for found in scan {
            let (id, found) = found?;
            let analysis = found.transpose()?;
            let outcome = analysis.as_ref().and_then(|analysis| analysis.outcomes.first());
            match outcome.map(|outcome| &outcome.result) {
                Some(Err(why)) => {
                    let refusal = refusal(checkpoint, id, why);
                    if selection.names(&checkpoint.tensor(id).name) {
                        return Err(refusal.into());
                    }
                    warnings.push(format!("{refusal}; it was left as it is"));
                }
                _ => plan.mark(id, quantizer),
            }
        }
        if plan.is_empty() {
            let path = checkpoint.path().to_owned();
            return Err(SelectionError::Nothing { path, excluded: false }.into());
        }
        Ok((plan, warnings))
    }
}
