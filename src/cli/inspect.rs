//! `inspect`: every tensor from the headers alone.

use super::error::Error;
use super::listing::{HistogramBuilder, Row, print_unplaced};
use super::options::{ModelArgs, OutputArgs, SchemeArgs, SelectionArgs};
use super::output::{output, width};
use super::table::{Kind, Part, Table};
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

/// Tensors that one worker lists, and how many at once wait to be printed.
const PART: usize = 4096;
const BATCH: usize = 4 * PART;

impl Inspect {
    pub fn run(self) -> Result<(), Error> {
        // Given back with the process: piece by piece it takes longer.
        let checkpoint = ManuallyDrop::new(self.model.open()?);
        let selection = self.selection.selection();
        let scheme = self.scheme.scheme(&checkpoint);
        let tensors = selection.matching(&checkpoint)?;
        let row = |id| Row::new(&checkpoint, &selection, id, None);
        let mut tally = HistogramBuilder::new(scheme);
        let mut out = output();
        if self.output.json {
            let mut document = Document::begin(&mut out, &checkpoint, scheme)?;
            for batch in tensors.chunks(BATCH) {
                for (part, counted) in in_parts(batch, scheme, row, |row, listed| {
                    document::list(&row.listed(), listed)
                })? {
                    document.append(&part)?;
                    tally.absorb(counted);
                }
            }
            document.end(&tally.totals)?;
            return tally.conclude();
        }
        let mut table = Table::new(&[
            ("tensor", Kind::Name),
            ("dtype", Kind::OptionalLeft),
            ("shape", Kind::Left),
            ("parameters", Kind::Optional),
            ("bytes", Kind::Right),
            ("quantizable", Kind::Note),
        ]);
        for (part, counted) in in_parts(&tensors, scheme, row, |row, part: &mut Part| {
            part.cell(names::visible(&row.tensor.name));
            part.cell(names::visible(row.tensor.dtype.name()));
            part.cell(&row.tensor.shape);
            part.cell(row.tensor.parameters());
            part.cell(figures::bytes(row.tensor.bytes));
            part.cell(row.quantizable());
            Ok(())
        })? {
            table.append(part);
            tally.absorb(counted);
        }
        table.print(&mut out, width())?;
        tally.print(&mut out)?;
        print_unplaced(&checkpoint, &mut out)?;
        out.flush()?;
        tally.conclude()
    }
}

/// Lists tensors on all cores; what becomes of each part of them, in order.
fn in_parts<'a, P: Default + Send>(
    tensors: &[TensorId],
    scheme: QuantizationScheme,
    row: impl Fn(TensorId) -> Row<'a> + Sync,
    list: impl Fn(&Row, &mut P) -> io::Result<()> + Sync,
) -> io::Result<Vec<(P, HistogramBuilder)>> {
    let listed = tensors.par_chunks(PART).map(|ids| {
        let (mut part, mut tally) = (P::default(), HistogramBuilder::new(scheme));
        for &id in ids {
            let mut row = row(id);
            tally.add(&mut row);
            list(&row, &mut part)?;
        }
        Ok((part, tally))
    });
    listed.collect()
}
