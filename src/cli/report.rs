//! `report`: writes the analysis of a checkpoint to a file.

use super::activations::{ActivationArgs, Outputs};
use super::duplicates::Duplicates;
use super::error::Error;
use super::listing::{ListingSummary, Row as Listed};
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
    /// Where to write; the extension .html, .csv or .json decides the format
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
            let why = "unknown report format: expected a path that ends in .html, .csv or .json";
            SaveError::Unfit { path: self.out.clone(), why: why.to_owned() }
        })?;
        if !self.force && self.out.symlink_metadata().is_ok() {
            // Checked before the measurement, which may take long.
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
        let mut summary = ListingSummary::new(scheme);
        let activations = self.activations.open(&checkpoint)?;
        let cache = self.cache.cache();
        let spec = self.analysis_spec(&checkpoint, scheme);
        for found in Scan::start(&checkpoint, tensors, spec, "measuring", &self.work, cache)? {
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
            summary.add(&mut listed);
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
                let quantizers = self.analysis_spec(&checkpoint, scheme).quantizers;
                let (args, rounding) = (&self.activations, self.rounding.rounding);
                let measured =
                    args.measure(&checkpoint, activations, ids, quantizers, rounding, &self.work)?;
                take_outputs(&mut report, &measured);
                Some(measured)
            }
            None => None,
        };
        report.sort();
        write_text(&checkpoint, &self.out, self.force, |out| report.write(format, out))?;
        let path = self.out.to_string_lossy();
        let tensors = figures::counted(report.rows.len(), "tensor");
        output::print(&format!("wrote {} ({tensors})\n", names::visible(&path)))?;
        if let Some(outputs) = outputs {
            // The report was written; it names what could not be measured.
            outputs.conclude()?;
        }
        summary.conclude()
    }

    /// What to measure: the scheme to sort by, and all schemes that the budget chooses from.
    fn analysis_spec(&self, checkpoint: &Checkpoint, scheme: QuantizationScheme) -> AnalysisSpec {
        let others = budget::SCHEMES.into_iter().filter(|&other| other != scheme);
        let all = std::iter::once(scheme).chain(others);
        let quantizers = all.map(|scheme| self.calibration.quantizer(checkpoint, scheme)).collect();
        let spec = AnalysisSpec::errors(quantizers, self.rounding.rounding);
        AnalysisSpec { histogram: true, ..spec }
    }
}

/// Adds the output errors to the rows.
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
