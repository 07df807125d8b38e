//! `report`: the analysis of a checkpoint as a file to keep.

use super::activations::{ActivationArgs, Outputs};
use super::duplicates::Duplicates;
use super::error::Error;
use super::listing::{HistogramBuilder, Row as Listed};
use super::options::{
    CacheArgs, CalibrationArgs, ModelArgs, RoundingArgs, SchemeArgs, SelectionArgs, WorkArgs,
};
use super::output;
use super::scan::Scan;
use crate::checkpoint::Checkpoint;
use crate::export::{SaveError, write_text};
use crate::plan::budget;
use crate::plan::effective_quantizer;
use crate::quantization::{AnalysisSpec, Diagnostic, QuantizationScheme, Thresholds};
use crate::report::{Format, Report, Row};
use crate::text::{figures, names};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct ReportArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A path that ends in .html, .csv or .json
    #[arg(long = "output", short, value_name = "FILE")]
    out: PathBuf,
    /// Replace FILE if it exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    scheme: SchemeArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    rounding: RoundingArgs,
    #[command(flatten)]
    activations: ActivationArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    work: WorkArgs,
}

impl ReportArgs {
    pub fn run(self, words: &Thresholds) -> Result<(), Error> {
        let format = Format::of(&self.out).ok_or_else(|| {
            let why = "a report's path ends in .html, .csv or .json".to_owned();
            SaveError::Unfit { path: self.out.clone(), why }
        })?;
        if !self.force && self.out.symlink_metadata().is_ok() {
            // Known before everything is measured.
            return Err(SaveError::Exists(self.out).into());
        }
        let checkpoint = self.model.open()?;
        let selection = self.selection.selection();
        let tensors = selection.matching(&checkpoint)?;
        let scheme = self.scheme.scheme(&checkpoint);
        let quantizer = self.calibration.quantizer(&checkpoint, scheme);
        let mut report = Report {
            checkpoint: checkpoint.clone(),
            quantizer,
            rounding: self.rounding.rounding,
            thresholds: *words,
            has_outputs: false,
            rows: Vec::with_capacity(tensors.len()),
        };
        let mut tally = HistogramBuilder::new(scheme);
        let activations = self.activations.open(&checkpoint)?;
        let cache = self.cache.cache();
        let questions = self.questions(&checkpoint, scheme);
        for found in Scan::start(&checkpoint, tensors, questions, "measuring", &self.work, cache)? {
            let (id, found) = found?;
            let analysis = found.as_ref().and_then(|found| found.as_ref().ok());
            let mut row = Row::new(
                &checkpoint,
                id,
                effective_quantizer(&checkpoint, id, quantizer),
                analysis,
            );
            let mut listed = Listed::new(&checkpoint, &selection, id, found.as_ref());
            row.marked = listed.is_selected();
            row.reason = listed.reason.clone();
            tally.add(&mut listed);
            report.rows.push(row);
        }
        let statistics =
            report.rows.iter().filter_map(|r| Some((r.tensor, r.statistics.as_ref()?)));
        let duplicates = Duplicates::find(&checkpoint, statistics, &self.work)?;
        for row in &mut report.rows {
            let first = duplicates.of(&checkpoint, row.tensor);
            row.flags.extend(first.map(|name| Diagnostic::Duplicate(name.into())));
        }
        let outputs = match &activations {
            Some(activations) => {
                let ids = report.rows.iter().map(|row| row.tensor).collect();
                let quantizers = self.questions(&checkpoint, scheme).quantizers;
                let (args, rounding) = (&self.activations, self.rounding.rounding);
                let measured =
                    args.measure(&checkpoint, activations, ids, quantizers, rounding, &self.work)?;
                take_outputs(&mut report, &measured);
                Some(measured)
            }
            None => None,
        };
        report.rank();
        write_text(&checkpoint, &self.out, self.force, |out| report.write(format, out))?;
        let path = self.out.to_string_lossy();
        let tensors = figures::counted(report.rows.len(), "tensor");
        output::print(&format!("wrote {} ({tensors})\n", names::visible(&path)))?;
        if let Some(outputs) = outputs {
            // The report is there, with a sentence beside what could not be measured.
            outputs.conclude()?;
        }
        tally.conclude()
    }

    /// The scheme that is ranked by, and all that the budget may choose from.
    fn questions(&self, checkpoint: &Checkpoint, scheme: QuantizationScheme) -> AnalysisSpec {
        let others = budget::SCHEMES.into_iter().filter(|&other| other != scheme);
        let all = std::iter::once(scheme).chain(others);
        let quantizers = all.map(|scheme| self.calibration.quantizer(checkpoint, scheme)).collect();
        let questions = AnalysisSpec::errors(quantizers, self.rounding.rounding);
        AnalysisSpec { histogram: true, ..questions }
    }
}

/// Puts what the layers' outputs lose beside what the weights do.
fn take_outputs(report: &mut Report, outputs: &Outputs) {
    report.has_outputs = true;
    for row in &mut report.rows {
        row.unmeasured = outputs.failure(row.tensor);
        row.input_scale = outputs.input_scale(row.tensor);
        for cost in &mut row.costs {
            cost.output = outputs.error(row.tensor, cost.quantizer).copied();
        }
    }
}
