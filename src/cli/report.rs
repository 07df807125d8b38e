//! `report`: writes the analysis of a checkpoint to a file.

use crate::checkpoint::Checkpoint;
use crate::cli::activations::ActivationArgs;
use crate::cli::duplicates::Duplicates;
use crate::cli::error::{Error, UsageError};
use crate::cli::job_runner::JobRunner;
use crate::cli::listing::{ListingSummary, Row as ListedRow};
use crate::cli::options::{
    CacheArgs, CalibrationArgs, ModelArgs, RoundingArgs, SchemeArgs, SelectionArgs, WorkArgs,
};
use crate::cli::output;
use crate::cli::partition::{AnalysisShare, PartitionArgs};
use crate::cli::report_rows::{add_duplicates, add_outputs, report_row};
use crate::cli::scan::Scan;
use crate::cli::target::{MeasuredFor, MeasuredForArgs};
use crate::export::partition::fragment::PartialDirectory;
use crate::export::{SaveError, write_text};
use crate::job::cache::Cache;
use crate::job::channels;
use crate::path_error::IoContext;
use crate::plan::rules::TargetRules;
use crate::plan::{Plan, budget, effective_quantizer, recipe};
use crate::quantization::{AnalysisSpec, QuantizationScheme, Quantizer, Rounding, Thresholds};
use crate::report::{ChannelError, Format, PlanSummary, Report, TensorChannels};
use crate::tensor::TensorId;
use crate::text::{figures, names};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quantscope report my-model -o report.html\n  \
    quantscope report my-model -o report.csv --include '*.mlp.*'\n  \
    quantscope report demo: -o demo.html --activations demo:\n  \
    quantscope quantize my-model -o small.safetensors --write-recipe plan.toml\n  \
    quantscope report my-model -o plan.html --recipe plan.toml")]
pub struct ReportArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    /// Where to write; the extension .html, .csv or .json decides the format
    #[arg(long = "output", short, value_name = "FILE", help_heading = "Output")]
    pub(super) out: PathBuf,
    /// Replace FILE if it exists
    #[arg(long, help_heading = "Output")]
    pub(super) force: bool,
    /// Document the plan in a recipe file: its marks, schemes and target
    #[arg(
        long,
        value_name = "RECIPE",
        help_heading = "Selection",
        conflicts_with_all = ["include", "exclude", "rounding"]
    )]
    pub(super) recipe: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Selection")]
    pub(super) selection: SelectionArgs,
    #[command(flatten, next_help_heading = "Target")]
    pub(super) target: MeasuredForArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    pub(super) scheme: SchemeArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    pub(super) calibration: CalibrationArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    pub(super) rounding: RoundingArgs,
    #[command(flatten, next_help_heading = "Activations")]
    pub(super) activations: ActivationArgs,
    #[command(flatten, next_help_heading = "Execution")]
    pub(super) partition: PartitionArgs,
    #[command(flatten, next_help_heading = "Execution")]
    pub(super) cache: CacheArgs,
    #[command(flatten, next_help_heading = "Execution")]
    pub(super) work: WorkArgs,
}

/// How many of the worst tensors are shown with their channels.
const TENSORS_WITH_CHANNELS: usize = 6;

/// What to measure for a report, and its format.
struct Prepared {
    format: Format,
    plan: Option<Plan>,
    tensors: Vec<TensorId>,
    measured_for: MeasuredFor,
    rounding: Rounding,
    spec: AnalysisSpec,
}

impl ReportArgs {
    pub(super) fn run(self, thresholds: &Thresholds) -> Result<(), Error> {
        let format = self.format()?;
        let checkpoint = self.model.open()?;
        let prepared = self.prepare(format, &checkpoint)?;
        if let Some(partition) = self.partition.partition {
            let (spec, tensors) = (prepared.spec, prepared.tensors);
            let share =
                AnalysisShare { checkpoint: &checkpoint, out: &self.out, partition, spec, tensors };
            return share.make(&self.work);
        }
        self.write(&checkpoint, prepared, self.cache.cache(), thresholds)
    }

