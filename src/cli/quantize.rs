//! `quantize`: writes the checkpoint with the selected tensors as int8.

use super::error::Error;
use super::listing::refusal;
use super::options::{
    CalibrationArgs, ModelArgs, OutputArgs, RoundingArgs, SaveArgs, SchemeArgs, SelectionArgs,
    WorkArgs, choice,
};
use super::receipt;
use super::save::save;
use super::scan::Scan;
use crate::checkpoint::Checkpoint;
use crate::export::{OutputFormat, Request, Task};
use crate::plan::{Plan, Selection, SelectionError};
use crate::quantization::Questions;
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
    #[command(flatten)]
    scheme: SchemeArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    rounding: RoundingArgs,
    /// What to write
    #[arg(long, value_name = "FORMAT", default_value = OutputFormat::default().name(), value_parser = choice(&OutputFormat::ALL.map(|f| (f.name(), f.summary(), f))))]
    format: OutputFormat,
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
        let request = Request {
            task: Task::Quantize { plan, format: self.format },
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
        let quantizer = self.calibration.quantizer(self.scheme.scheme);
        let questions = Questions {
            quantizers: vec![quantizer],
            rounding: self.rounding.rounding,
            errors: false,
            keep_scales: false,
        };
        let tensors = selection.resolve(checkpoint)?;
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
