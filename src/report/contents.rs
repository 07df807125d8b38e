//! The contents of a report: rows, totals and the budget's curve.

use crate::activations::{ActivationMode, OutputError};
use crate::checkpoint::Checkpoint;
use crate::plan::budget::{Choice, Curve, Point};
use crate::plan::target::Container;
use crate::quantization::{
    Analysis, Diagnostic, ErrorStatistics, Loss, QuantizationScheme, Quantizer, Rounding,
    Statistics, Thresholds, ValueHistogram, diagnostics,
};
use crate::report::document::{OutputFigures, Totals};
use crate::tensor::TensorId;
use serde::Serialize;
use std::sync::Arc;

/// The contents of a report.
#[derive(Debug)]
pub struct Report {
    /// The checkpoint that was measured.
    pub checkpoint: Arc<Checkpoint>,
    /// The quantizer of the figures, except for tensors that are marked with another.
    pub quantizer: Quantizer,
    /// How values halfway between two integers are rounded.
    pub rounding: Rounding,
    /// The format that sizes are given for. Figures are those of scales as it stores them.
    pub container: Container,
    /// The SQNRs from which ratings apply.
    pub thresholds: Thresholds,
    /// Whether activations were given, so that output errors are known.
    pub has_outputs: bool,
    /// The tensors in the order in which they are listed.
    pub rows: Vec<Row>,
    /// The plan whose marks the rows have, if there is one.
    pub plan: Option<PlanSummary>,
    /// The channels of the worst tensors, for the HTML page.
    pub channels: Vec<TensorChannels>,
}

/// The plan whose marks a report shows.
#[derive(Clone, Debug)]
pub struct PlanSummary {
    /// The path of the recipe; `None` for marks of the screen.
    pub recipe: Option<String>,
    /// The loaders and the format of the output.
    pub target: String,
}

/// The output channels of one tensor, largest magnitude first.
#[derive(Clone, Debug)]
pub struct TensorChannels {
    /// The tensor in the checkpoint.
    pub tensor: TensorId,
    /// The index of each channel in the tensor, and its error.
    pub channels: Vec<(usize, ChannelError)>,
}

/// The error of one output channel.
#[derive(Clone, Copy, Debug)]
pub struct ChannelError {
    /// Largest magnitude.
    pub absmax: f64,
    /// SQNR in dB with the scale of the whole tensor.
    pub shared_db: f64,
    /// SQNR in dB with the channel's own scale.
    pub own_db: f64,
}

impl TensorChannels {
    /// `channels` are in the order of the tensor.
    pub fn new(tensor: TensorId, channels: Vec<ChannelError>) -> TensorChannels {
        let mut channels: Vec<_> = channels.into_iter().enumerate().collect();
        channels.sort_by(|(i, a), (j, b)| b.absmax.total_cmp(&a.absmax).then(i.cmp(j)));
        TensorChannels { tensor, channels }
    }

    /// The channel with the lowest SQNR with the scale of the tensor.
    pub(super) fn worst(&self) -> Option<&(usize, ChannelError)> {
        let known = self.channels.iter().filter(|(_, channel)| !channel.shared_db.is_nan());
        known.min_by(|(_, a), (_, b)| a.shared_db.total_cmp(&b.shared_db))
    }
}

/// A tensor of a report.
#[derive(Debug)]
pub struct Row {
    /// The tensor in the checkpoint.
    pub tensor: TensorId,
    /// Why it is not quantized by default; `None` if it is.
    pub reason: Option<String>,
    /// Whether it is marked for quantization.
    pub marked: bool,
    /// The quantizer of its figures.
    pub quantizer: Quantizer,
    /// `None` if it is not measured yet or is not a float tensor.
    pub statistics: Option<Statistics>,
    /// Diagnostics of its elements.
    pub flags: Vec<Diagnostic>,
    /// The error of each scheme.
    pub costs: Vec<Cost>,
    /// Why the output of its layer could not be measured although inputs were recorded.
    pub unmeasured: Option<String>,
    /// The calibrated scale of the layer's inputs.
    pub input_scale: Option<f32>,
    /// Counts of its elements, if they were counted.
    pub histogram: Option<Histogram>,
}

