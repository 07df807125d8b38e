//! `analyze`: the quantization error of every tensor, worst first.

use super::activations::{ActivationArgs, Outputs, SORTS, SortBy, WithOutput};
use super::calibrate::scale_of;
use super::duplicates::Duplicates;
use super::error::{Error, UsageError};
use super::experts::MeasuredExperts;
use super::fail_on::{self, FailOn};
use super::listing::{ListingSummary, Row, print_unplaced};
use super::measured::{Measured, note, rank, statistics};
use super::options::{
    CacheArgs, CalibrationArgs, CsvArgs, ModelArgs, OutputArgs, RoundingArgs, SchemeArgs,
    SelectionArgs, WorkArgs, choice,
};
use super::output::{output, width};
use super::partition::PartitionArgs;
use super::report::ReportArgs;
use super::report_rows::{add_duplicates, add_outputs, report_row};
use super::sample::{Sampling, Share};
use super::scan::Scan;
use super::schemes::SchemeComparison;
use super::table::{Column, Table};
use super::target::{MeasuredFor, MeasuredForArgs};
use crate::activations::ActivationMode;
use crate::checkpoint::Checkpoint;
use crate::export::Partition;
use crate::plan::Selection;
use crate::quantization::ggml::Importance;
use crate::quantization::{
    AnalysisSpec, ChannelDetail, ErrorDetail, QuantizationScheme, Thresholds,
};
use crate::report::document::Document;
use crate::report::{Format, Report};
use crate::tensor::TensorId;
use crate::text::{figures, names};
use clap::Args;
use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quantscope analyze my-model --top 20\n  \
    quantscope analyze my-model --schemes per-tensor,per-channel,per-block:64\n  \
    quantscope analyze my-model --for vllm\n  \
    quantscope analyze my-model --fail-on nan,below:20dB\n  \
    quantscope analyze my-model --csv > analysis.csv\n  \
    quantscope analyze demo: --activations demo:")]
pub struct Analyze {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten, next_help_heading = "Selection")]
    selection: SelectionArgs,
    #[command(flatten, next_help_heading = "Target")]
    target: MeasuredForArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    scheme: SchemeArgs,
    /// Several schemes side by side, sorted by the first: per-tensor, per-channel or
    /// per-block:N, each optionally followed by /int4 or /fp8, and the presets W4A16,
    /// W4A16_ASYM, FP8_DYNAMIC, FP8_BLOCK, NVFP4A16, MXFP4A16, MXFP8A16 (W4A16:64: in groups of
    /// 64), and ggml's block types such as q4_K or iq4_xs
    #[arg(
        long,
        value_name = "A,B,…",
        value_delimiter = ',',
        conflicts_with_all = ["scheme", "csv"],
        help_heading = "Quantization"
    )]
    schemes: Vec<QuantizationScheme>,
    #[command(flatten, next_help_heading = "Quantization")]
    calibration: CalibrationArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    rounding: RoundingArgs,
    #[command(flatten, next_help_heading = "Activations")]
    activations: ActivationArgs,
    /// What to sort by, worst first; by default `output` with --activations, else `sqnr`
    #[arg(
        long,
        value_name = "FIGURE",
        help_heading = "Output",
        value_parser = choice(&SORTS),
        requires_ifs = [("output", "activations"), ("output-dynamic", "activations"), ("output-static", "activations")]
    )]
    sort: Option<SortBy>,
    /// Print only the first N tensors; totals and --fail-on still count all of them
    #[arg(long, value_name = "N", help_heading = "Output")]
    top: Option<usize>,
    /// Exit with 1 if a tensor has NaN (nan) or infinities (inf), or if a quantizable tensor has an
    /// SQNR below DB (below:20dB). Separate several conditions by commas
    #[arg(
        long,
        value_name = "nan,inf,below:DB",
        value_delimiter = ',',
        allow_hyphen_values = true,
        help_heading = "Output"
    )]
    fail_on: Vec<FailOn>,
    /// Estimate the errors from a share of each tensor, in evenly spread pieces, each with its
    /// standard error: 5%. A model on a server is fetched only as far as that. At most 32 MiB of
    /// a tensor are measured
    #[arg(
        long,
        value_name = "SHARE",
        conflicts_with_all = ["activations", "fail_on", "csv", "sort"],
        help_heading = "Execution"
    )]
    sample: Option<Share>,
    #[command(flatten, next_help_heading = "Output")]
    output: OutputArgs,
    #[command(flatten, next_help_heading = "Output")]
    csv: CsvArgs,
    /// With --partition: the report that `quantscope join` writes; the extension .html, .csv or
    /// .json decides the format
    #[arg(long = "output", short, value_name = "FILE", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Measure only worker I's share of the tensors, of N workers that share a file system or
    /// bucket. The results go to FILE.partial; `quantscope join FILE` writes the report. `env`
    /// takes I and N from Slurm's job array, `env/N` I from Slurm or Kubernetes
    #[arg(
        long,
        value_name = "I/N",
        help_heading = "Execution",
        requires = "out",
        conflicts_with_all = ["schemes", "sort", "top", "fail_on", "json", "csv"]
    )]
    partition: Option<Partition>,
    #[command(flatten, next_help_heading = "Execution")]
    cache: CacheArgs,
    #[command(flatten, next_help_heading = "Execution")]
    work: WorkArgs,
}

