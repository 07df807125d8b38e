//! Writes the report as CSV: one record per tensor, figures with all digits.

use crate::activations::ActivationMode;
use crate::report::contents::{Report, Row};
use crate::report::csv_writer::CsvWriter;
use crate::report::experts::ReportedExperts;
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

/// Further columns if the report lists layers of experts.
const EXPERTS: [&str; 9] = [
    "expert_layer",
    "expert",
    "expert_sqnr_db",
    "layer_sqnr_db",
    "layer_experts",
    "layer_worst_expert",
    "layer_worst_sqnr_db",
    "layer_mean_sqnr_db",
    "layer_spread_db",
];

/// Writes all rows.
pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let experts = ReportedExperts::of(report);
    let outputs = OUTPUTS.iter().filter(|_| report.has_outputs);
    let of_experts = EXPERTS.iter().filter(|_| !experts.is_empty());
    let mut csv = CsvWriter::new(out, COLUMNS.iter().chain(outputs).chain(of_experts).copied())?;
    report.rows.iter().try_for_each(|row| record(report, row, &experts, &mut csv))?;
    csv.finish()
}

fn record<W: Write>(
    report: &Report,
    row: &Row,
    experts: &ReportedExperts,
    csv: &mut CsvWriter<W>,
) -> io::Result<()> {
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
    if !experts.is_empty() {
        of_experts(experts, row, csv)?;
    }
    csv.end_row()
}

/// The columns of the expert that a tensor belongs to, and of its layer.
fn of_experts<W: Write>(
    experts: &ReportedExperts,
    row: &Row,
    csv: &mut CsvWriter<W>,
) -> io::Result<()> {
    let Some((layer, errors, expert)) = experts.of_tensor(row.tensor) else {
        return EXPERTS.iter().try_for_each(|_| csv.text(""));
    };
    let finite = |db: f64| db.is_finite().then_some(db);
    let worst = errors.worst();
    csv.text(&layer.path)?;
    csv.value(expert.map(|expert| expert.to_string()).unwrap_or_default())?;
    csv.number(expert.and_then(|expert| errors.sqnr_db_of(expert)).and_then(finite))?;
    csv.number(finite(errors.sqnr_db()))?;
    csv.value(errors.experts.len())?;
    csv.value(worst.map(|(expert, _)| expert.to_string()).unwrap_or_default())?;
    csv.number(worst.and_then(|(_, db)| finite(db)))?;
    csv.number(errors.mean_db())?;
    csv.number(errors.spread_db())
}
