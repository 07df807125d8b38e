//! Prints the receipt of a save, as a table or as JSON.

use super::check::Checked;
use super::error::Error;
use super::output::{Output, output, width};
use super::table::{Column, Table};
use crate::export::{Finding, LoadCheck, OutputComparison, Receipt, VerifiedAgainst};
use crate::plan::composition;
use crate::plan::gguf_baseline::MixPoint;
use crate::quantization::{QuantizationScheme, Thresholds};
use crate::report::document::ErrorFigures;
use crate::text::{figures, names};
use serde::Serialize;
use std::io::{self, Write};

/// Prints a receipt. `predicted` is set for a dry run: nothing was written, the errors are those
/// that a save would have, and it has mixes of llama.cpp to compare with. `checked` says whether the output will load.
pub(super) fn print(
    receipt: &Receipt,
    checked: Option<&LoadCheck>,
    predicted: Option<&[MixPoint]>,
    json: bool,
    thresholds: &Thresholds,
) -> Result<(), Error> {
    if let Some(warning) = receipt.left_out.warning() {
        eprintln!("warning: {}", names::visible(&warning));
    }
    let mut out = output();
    if json {
        crate::text::json::write(&mut out, &Document::of(receipt, checked, predicted))?;
        writeln!(out)?;
    } else {
        table(&mut out, receipt, checked, predicted, thresholds)?
    }
    Ok(out.flush()?)
}

fn table(
    out: &mut Output,
    receipt: &Receipt,
    checked: Option<&LoadCheck>,
    predicted: Option<&[MixPoint]>,
    thresholds: &Thresholds,
) -> io::Result<()> {
    let mut quantized: Vec<_> = receipt.quantized.iter().collect();
    quantized.sort_by(|a, b| a.on_disk.sqnr_db.total_cmp(&b.on_disk.sqnr_db));
    if !quantized.is_empty() {
        let mut columns = vec![
            ("tensor", Column::Name),
            ("scheme", Column::Left),
            ("SQNR", Column::Right),
            ("", Column::Left),
            ("rel. error", Column::Optional),
            ("max error", Column::Optional),
            ("zeroed", Column::Optional),
        ];
        let has_outputs = quantized.iter().any(|one| one.output.is_some());
        let has_both = |output: OutputComparison| {
            output.clipped_db.is_some() && output.compensated_db.is_some()
        };
        let has_clips = quantized.iter().any(|one| one.output.is_some_and(has_both));
        if has_outputs {
            columns.push(("output", Column::Right));
            columns.extend(has_clips.then_some(("clips only", Column::Right)));
            columns.push(("nearest", Column::Right));
        }
        let mut table = Table::new(&columns);
        for one in &quantized {
            table.cell(names::visible(&one.tensor));
            table.cell(&one.scheme);
            table.cell(figures::decibels(one.on_disk.sqnr_db));
            table.cell(thresholds.rate(one.on_disk.sqnr_db).name());
            table.cell(figures::percent(one.on_disk.relative_error));
            table.cell(figures::plain(one.on_disk.max_abs_error));
            table.cell(figures::percent(one.on_disk.zeroed));
            if has_outputs {
                let db = |db: f64| format!("{db:.1} dB");
                table.cell(one.output.map(|output| db(output.saved_db())).unwrap_or_default());
                if has_clips {
                    let clipped = one.output.and_then(|output| output.clipped_db);
                    table.cell(clipped.map(db).unwrap_or_default());
                }
                table.cell(one.output.map(|output| db(output.nearest_db)).unwrap_or_default());
            }
        }
        table.print(out, width())?;
        writeln!(out)?;
    }
    let Receipt { files, before, written, dequantized, unchanged, sidecar_files, .. } = receipt;
    let path = receipt.out.to_string_lossy();
    let files = figures::counted(files + receipt.texts + sidecar_files, "file");
    let copied = match sidecar_files {
        0 => String::new(),
        n => format!(", {n} of them copied"),
    };
    let is_predicted = predicted.is_some();
    let wrote = if is_predicted { "dry run, nothing written: would write" } else { "wrote" };
    writeln!(out, "{wrote} {} ({files}{copied})", names::visible(&path))?;
    let schemes = quantized.iter().map(|one| one.scheme.parse::<QuantizationScheme>().ok());
    let held = composition(schemes.filter(Option::is_some));
    let held = if held.contains(',') { format!(" ({held})") } else { String::new() };
    writeln!(
        out,
        "{} quantized{held}, {dequantized} dequantized, {unchanged} bit for bit as they were",
        figures::counted(quantized.len(), "tensor")
    )?;
    writeln!(out, "{} → {}", figures::bytes(*before), figures::bytes(*written))?;
    let better = quantized.iter().filter_map(|one| one.output);
    let (better, others): (Vec<_>, Vec<_>) =
        better.partition(|output| output.saved_db() < output.nearest_db);
    if !better.is_empty() || !others.is_empty() {
        writeln!(
            out,
            "rounded for the inputs: the output error on the recorded inputs is lower than by rounding to\nnearest in {} of {} layers; evaluate the model to know what that means for its answers",
            better.len(),
            better.len() + others.len()
        )?;
    }
    if let Some(worst) = quantized.first() {
        let (db, name) =
            (figures::rated(worst.on_disk.sqnr_db, thresholds), names::visible(&worst.tensor));
        let measured = match receipt.against {
            _ if is_predicted => "predicted",
            VerifiedAgainst::Source => "reopened and measured from the file",
            VerifiedAgainst::Digests => "measured as it was written, and the file compared with it",
        };
        writeln!(out, "{measured}: worst {db}, {name}")?;
    }
    if receipt.resumed > 0 {
        let resumed = figures::bytes(receipt.resumed);
        writeln!(out, "resumed an earlier save, which had finished {resumed}")?;
    }
    for mix in predicted.unwrap_or_default() {
        writeln!(out, "mix {mix}")?;
    }
    for warning in &receipt.warnings {
        writeln!(out, "warning: {}", names::visible(warning))?;
    }
    let Some(checked) = checked else { return Ok(()) };
    let is_warned = |finding: &&Finding| receipt.warnings.contains(&finding.sentence);
    for Finding { severity, sentence } in checked.findings.iter().filter(|f| !is_warned(f)) {
        writeln!(out, "{}: {}", severity.name(), names::visible(sentence))?;
    }
    writeln!(out, "checked: {}", checked.conclusion())?;
    Ok(())
}