/// The results to print.
struct Results<'a> {
    checkpoint: &'a Arc<Checkpoint>,
    measured_for: &'a MeasuredFor,
    measured: &'a [Measured],
    outputs: Option<Outputs>,
    duplicates: Duplicates,
    /// The importance that ggml's block types are measured with.
    importance: Importance,
}

impl Analyze {
    pub fn run(self, thresholds: &Thresholds) -> Result<(), Error> {
        if self.partition.is_some() {
            return self.into_report().map_or(Ok(()), |report| report.run(thresholds));
        }
        if let Some(path) = self.out {
            let why = "--output is for --partition; `quantscope report` writes a report";
            return Err(UsageError::options(&path, why).into());
        }
        let checkpoint = self.model.open()?;
        let selection = self.selection.selection();
        let measured_for =
            self.target.resolve(&checkpoint, &selection, &self.scheme, &self.schemes)?;
        let quantizer = self.calibration.quantizer(&checkpoint, measured_for.scheme);
        let tensors = selection.matching(&checkpoint)?;
        if let Some(share) = self.sample {
            let sampling = Sampling {
                checkpoint: &checkpoint,
                spec: AnalysisSpec {
                    channels: ChannelDetail::None,
                    ..self.analysis_spec(&checkpoint, &measured_for, &Importance::default())
                },
                share,
                rows: self.rows(),
                work: &self.work,
            };
            return sampling.run(tensors, self.output.json, thresholds);
        }
        let activations = self.activations.open(&checkpoint)?;
        let importance = activations.as_ref().map(|found| found.importance(&checkpoint));
        let importance = importance.unwrap_or_default();
        let spec = self.analysis_spec(&checkpoint, &measured_for, &importance);
        let scan = Scan::start(
            &checkpoint,
            tensors,
            spec.clone(),
            "measuring",
            &self.work,
            self.cache.cache(),
        )?;
        let mut measured = scan
            .map(|found| found.map(|(id, found)| Measured { id, rank: rank(&found), found }))
            .collect::<Result<Vec<_>, Error>>()?;
        measured.sort_by(|a, b| a.rank.total_cmp(&b.rank));
        let outputs = match &activations {
            Some(activations) => {
                let ids = measured.iter().map(|m| m.id).collect();
                let args = &self.activations;
                let found: HashMap<TensorId, &Measured> =
                    measured.iter().map(|m| (m.id, m)).collect();
                let weighted = |id, place| found.get(&id)?.quantized(place)?.weighted;
                Some(args.measure(&checkpoint, activations, ids, &spec, &weighted, &self.work)?)
            }
            None => None,
        };
        if let Some(outputs) = &outputs {
            let by = self.sort.unwrap_or(SortBy::Output(ActivationMode::Weights));
            if let SortBy::Output(mode) = by {
                let rank = |m: &Measured| outputs.rank(m.id, quantizer, mode);
                measured.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
            }
        }
        let statistics = measured.iter().filter_map(|m| Some((m.id, m.statistics()?)));
        let duplicates = Duplicates::find(&checkpoint, statistics, &self.work)?;
        if !self.schemes.is_empty() {
            let comparison = SchemeComparison {
                checkpoint: &checkpoint,
                selection: &selection,
                measured_for: &measured_for,
                schemes: &self.schemes,
                measured: &measured,
                duplicates: &duplicates,
                outputs: outputs.as_ref(),
                rows: self.rows(),
            };
            if self.output.json {
                comparison.document()?
            } else {
                comparison.table(thresholds)?
            }
            return fail_on::check(&self.fail_on, &checkpoint, &measured_for, &measured);
        }
        let results = Results {
            checkpoint: &checkpoint,
            measured_for: &measured_for,
            measured: &measured,
            outputs,
            duplicates,
            importance,
        };
        match (self.output.json, self.csv.csv) {
            (true, _) => self.document(&selection, &results)?,
            (_, true) => self.write_csv(&selection, &results, thresholds)?,
            _ => self.table(&selection, &results, thresholds)?,
        }
        fail_on::check(&self.fail_on, &checkpoint, &measured_for, &measured)
    }

