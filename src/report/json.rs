//! Writes the report as JSON: the document of `analyze --schemes` with histograms, marks and the
//! budget's curve.

use crate::plan::budget::Point;
use crate::report::contents::{Histogram, Report, Row};
use crate::report::document::{Document, OutputFigures, Scale, SchemeFigures, Tensor};
use crate::report::experts::ReportedExperts;
use serde::Serialize;
use std::io::{self, Write};

/// A point of the budget's curve.
#[derive(Serialize)]
struct CurvePoint {
    bytes: u64,
    /// Σ(x−x̂)²/Σx², or ‖Wx−Ŵx‖²/‖Wx‖² if activations were given, averaged over parameters.
    error: f64,
}

/// A tensor with the keys that only a report has.
#[derive(Serialize)]
struct Reported<'a> {
    #[serde(flatten)]
    tensor: Tensor<'a>,
    marked: bool,
    scheme: String,
    calibration: String,
    /// Counts in equal bins of −absmax to absmax.
    histogram: Option<&'a Histogram>,
    /// The output error; present only if activations were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Option<OutputFigures>>,
}

pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut document = Document::begin(out, &report.checkpoint, report.quantizer.scheme)?;
    for row in &report.rows {
        document.tensor(&tensor(report, row))?;
    }
    let experts = ReportedExperts::of(report);
    if !experts.is_empty() {
        document.key("experts", &experts.figures())?;
    }
    let listed = |point: Point| CurvePoint { bytes: point.bytes, error: point.error };
    let curve = report.curve().unwrap_or_default().into_iter().map(listed);
    document.end_with(&report.totals(), "budget", &curve.collect::<Vec<_>>())
}

fn tensor<'a>(report: &'a Report, row: &'a Row) -> Reported<'a> {
    let tensor = report.checkpoint.tensor(row.tensor);
    let cost = row.cost();
    let scale = cost.filter(|cost| cost.scales == 1).map(|cost| Scale::One(cost.largest_scale));
    let schemes = row.costs.iter().map(|cost| {
        let figures = SchemeFigures::known(cost.quantizer.scheme, &tensor.shape, &cost.error);
        figures.with_output(row.output_figures(Some(cost)).filter(|_| report.has_outputs))
    });
    let listed = Tensor::listed(tensor, row.reason.as_deref())
        .analyzed(row.statistics.as_ref(), cost.map(|cost| &cost.error), scale)
        .examined(&row.flags, row.duplicate_of())
        .compared(schemes.collect())
        .observed(
            report.checkpoint.learned(row.tensor),
            report.checkpoint.observed(row.tensor),
            Some(row.quantizer.scheme),
        );
    Reported {
        tensor: listed,
        marked: row.marked,
        scheme: row.quantizer.scheme.to_string(),
        calibration: row.quantizer.calibration.to_string(),
        histogram: row.histogram.as_ref().filter(|histogram| !histogram.are_relative),
        output: report.has_outputs.then(|| row.output_figures(row.cost())),
    }
}
