//! `inspect`: lists every tensor, reading headers only.

use crate::cli::error::Error;
use crate::cli::listing::{ListingSummary, Row, print_unplaced};
use crate::cli::options::{CsvArgs, ModelArgs, OutputArgs, SchemeArgs, SelectionArgs};
use crate::cli::output::{output, width};
use crate::cli::overview::Overview;
use crate::cli::table::{Column, Rows, Table};
use crate::cli::target::{MeasuredFor, MeasuredForArgs};
use crate::report::csv_writer::CsvWriter;
use crate::report::document::{self, Document};
use crate::tensor::TensorId;
use crate::text::{figures, names};
use clap::Args;
use rayon::prelude::*;
use std::io::{self, Write};
use std::mem::ManuallyDrop;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quantscope inspect my-model\n  \
    quantscope inspect my-model --include '*.mlp.*' --scheme per-channel\n  \
    quantscope inspect my-model --for vllm\n  \
    quantscope inspect my-model --csv > tensors.csv")]
pub struct Inspect {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten, next_help_heading = "Selection")]
    selection: SelectionArgs,
    #[command(flatten, next_help_heading = "Target")]
    target: MeasuredForArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    scheme: SchemeArgs,
    #[command(flatten, next_help_heading = "Output")]
    output: OutputArgs,
    #[command(flatten, next_help_heading = "Output")]
    csv: CsvArgs,
}

/// Tensors that one worker formats at a time.
const TENSORS_PER_PART: usize = 4096;

/// Tensors that are formatted before they are printed, which bounds memory.
const TENSORS_PER_BATCH: usize = 4 * TENSORS_PER_PART;

/// Titles of the CSV columns.
const CSV_COLUMNS: [&str; 7] =
    ["name", "dtype", "shape", "parameters", "bytes", "quantizable", "reason"];

impl Inspect {
    pub(super) fn run(self) -> Result<(), Error> {
        // Never dropped: exiting the process frees the memory faster.
        let checkpoint = ManuallyDrop::new(self.model.open()?);
        let selection = self.selection.selection();
        let measured_for = self.target.resolve(&checkpoint, &selection, &self.scheme, &[])?;
        let scheme = measured_for.scheme;
        let tensors = selection.matching(&checkpoint)?;
        let row = |id| Row::new(&checkpoint, &selection, &measured_for, id, None);
        let mut totals = Totals::new(&measured_for);
        let mut out = output();
        if self.output.json {
            let mut document = Document::begin(&mut out, &checkpoint, scheme)?;
            for batch in tensors.chunks(TENSORS_PER_BATCH) {
                for (part, counted) in in_parts(batch, &measured_for, row, |row, listed| {
                    document::list(&row.listed(), listed)
                })? {
                    document.append(&part)?;
                    totals.merge(counted);
                }
            }
            let Totals { summary, overview } = totals;
            let in_short = overview.document(&summary.totals);
            let metadata = document::metadata(&checkpoint);
            document.end_with_both(
                &summary.totals,
                ("summary", &in_short),
                ("metadata", &metadata),
            )?;
            return summary.conclude();
        }
        if self.csv.csv {
            let mut csv = CsvWriter::new(&mut out, CSV_COLUMNS.into_iter())?;
            for &id in &tensors {
                let mut row = row(id);
                totals.add(&mut row);
                write_record(&row, &mut csv)?;
            }
            csv.finish()?;
            return totals.summary.conclude();
        }
        let mut table = Table::new(&[
            ("tensor", Column::Name),
            ("dtype", Column::OptionalLeft),
            ("shape", Column::Left),
            ("parameters", Column::Optional),
            ("bytes", Column::Right),
            ("quantizable", Column::Note),
        ]);
        for (part, counted) in in_parts(&tensors, &measured_for, row, |row, part: &mut Rows| {
            part.cell(names::visible(&row.tensor.name));
            part.cell(names::visible(row.tensor.dtype.name()));
            part.cell(&row.tensor.shape);
            part.cell(row.tensor.parameters());
            part.cell(figures::bytes(row.tensor.bytes));
            part.cell(row.quantizable());
            Ok(())
        })? {
            table.append(part);
            totals.merge(counted);
        }
        table.print(&mut out, width())?;
        let Totals { summary, overview } = totals;
        summary.print(&mut out)?;
        print_unplaced(&checkpoint, &mut out)?;
        overview.print(&summary.totals, scheme, &mut out)?;
        out.flush()?;
        summary.conclude()
    }
}

/// The totals of the listed tensors.
struct Totals {
    summary: ListingSummary,
    overview: Overview,
}

impl Totals {
    fn new(measured_for: &MeasuredFor) -> Totals {
        Totals { summary: ListingSummary::new(measured_for), overview: Overview::default() }
    }

    fn add(&mut self, row: &mut Row) {
        self.overview.add(row);
        self.summary.add(row);
    }

    /// Adds the totals of the tensors that follow.
    fn merge(&mut self, later: Totals) {
        self.overview.merge(later.overview);
        self.summary.merge(later.summary);
    }
}

/// Formats tensors on all cores. Returns the parts in order, each with its totals.
fn in_parts<'a, P: Default + Send>(
    tensors: &[TensorId],
    measured_for: &MeasuredFor,
    row: impl Fn(TensorId) -> Row<'a> + Sync,
    list: impl Fn(&Row, &mut P) -> io::Result<()> + Sync,
) -> io::Result<Vec<(P, Totals)>> {
    let listed = tensors.par_chunks(TENSORS_PER_PART).map(|ids| {
        let (mut part, mut totals) = (P::default(), Totals::new(measured_for));
        for &id in ids {
            let mut row = row(id);
            totals.add(&mut row);
            list(&row, &mut part)?;
        }
        Ok((part, totals))
    });
    listed.collect()
}

fn write_record<W: Write>(row: &Row, csv: &mut CsvWriter<W>) -> io::Result<()> {
    csv.text(&row.tensor.name)?;
    csv.text(row.tensor.dtype.name())?;
    csv.value(&row.tensor.shape)?;
    csv.value(row.tensor.parameters())?;
    csv.value(row.tensor.bytes)?;
    csv.value(row.reason.is_none())?;
    csv.text(row.reason.as_deref().unwrap_or_default())?;
    csv.end_row()
}