    /// The report that measures the same; `None` without a path to write it to.
    pub(super) fn into_report(self) -> Option<ReportArgs> {
        Some(ReportArgs {
            model: self.model,
            out: self.out?,
            force: false,
            recipe: None,
            selection: self.selection,
            target: self.target,
            scheme: self.scheme,
            calibration: self.calibration,
            rounding: self.rounding,
            activations: self.activations,
            partition: PartitionArgs { partition: self.partition },
            cache: self.cache,
            work: self.work,
        })
    }

    /// The number of tensors to print.
    fn rows(&self) -> usize {
        self.top.unwrap_or(usize::MAX)
    }

    /// Prints the CSV document of `report`.
    fn write_csv(
        &self,
        selection: &Selection,
        results: &Results,
        thresholds: &Thresholds,
    ) -> Result<(), Error> {
        let Results { checkpoint, measured_for, measured, outputs, duplicates, .. } = results;
        let quantizer = self.calibration.quantizer(checkpoint, measured_for.scheme);
        let mut summary = ListingSummary::new(measured_for);
        let mut report = Report {
            checkpoint: Arc::clone(checkpoint),
            quantizer,
            rounding: self.rounding.rounding,
            container: measured_for.container(),
            thresholds: *thresholds,
            has_outputs: false,
            rows: Vec::new(),
            plan: None,
            channels: Vec::new(),
        };
        for (index, Measured { id, found, .. }) in measured.iter().enumerate() {
            let mut listed = Row::new(checkpoint, selection, measured_for, *id, found.as_ref());
            if index < self.rows() {
                report.rows.push(report_row(checkpoint, &listed, *id, quantizer, found.as_ref()));
            }
            summary.add(&mut listed);
        }
        add_duplicates(&mut report, duplicates);
        if let Some(outputs) = outputs {
            add_outputs(&mut report, outputs);
        }
        let mut out = output();
        report.write(Format::Csv, &mut out)?;
        out.flush()?;
        outputs.as_ref().map_or(Ok(()), Outputs::conclude)?;
        summary.conclude()
    }

    fn analysis_spec(
        &self,
        checkpoint: &Checkpoint,
        measured_for: &MeasuredFor,
        importance: &Importance,
    ) -> AnalysisSpec {
        let first = [measured_for.scheme];
        let schemes = if self.schemes.is_empty() { &first[..] } else { &self.schemes };
        let quantizers =
            schemes.iter().map(|&scheme| self.calibration.quantizer(checkpoint, scheme));
        let channels = match schemes.len() {
            1 => ChannelDetail::None,
            _ => ChannelDetail::Worst,
        };
        AnalysisSpec {
            channels,
            scale_storage: measured_for.scale_storage(),
            // The comparison of schemes shows no other figure.
            errors: if self.schemes.is_empty() || self.output.json {
                ErrorDetail::Full
            } else {
                ErrorDetail::Loss
            },
            importance: importance.clone(),
            ..AnalysisSpec::errors(quantizers.collect(), self.rounding.rounding)
        }
    }