    /// Writes the report from the shares of several workers. `model` is the source, `out` the
    /// report that the shares are for.
    pub(super) fn join(
        mut self,
        model: PathBuf,
        out: PathBuf,
        force: bool,
        thresholds: &Thresholds,
    ) -> Result<(), Error> {
        (self.model.model, self.out) = (model, out);
        self.force |= force;
        let format = self.format()?;
        let checkpoint = self.model.open()?;
        let prepared = self.prepare(format, &checkpoint)?;
        let directory = PartialDirectory::of(&self.out)?;
        let (spec, tensors) = (&prepared.spec, &prepared.tensors);
        let fragments = directory.complete(&AnalysisShare::identity(&checkpoint, spec, tensors))?;
        let temporary = tempfile::tempdir().context(std::env::temp_dir())?;
        let cache = self.cache.cache().unwrap_or_else(|| Cache::at(temporary.path().to_owned()));
        let partitions = fragments.iter().map(|(partition, _)| *partition);
        let shares: Result<Vec<PathBuf>, SaveError> =
            partitions.map(|partition| directory.local_data(partition, temporary.path())).collect();
        cache.merge(&checkpoint, spec, &shares?);
        self.write(&checkpoint, prepared, Some(cache), thresholds)?;
        // The report is in place: what is left of the shares if this fails, the user can remove.
        let _ = directory.remove();
        Ok(())
    }

    /// The format of the report, if it may be written.
    fn format(&self) -> Result<Format, Error> {
        let format = Format::of(&self.out).ok_or_else(|| {
            let why = "unknown report format: expected a path that ends in .html, .csv or .json";
            UsageError::options(&self.out, why)
        })?;
        if !self.force && self.out.symlink_metadata().is_ok() {
            // Checked before the measurement, which may take long.
            return Err(SaveError::Exists(self.out.clone()).into());
        }
        Ok(format)
    }

    fn prepare(&self, format: Format, checkpoint: &Checkpoint) -> Result<Prepared, Error> {
        let plan = self.recipe.as_ref().map(|path| recipe::read(path, checkpoint)).transpose()?;
        let selection = self.selection.selection();
        let tensors = selection.matching(checkpoint)?;
        let measured_for = match &plan {
            Some(plan) if !self.target.is_given() => MeasuredFor {
                rules: TargetRules::new(checkpoint, &plan.target)?,
                scheme: self.scheme.scheme(checkpoint),
            },
            _ => self.target.resolve(checkpoint, &selection, &self.scheme, &[])?,
        };
        let rounding = plan.as_ref().map_or(self.rounding.rounding, |plan| plan.rounding);
        let spec = AnalysisSpec {
            scale_storage: measured_for.scale_storage(),
            ..self.analysis_spec(checkpoint, measured_for.scheme, rounding, plan.as_ref())
        };
        Ok(Prepared { format, plan, tensors, measured_for, rounding, spec })
    }

