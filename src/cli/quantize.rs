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
use crate::export::{OutputFormat, Request, Task};
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
    /// Which elements share a scale; if not given, per-channel for int8, the largest block
    /// of 128, 64 and 32 that divides every row for int8-weight-only, per-tensor for others
    #[arg(long, value_name = "per-tensor|per-channel|per-block:N", value_parser = int8_scheme)]
    scheme: Option<QuantizationScheme>,
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
        let scheme = self
            .scheme
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