#[derive(Serialize)]
struct Document<'a> {
    out: std::borrow::Cow<'a, str>,
    files: usize,
    bytes_before: u64,
    bytes_written: u64,
    quantized: Vec<Quantized<'a>>,
    dequantized: usize,
    unchanged: usize,
    sidecar_files: usize,
    files_left_out: Vec<String>,
    /// Bytes that an earlier save had finished; present only where there are some.
    #[serde(skip_serializing_if = "is_zero")]
    bytes_resumed: u64,
    warnings: &'a [String],
    /// Whether the output will load; only where a loader or a format was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Checked<'a>>,
    /// Present only for a dry run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    /// llama.cpp's mixes beside the curve of the types; only for a dry run of a GGUF.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mixes: Vec<Mix>,
}

/// A mix of llama.cpp.
#[derive(Serialize)]
struct Mix {
    name: String,
    /// Of all tensors.
    bytes: u64,
    /// The error over the least at that size.
    error_over_optimum: Option<f64>,
}

fn is_zero(&number: &u64) -> bool {
    number == 0
}

/// One quantized tensor with its error, measured from the file.
#[derive(Serialize)]
pub(super) struct Quantized<'a> {
    pub name: &'a str,
    pub scheme: String,
    #[serde(flatten)]
    pub error: ErrorFigures,
    /// The output error on the recorded inputs; only of tensors that were rounded for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_error: Option<OutputFigures>,
}

/// The output error of a layer in dB; lower is better.
#[derive(Serialize)]
pub(super) struct OutputFigures {
    #[serde(skip_serializing_if = "Option::is_none")]
    compensated_db: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clipped_db: Option<f64>,
    nearest_db: f64,
}

impl<'a> Document<'a> {
    fn of(
        receipt: &'a Receipt,
        checked: Option<&'a LoadCheck>,
        predicted: Option<&[MixPoint]>,
    ) -> Self {
        let mixes = predicted.unwrap_or_default().iter().map(|found| Mix {
            name: found.mix.to_string(),
            bytes: found.point.bytes,
            error_over_optimum: found.over_optimum,
        });
        let quantized = receipt.quantized.iter().map(|one| Quantized {
            name: &one.tensor,
            scheme: one.scheme.clone(),
            error: ErrorFigures::of(&one.on_disk),
            output_error: one.output.map(|output| OutputFigures {
                compensated_db: output.compensated_db,
                clipped_db: output.clipped_db,
                nearest_db: output.nearest_db,
            }),
        });
        Document {
            out: receipt.out.to_string_lossy(),
            files: receipt.files,
            bytes_before: receipt.before,
            bytes_written: receipt.written,
            quantized: quantized.collect(),
            dequantized: receipt.dequantized,
            unchanged: receipt.unchanged,
            sidecar_files: receipt.sidecar_files,
            files_left_out: receipt.left_out.names(),
            bytes_resumed: receipt.resumed,
            warnings: &receipt.warnings,
            check: checked.map(Checked::of),
            dry_run: predicted.is_some(),
            mixes: mixes.collect(),
        }
    }
}