/// The error of a tensor for one quantizer.
#[derive(Clone, Debug)]
pub struct Cost {
    /// The quantizer of the error.
    pub quantizer: Quantizer,
    /// The error over all elements.
    pub error: ErrorStatistics,
    /// Signal and noise power.
    pub loss: Loss,
    /// The loss of each expert, if the tensor holds the experts of a layer.
    pub experts: Box<[Loss]>,
    /// Number of scales.
    pub scales: u64,
    /// The largest of the scales.
    pub largest_scale: f32,
    /// The error of the layer's output, if known.
    pub output: Option<OutputError>,
}

impl Cost {
    /// The error as a share of the signal: of the layer's output if known, else of the weights.
    fn share(&self) -> f64 {
        let output = self.output.as_ref().and_then(|output| output.ratio(ActivationMode::Weights));
        output.unwrap_or(self.loss.noise_share())
    }
}

/// Element counts in equal bins from `low` to `high`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Histogram {
    /// Lower end of the first bin.
    pub low: f64,
    /// Upper end of the last bin.
    pub high: f64,
    /// The count of each bin.
    pub counts: Box<[f32]>,
    /// Whether the counts are bar heights, which are known only up to a factor.
    #[serde(skip)]
    pub are_relative: bool,
}

impl Histogram {
    const BINS: usize = 48;

    /// Bins the range of int8, −absmax to absmax.
    pub fn of(histogram: &ValueHistogram, absmax: f64) -> Histogram {
        let counts = histogram.rebin(-absmax, absmax, Self::BINS);
        let counts = counts.into_iter().map(|count| count as f32).collect();
        Histogram { are_relative: false, ..Histogram::of_bar_heights(absmax, counts) }
    }

    /// Creates a histogram from bar heights in equal parts of −absmax to absmax.
    pub fn of_bar_heights(absmax: f64, counts: Box<[f32]>) -> Histogram {
        Histogram { low: -absmax, high: absmax, counts, are_relative: true }
    }
}

impl Row {
    /// A row from the analysis of a tensor. `quantizer` selects the outcome of the figures.
    pub fn new(
        checkpoint: &Checkpoint,
        tensor: TensorId,
        quantizer: Quantizer,
        analysis: Option<&Analysis>,
    ) -> Row {
        let statistics = analysis.and_then(|found| found.statistics);
        let histogram = analysis.and_then(|found| found.histogram.as_ref());
        let absmax = statistics.as_ref().map_or(0.0, |statistics| statistics.absmax);
        let dtype = &checkpoint.tensor(tensor).dtype;
        Row {
            tensor,
            reason: None,
            marked: false,
            quantizer,
            flags: analysis.map(|found| diagnostics(dtype, found)).unwrap_or_default(),
            costs: analysis.map(costs).unwrap_or_default(),
            histogram: histogram.map(|counted| Histogram::of(counted, absmax)),
            statistics,
            unmeasured: None,
            input_scale: None,
        }
    }

    /// The error for the row's quantizer.
    pub fn cost(&self) -> Option<&Cost> {
        self.cost_of(self.quantizer)
    }

    /// The error for `quantizer`, if it was measured.
    pub fn cost_of(&self, quantizer: Quantizer) -> Option<&Cost> {
        self.costs.iter().find(|cost| cost.quantizer == quantizer)
    }

    /// The error of a scheme with any calibration.
    pub(super) fn cost_by(&self, scheme: QuantizationScheme) -> Option<&Cost> {
        self.costs.iter().find(|cost| cost.quantizer.scheme == scheme)
    }

    /// The error of the layer's output.
    pub fn output(&self) -> Option<&OutputError> {
        self.cost()?.output.as_ref()
    }

    /// The output error for the JSON document; `None` if the layer was not recorded.
    pub(super) fn output_figures(&self, cost: Option<&Cost>) -> Option<OutputFigures> {
        let error = cost.and_then(|cost| cost.output.as_ref());
        let recorded = error.is_some() || self.unmeasured.is_some();
        recorded.then(|| OutputFigures::of(error, self.input_scale, self.unmeasured.clone()))
    }

    /// SQNR in dB for the row's quantizer.
    pub fn sqnr_db(&self) -> Option<f64> {
        self.cost().map(|cost| cost.error.sqnr_db)
    }

    pub(super) fn duplicate_of(&self) -> Option<&str> {
        self.flags.iter().find_map(|flag| match flag {
            Diagnostic::Duplicate(name) => Some(&**name),
            _ => None,
        })
    }
}

