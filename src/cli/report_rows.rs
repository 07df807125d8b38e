//! Rows of a report from the results of a scan, for `report` and `analyze --csv`.

use crate::checkpoint::Checkpoint;
use crate::cli::activations::Outputs;
use crate::cli::duplicates::Duplicates;
use crate::cli::listing::Row as ListedRow;
use crate::cli::scan::ScanResult;
use crate::plan::effective_quantizer;
use crate::quantization::{Diagnostic, Quantizer};
use crate::report::{Report, Row};
use crate::tensor::TensorId;

/// A row with the figures of `quantizer`.
pub(super) fn report_row(
    checkpoint: &Checkpoint,
    listed: &ListedRow,
    id: TensorId,
    quantizer: Quantizer,
    found: Option<&ScanResult>,
) -> Row {
    let analysis = found.and_then(|found| found.as_ref().ok());
    let quantizer = effective_quantizer(checkpoint, id, quantizer);
    let mut row = Row::new(checkpoint, id, quantizer, analysis);
    row.marked = listed.is_selected();
    row.reason = listed.reason.clone();
    row
}

/// Adds the diagnostic of duplicates.
pub(super) fn add_duplicates(report: &mut Report, duplicates: &Duplicates) {
    let checkpoint = report.checkpoint.clone();
    for row in &mut report.rows {
        let first = duplicates.of(&checkpoint, row.tensor);
        row.flags.extend(first.map(|name| Diagnostic::Duplicate(name.into())));
    }
}

/// Adds the output errors.
pub(super) fn add_outputs(report: &mut Report, outputs: &Outputs) {
    report.has_outputs = true;
    for row in &mut report.rows {
        row.unmeasured = outputs.failure(row.tensor);
        row.input_scale = outputs.input_scale(row.tensor);
        for cost in &mut row.costs {
            cost.output = outputs.error(row.tensor, cost.quantizer).copied();
        }
    }
}
