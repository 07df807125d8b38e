//! `calibrate`: the range and the scales of every tensor, in file order.

use super::error::Error;
use super::listing::{ListingSummary, Row};
use super::options::{
    CacheArgs, CalibrationArgs, ModelArgs, OutputArgs, RoundingArgs, SchemeArgs, SelectionArgs,
    WorkArgs,
};
use super::output::{output, width};
use super::scan::Scan;
use super::table::{Column, Table};
use super::target::MeasuredFor;
use crate::quantization::{AnalysisSpec, QuantizationScheme, Scales};
use crate::report::document::{Document, Scale};
use crate::text::{figures, names};
use clap::Args;
use std::io::Write;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quantscope calibrate my-model\n  \
    quantscope calibrate my-model --scheme per-channel --calibration percentile:99.9")]
pub struct Calibrate {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten, next_help_heading = "Selection")]
    selection: SelectionArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    scheme: SchemeArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    calibration: CalibrationArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    rounding: RoundingArgs,
    #[command(flatten, next_help_heading = "Output")]
    output: OutputArgs,
    #[command(flatten, next_help_heading = "Execution")]
    cache: CacheArgs,
    #[command(flatten, next_help_heading = "Execution")]
    work: WorkArgs,
}

impl Calibrate {
    pub fn run(self) -> Result<(), Error> {
        let checkpoint = self.model.open()?;
        let selection = self.selection.selection();
        let scheme = self.scheme.scheme(&checkpoint);
        let tensors = selection.matching(&checkpoint)?;
        let quantizers = vec![self.calibration.quantizer(&checkpoint, scheme)];
        let spec = AnalysisSpec {
            keep_scales: self.output.json,
            ..AnalysisSpec::scales(quantizers, self.rounding.rounding)
        };
        let scan =
            Scan::start(&checkpoint, tensors, spec, "calibrating", &self.work, self.cache.cache())?;
        let measured_for = MeasuredFor::scheme(scheme);
        let mut summary = ListingSummary::new(&measured_for);
        let mut out = output();
        if self.output.json {
            let mut document = Document::begin(&mut out, &checkpoint, scheme)?;
            for found in scan {
                let (id, found) = found?;
                let mut row = Row::new(&checkpoint, &selection, &measured_for, id, found.as_ref());
                summary.add(&mut row);
                let scale = row.quantized().and_then(|q| scale_of(scheme, &q.scales));
                document.tensor(
                    &row.listed().calibrated(row.analysis.map(|found| &found.range), scale),
                )?;
            }
            document.end(&summary.totals)?;
            return summary.conclude();
        }
        let mut table = Table::new(&[
            ("tensor", Column::Name),
            ("dtype", Column::OptionalLeft),
            ("shape", Column::Left),
            ("min", Column::Right),
            ("max", Column::Right),
            ("scale", Column::Right),
            ("note", Column::Note),
        ]);
        for found in scan {
            let (id, found) = found?;
            let mut row = Row::new(&checkpoint, &selection, &measured_for, id, found.as_ref());
            summary.add(&mut row);
            table.cell(names::visible(&row.tensor.name));
            table.cell(names::visible(row.tensor.dtype.name()));
            table.cell(&row.tensor.shape);
            match row.analysis.map(|analysis| analysis.range) {
                Some(range) if range.finite() > 0 => {
                    table.cell(figures::plain(range.min));
                    table.cell(figures::plain(range.max));
                }
                _ => {
                    table.cell("");
                    table.cell("");
                }
            }
            match row.quantized() {
                Some(quantized) => {
                    table.cell(span(&quantized.scales));
                    table.cell("");
                }
                None => {
                    table.cell("");
                    table.cell(names::visible(row.reason.as_deref().unwrap_or_default()));
                }
            }
        }
        table.print(&mut out, width())?;
        summary.print(&mut out)?;
        out.flush()?;
        summary.conclude()
    }
}

/// The scale for the JSON document; `None` if there is none, or if not all were kept.
pub(super) fn scale_of(scheme: QuantizationScheme, scales: &Scales) -> Option<Scale<'_>> {
    match scheme {
        // An empty tensor has no scale.
        QuantizationScheme::PerTensor(..) => (scales.count == 1).then_some(Scale::One(scales.min)),
        _ => scales.all.as_deref().map(Scale::Each),
    }
}

/// The only scale, or the smallest and the largest of several and their number.
fn span(scales: &Scales) -> String {
    let shown = |scale| figures::plain(f64::from(scale));
    match scales.count {
        0 => String::new(),
        1 => shown(scales.min),
        n => format!("{} … {} (of {n})", shown(scales.min), shown(scales.max)),
    }
}