fn costs(analysis: &Analysis) -> Vec<Cost> {
    let measured = analysis.outcomes.iter().filter_map(|outcome| {
        let found = outcome.result.as_ref().ok()?;
        let sums = found.error?;
        Some(Cost {
            quantizer: outcome.quantizer,
            error: sums.statistics(),
            loss: Loss::from(&sums),
            experts: found.experts().into(),
            scales: found.scales.count,
            largest_scale: found.scales.max,
            output: None,
        })
    });
    measured.collect()
}

impl Report {
    /// Sorts the rows by output error if known, and by SQNR of the weights otherwise: tensors
    /// with NaN or Inf first, then the worst, then exact tensors, then those without figures.
    pub fn sort(&mut self) {
        let rank = |row: &Row| match (row.sqnr_db(), &row.statistics) {
            (Some(db), _) => db.min(f64::MAX),
            (None, Some(statistics)) if statistics.nan + statistics.inf > 0 => f64::NEG_INFINITY,
            (None, _) => f64::INFINITY,
        };
        self.rows.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
        if self.has_outputs {
            let rank = |row: &Row| {
                let db = row.output().and_then(|output| output.db(ActivationMode::Weights));
                db.map_or(f64::INFINITY, |db| -db.max(-f64::MAX))
            };
            self.rows.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
        }
    }

    /// The totals, with the marked tensors quantized.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for row in &self.rows {
            let tensor = self.checkpoint.tensor(row.tensor);
            let after = if row.marked {
                self.container.bytes(row.quantizer.scheme, tensor)
            } else {
                tensor.bytes
            };
            totals.tensors += 1;
            totals.parameters = totals.parameters.saturating_add(tensor.parameters());
            totals.bytes = totals.bytes.saturating_add(tensor.bytes);
            totals.bytes_quantized = totals.bytes_quantized.saturating_add(after);
        }
        totals
    }

    /// The tensors that the budget chooses from: measured and quantized by default.
    pub(super) fn choosable(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.reason.is_none() && !row.costs.is_empty())
    }

    /// The curve of bytes against error over all choices of schemes. Errors are shares of the
    /// weights' signal or, if known, of the outputs'. `None` if there is nothing to choose.
    pub(super) fn curve(&self) -> Option<Vec<Point>> {
        let mut fixed = self.totals().bytes;
        let mut parameters = 0u64;
        let mut options = Vec::new();
        for row in self.choosable() {
            let tensor = self.checkpoint.tensor(row.tensor);
            fixed = fixed.saturating_sub(tensor.bytes);
            parameters = parameters.saturating_add(tensor.parameters());
            let quantized = row.costs.iter().map(|cost| {
                Choice::quantized(tensor, self.container, cost.quantizer, cost.share())
            });
            let choices = std::iter::once(Choice::kept(tensor)).chain(quantized);
            options.push((row.tensor, choices.collect()));
        }
        let curve = Curve::new(fixed, options);
        let share = |point: &Point| Point {
            error: point.error / parameters.max(1) as f64,
            bytes: point.bytes,
        };
        let points: Vec<Point> = curve.points().iter().map(share).collect();
        (points.len() > 1).then_some(points)
    }

    /// For each scheme, the bytes and the error if all tensors have it.
    pub(super) fn uniform(&self) -> Vec<(QuantizationScheme, Point)> {
        let Some(first) = self.choosable().next() else { return Vec::new() };
        let mut schemes: Vec<QuantizationScheme> = Vec::new();
        for cost in &first.costs {
            if !schemes.contains(&cost.quantizer.scheme) {
                schemes.push(cost.quantizer.scheme);
            }
        }
        let point = |scheme: QuantizationScheme| {
            let mut point = Point { bytes: self.totals().bytes, error: 0.0 };
            let mut parameters = 0u64;
            for row in self.choosable() {
                let tensor = self.checkpoint.tensor(row.tensor);
                let cost = row.cost_by(scheme)?;
                let choice =
                    Choice::quantized(tensor, self.container, cost.quantizer, cost.share());
                point.bytes = point.bytes.saturating_sub(tensor.bytes).saturating_add(choice.bytes);
                point.error += choice.error;
                parameters = parameters.saturating_add(tensor.parameters());
            }
            point.error /= parameters.max(1) as f64;
            Some((scheme, point))
        };
        schemes.into_iter().filter_map(point).collect()
    }
}