    fn document(&self, selection: &Selection, results: &Results) -> Result<(), Error> {
        let Results { checkpoint, measured_for, measured, outputs, duplicates, .. } = results;
        let scheme = measured_for.scheme;
        let quantizer = self.calibration.quantizer(checkpoint, scheme);
        // The scales can take a thirty-second of the model's size. They are not kept while
        // tensors are measured and sorted, but computed again row by row.
        let mut lists = match scheme {
            QuantizationScheme::PerTensor(..) => None,
            _ => {
                let order = measured.iter().take(self.rows()).map(|m| m.id).collect();
                let spec = AnalysisSpec {
                    errors: ErrorDetail::None,
                    keep_scales: true,
                    ..self.analysis_spec(checkpoint, measured_for, &results.importance)
                };
                Some(Scan::start(checkpoint, order, spec, "writing", &self.work, None)?)
            }
        };
        let mut summary = ListingSummary::new(measured_for);
        let mut document = Document::begin(output(), checkpoint, scheme)?;
        for (index, Measured { id, found, .. }) in measured.iter().enumerate() {
            if index >= self.rows() {
                summary.add(&mut Row::new(
                    checkpoint,
                    selection,
                    measured_for,
                    *id,
                    found.as_ref(),
                ));
                continue;
            }
            let list = lists.as_mut().and_then(Scan::next).transpose()?.and_then(|(_, list)| list);
            // The file may have changed in between: the second read counts.
            let found = match &list {
                Some(Err(_)) => list.as_ref(),
                _ => found.as_ref(),
            };
            let mut row = Row::new(checkpoint, selection, measured_for, *id, found);
            summary.add(&mut row);
            let listed = Row::new(checkpoint, selection, measured_for, *id, list.as_ref());
            let quantized = listed.quantized().or(row.quantized());
            let scale = quantized.and_then(|q| scale_of(scheme, &q.scales));
            let duplicate = duplicates.of(checkpoint, *id);
            let tensor = row.analyzed(scale, duplicate);
            match outputs {
                Some(outputs) => {
                    let output = outputs.figures(*id, quantizer);
                    document.tensor(&WithOutput { tensor, output })?;
                }
                None => document.tensor(&tensor)?,
            }
        }
        let experts = MeasuredExperts::of(checkpoint, &[scheme], measured);
        if !experts.is_empty() {
            document.key("experts", &experts.figures())?;
        }
        match outputs {
            Some(outputs) => {
                document.end_with(&summary.totals, "activations", &outputs.summary())?;
                outputs.conclude()?;
            }
            None => document.end(&summary.totals)?,
        }
        summary.conclude()
    }

    fn table(
        &self,
        selection: &Selection,
        results: &Results,
        thresholds: &Thresholds,
    ) -> Result<(), Error> {
        let Results { checkpoint, measured_for, measured, outputs, duplicates, .. } = results;
        let scheme = measured_for.scheme;
        let quantizer = self.calibration.quantizer(checkpoint, scheme);
        let mut summary = ListingSummary::new(measured_for);
        let mut columns = vec![
            ("tensor", Column::Name),
            ("dtype", Column::OptionalLeft),
            ("shape", Column::Left),
            ("bytes", Column::Optional),
            ("SQNR", Column::Right),
            ("", Column::Left),
        ];
        if let Some(outputs) = outputs {
            columns.extend([
                (outputs.title(), Column::Right),
                ("dynamic", Column::Right),
                ("static", Column::Right),
            ]);
        }
        columns.extend([
            ("rel. error", Column::Optional),
            ("max error", Column::Optional),
            ("zeroed", Column::Optional),
            ("levels", Column::Optional),
            ("quantizable", Column::Note),
        ]);
        let mut table = Table::new(&columns);
        let levels = scheme.levels();
        for (index, Measured { id, found, .. }) in measured.iter().enumerate() {
            let mut row = Row::new(checkpoint, selection, measured_for, *id, found.as_ref());
            summary.add(&mut row);
            if index >= self.rows() {
                continue;
            }
            table.cell(names::visible(&row.tensor.name));
            table.cell(names::visible(row.tensor.dtype.name()));
            table.cell(&row.tensor.shape);
            table.cell(figures::bytes(row.tensor.bytes));
            let error = statistics(found);
            let sqnr = error.map(|error| error.sqnr_db);
            table.cell(sqnr.map(figures::decibels).unwrap_or_default());
            table.cell(sqnr.map_or("", |db| thresholds.rate(db).name()));
            if let Some(outputs) = outputs {
                outputs.cells(*id, quantizer).iter().for_each(|cell| table.cell(cell));
            }
            match error {
                Some(error) => {
                    table.cell(figures::percent(error.relative_error));
                    table.cell(figures::plain(error.max_abs_error));
                    table.cell(figures::percent(error.zeroed));
                    table.cell(format_args!("{}/{levels}", error.levels_used));
                }
                None => (0..4).for_each(|_| table.cell("")),
            }
            table.cell(note(&row, duplicates, checkpoint, *id));
        }
        let mut out = output();
        table.print(&mut out, width())?;
        summary.print(&mut out)?;
        let experts = MeasuredExperts::of(checkpoint, &[scheme], measured);
        experts.print(&mut out, width(), thresholds)?;
        print_unplaced(checkpoint, &mut out)?;
        match outputs {
            None => {
                writeln!(out, "The figures are errors of the weights, not of the model's output.")?;
            }
            Some(outputs) => outputs.print(checkpoint, &mut out)?,
        }
        out.flush()?;
        outputs.as_ref().map_or(Ok(()), Outputs::conclude)?;
        summary.conclude()
    }
}