    /// Measures what `cache` does not have, and writes the report.
    fn write(
        &self,
        checkpoint: &Arc<Checkpoint>,
        prepared: Prepared,
        cache: Option<Cache>,
        thresholds: &Thresholds,
    ) -> Result<(), Error> {
        let Prepared { format, plan, tensors, measured_for, rounding, spec } = prepared;
        let container = measured_for.container();
        let selection = self.selection.selection();
        let quantizer = self.calibration.quantizer(checkpoint, measured_for.scheme);
        let mut report = Report {
            checkpoint: checkpoint.clone(),
            quantizer,
            rounding,
            container,
            thresholds: *thresholds,
            has_outputs: false,
            rows: Vec::with_capacity(tensors.len()),
            plan: self.plan_summary(plan.as_ref()),
            channels: Vec::new(),
        };
        let mut summary = ListingSummary::new(&measured_for);
        let activations = self.activations.open(checkpoint)?;
        let scan = Scan::start(checkpoint, tensors, spec.clone(), "measuring", &self.work, cache)?;
        for found in scan {
            let (id, found) = found?;
            let mut listed =
                ListedRow::new(checkpoint, &selection, &measured_for, id, found.as_ref());
            let mark = plan.as_ref().and_then(|plan| plan.get(id));
            let of_row = mark.unwrap_or(quantizer);
            let mut row = report_row(checkpoint, &listed, id, of_row, found.as_ref());
            if plan.is_some() {
                row.marked = mark.is_some();
            }
            summary.add(&mut listed);
            report.rows.push(row);
        }
        let statistics =
            report.rows.iter().filter_map(|r| Some((r.tensor, r.statistics.as_ref()?)));
        let duplicates = Duplicates::find(checkpoint, statistics, &self.work)?;
        add_duplicates(&mut report, &duplicates);
        let outputs = match &activations {
            Some(activations) => {
                let ids = report.rows.iter().map(|row| row.tensor).collect();
                let args = &self.activations;
                let measured =
                    args.measure(checkpoint, activations, ids, &spec, &|_, _| None, &self.work)?;
                add_outputs(&mut report, &measured);
                Some(measured)
            }
            None => None,
        };
        report.sort();
        if format == Format::Html {
            self.measure_channels(checkpoint, &mut report)?;
        }
        write_text(checkpoint, &self.out, self.force, |out| report.write(format, out))?;
        let path = self.out.to_string_lossy();
        let tensors = figures::counted(report.rows.len(), "tensor");
        output::print(&format!("wrote {} ({tensors})\n", names::visible(&path)))?;
        if let Some(outputs) = outputs {
            // The report was written; it names what could not be measured.
            outputs.conclude()?;
        }
        summary.conclude()
    }

    /// What to measure: the scheme to sort by, all schemes that the budget chooses from, and those
    /// of the plan.
    fn analysis_spec(
        &self,
        checkpoint: &Checkpoint,
        scheme: QuantizationScheme,
        rounding: Rounding,
        plan: Option<&Plan>,
    ) -> AnalysisSpec {
        let others = budget::SCHEMES.into_iter().filter(|&other| other != scheme);
        let all = std::iter::once(scheme).chain(others);
        let mut quantizers: Vec<Quantizer> =
            all.map(|scheme| self.calibration.quantizer(checkpoint, scheme)).collect();
        for (_, quantizer) in plan.into_iter().flat_map(Plan::iter) {
            if !quantizers.contains(&quantizer) {
                quantizers.push(quantizer);
            }
        }
        AnalysisSpec { histogram: true, ..AnalysisSpec::errors(quantizers, rounding) }
    }

    fn plan_summary(&self, plan: Option<&Plan>) -> Option<PlanSummary> {
        let recipe = self.recipe.as_ref()?.to_string_lossy().into_owned();
        Some(PlanSummary { recipe: Some(recipe), target: plan?.target.to_string() })
    }

    /// Measures the channels of the worst tensors.
    fn measure_channels(
        &self,
        checkpoint: &Arc<Checkpoint>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let rounding = report.rounding;
        let worst: Vec<(TensorId, f32)> = report
            .rows
            .iter()
            .filter_map(|row| {
                let quantizer =
                    Quantizer { scheme: QuantizationScheme::PER_TENSOR, ..report.quantizer };
                let quantizer = effective_quantizer(checkpoint, row.tensor, quantizer);
                let shape = &checkpoint.tensor(row.tensor).shape;
                let cost = row.cost_of(quantizer).filter(|_| shape.rank() > 1)?;
                row.reason.is_none().then_some((row.tensor, cost.largest_scale))
            })
            .take(TENSORS_WITH_CHANNELS)
            .collect();
        for (tensor, shared) in worst {
            let scale_storage = report.container.scale_storage();
            let request = channels::Request { tensor, shared, rounding, scale_storage };
            let job = || channels::start(checkpoint.clone(), request, self.work.threads());
            let found = JobRunner::start(job, "measuring channels", self.work.quiet)?.only()??;
            let errors = found.into_iter().map(|channel| ChannelError {
                absmax: channel.absmax,
                shared_db: channel.shared_db,
                own_db: channel.own_db,
            });
            report.channels.push(TensorChannels::new(tensor, errors.collect()));
        }
        Ok(())
    }
}
