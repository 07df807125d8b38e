//! `inspect`: lists every tensor, reading headers only.

use super::error::Error;
use super::listing::{ListingSummary, Row, print_unplaced};
use super::options::{ModelArgs, OutputArgs, SchemeArgs, SelectionArgs};
use super::output::{output, width};
use super::table::{Column, Rows, Table};
use crate::quantization::QuantizationScheme;
use crate::report::document::{self, Document};
use crate::tensor::TensorId;
use crate::text::{figures, names};
use clap::Args;
use rayon::prelude::*;
use std::io::{self, Write};
use std::mem::ManuallyDrop;

#[derive(Debug, Args)]
pub struct Inspect {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    scheme: SchemeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Tensors that one worker formats at a time.
const PART: usize = 4096;

/// Tensors that are formatted before they are printed, which bounds memory.
const BATCH: usize = 4 * PART;

impl Inspect {
    pub fn run(self) -> Result<(), Error> {
        // Never dropped: exiting the process frees the memory faster.
        let checkpoint = ManuallyDrop::new(self.model.open()?);
        let selection = self.selection.selection();
        let scheme = self.scheme.scheme(&checkpoint);
        let tensors = selection.matching(&checkpoint)?;
        let row = |id| Row::new(&checkpoint, &selection, id, None);
        let mut summary = ListingSummary::new(scheme);
        let mut out = output();
        if self.output.json {
            let mut document = Document::begin(&mut out, &checkpoint, scheme)?;
            for batch in tensors.chunks(BATCH) {
                for (part, counted) in in_parts(batch, scheme, row, |row, listed| {
                    document::list(&row.listed(), listed)
                })? {
                    document.append(&part)?;
                    summary.merge(counted);
                }
            }
            document.end(&summary.totals)?;
            return summary.conclude();
        }
        let mut table = Table::new(&[
            ("tensor", Column::Name),
            ("dtype", Column::OptionalLeft),
            ("shape", Column::Left),
            ("parameters", Column::Optional),
            ("bytes", Column::Right),
            ("quantizable", Column::Note),
        ]);
        for (part, counted) in in_parts(&tensors, scheme, row, |row, part: &mut Rows| {
            part.cell(names::visible(&row.tensor.name));
            part.cell(names::visible(row.tensor.dtype.name()));
            part.cell(&row.tensor.shape);
            part.cell(row.tensor.parameters());
            part.cell(figures::bytes(row.tensor.bytes));
            part.cell(row.quantizable());
            Ok(())
        })? {
            table.append(part);
            summary.merge(counted);
        }
        table.print(&mut out, width())?;
        summary.print(&mut out)?;
        print_unplaced(&checkpoint, &mut out)?;
        out.flush()?;
        summary.conclude()
    }
}

/// Formats tensors on all cores. Returns the parts in order, each with its summary.
fn in_parts<'a, P: Default + Send>(
    tensors: &[TensorId],
    scheme: QuantizationScheme,
    row: impl Fn(TensorId) -> Row<'a> + Sync,
    list: impl Fn(&Row, &mut P) -> io::Result<()> + Sync,
) -> io::Result<Vec<(P, ListingSummary)>> {
    let listed = tensors.par_chunks(PART).map(|ids| {
        let (mut part, mut summary) = (P::default(), ListingSummary::new(scheme));
        for &id in ids {
            let mut row = row(id);
            summary.add(&mut row);
            list(&row, &mut part)?;
        }
        Ok((part, summary))
    });
    listed.collect()
}
