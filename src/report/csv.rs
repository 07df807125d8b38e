//! Writes the report as CSV: one record per tensor, figures with all digits.

use crate::activations::ActivationMode;
use crate::report::contents::{Report, Row};
use crate::report::csv_writer::CsvWriter;
use std::io::{self, Write};

const COLUMNS: [&str; 31] = [
    "name",
    "dtype",
    "shape",
    "parameters",
    "bytes",
    "marked",
    "scheme",
    "calibration",
    "bytes_quantized",
    "sqnr_db",
    "word",
    "relative_error",
    "rmse",
    "mse",
    "max_abs_error",
    "cosine_similarity",
    "zeroed",
    "levels_used",
    "scales",
    "largest_scale",
    "min",
    "max",
    "absmax",
    "mean",
    "std",
    "zeros",
    "nan",
    "inf",
    "flags",
    "duplicate_of",
    "not_quantizable",
];

/// Further columns if activations were given.
const OUTPUTS: [&str; 8] = [
    "output_relative",
    "output_db",
    "output_dynamic_relative",
    "output_dynamic_db",
    "output_static_relative",
    "output_static_db",
    "output_basis",
    "input_scale",
];

/// Writes all rows.
pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let outputs = OUTPUTS.iter().filter(|_| report.has_outputs);
    let mut csv = CsvWriter::new(out, COLUMNS.iter().chain(outputs).copied())?;
    report.rows.iter().try_for_each(|row| record(report, row, &mut csv))?;
    csv.finish()
}

fn record<W: Write>(report: &Report, row: &Row, csv: &mut CsvWriter<W>) -> io::Result<()> {
    let tensor = report.checkpoint.tensor(row.tensor);
    csv.text(&tensor.name)?;
    csv.text(tensor.dtype.name())?;
    csv.value(&tensor.shape)?;
    csv.value(tensor.parameters())?;
    csv.value(tensor.bytes)?;
    csv.value(row.marked)?;
    csv.value(row.quantizer.scheme)?;
    csv.value(row.quantizer.calibration)?;
    csv.value(report.container.bytes(row.quantizer.scheme, tensor))?;
    let cost = row.cost();
    let error = cost.map(|cost| &cost.error);
    csv.number(error.map(|e| e.sqnr_db))?;
    csv.value(error.map_or("", |e| report.thresholds.rate(e.sqnr_db).name()))?;
    csv.number(error.map(|e| e.relative_error))?;
    csv.number(error.map(|e| e.rmse))?;
    csv.number(error.map(|e| e.mse))?;
    csv.number(error.map(|e| e.max_abs_error))?;
    csv.number(error.map(|e| e.cosine_similarity))?;
    csv.number(error.map(|e| e.zeroed))?;
    csv.value(error.map(|e| e.levels_used.to_string()).unwrap_or_default())?;
    csv.value(cost.map(|cost| cost.scales.to_string()).unwrap_or_default())?;
    csv.number(cost.map(|cost| cost.largest_scale.into()))?;
    let statistics = row.statistics.as_ref();
    for figure in [
        statistics.map(|s| s.min),
        statistics.map(|s| s.max),
        statistics.map(|s| s.absmax),
        statistics.map(|s| s.mean),
        statistics.map(|s| s.std),
    ] {
        csv.number(figure)?;
    }
    for count in [statistics.map(|s| s.zeros), statistics.map(|s| s.nan), statistics.map(|s| s.inf)]
    {
        csv.value(count.map(|n| n.to_string()).unwrap_or_default())?;
    }
    let flags: Vec<&str> = row.flags.iter().map(|flag| flag.name()).collect();
    csv.value(flags.join(" "))?;
    csv.text(row.duplicate_of().unwrap_or_default())?;
    csv.text(row.reason.as_deref().unwrap_or_default())?;
    if report.has_outputs {
        let output = row.output();
        for mode in ActivationMode::ALL {
            csv.number(output.and_then(|output| output.ratio(mode)))?;
            // An exact output has no value in dB.
            csv.number(output.and_then(|output| output.db(mode)).filter(|db| db.is_finite()))?;
        }
        csv.value(output.map_or("", |output| output.basis.name()))?;
        csv.number(row.input_scale.map(f64::from))?;
    }
    csv.end_row()
}
