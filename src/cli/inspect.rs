//! `inspect`: every tensor from the headers alone.

use super::error::Error;
use super::listing::{Row, Tally, print_unplaced};
use super::options::{ModelArgs, OutputArgs, SchemeArgs, SelectionArgs};
use super::output::{output, width};
use super::table::{Kind, Table};
use crate::report::document::Document;
use crate::text::{figures, names};
use clap::Args;
use std::io::Write;

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

impl Inspect {
    pub fn run(self) -> Result<(), Error> {
        let checkpoint = self.model.open()?;
        let selection = self.selection.selection();
        let scheme = self.scheme.scheme(&checkpoint);
        let tensors = selection.matching(&checkpoint)?;
        let rows = tensors.iter().map(|&id| Row::new(&checkpoint, &selection, id, None));
        let mut tally = Tally::new(scheme);
        let mut out = output();
        if self.output.json {
            let mut document = Document::begin(&mut out, &checkpoint, scheme)?;
            for mut row in rows {
                tally.add(&mut row);
                document.tensor(&row.listed())?;
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
        for mut row in rows {
            tally.add(&mut row);
            table.cell(names::visible(&row.tensor.name));
            table.cell(names::visible(row.tensor.dtype.name()));
            table.cell(&row.tensor.shape);
            table.cell(row.tensor.parameters());
            table.cell(figures::bytes(row.tensor.bytes));
            table.cell(row.quantizable());
        }
        table.print(&mut out, width())?;
        tally.print(&mut out)?;
        print_unplaced(&checkpoint, &mut out)?;
        out.flush()?;
        tally.conclude()
    }
}
