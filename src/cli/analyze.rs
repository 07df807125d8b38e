//! `analyze`: what quantizing would cost every tensor, the worst first.

use super::calibrate::scale_of;
use super::document::{Document, Tensor};
use super::error::Error;
use super::listing::{Row, Tally};
use super::options::{
    CalibrationArgs, ModelArgs, OutputArgs, RoundingArgs, SchemeArgs, SelectionArgs, WorkArgs,
};
use super::output::{output, width};
use super::scan::{Found, Scan};
use super::table::{Kind, Table};
use super::text::{self, figure};
use crate::checkpoint::Checkpoint;
use crate::plan::Selection;
use crate::quantization::{ErrorStatistics, QuantizationScheme, Questions, Verdict};
use crate::tensor::TensorId;
use clap::Args;
use std::io::Write;
use std::sync::Arc;

#[derive(Debug, Args)]
pub struct Analyze {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    scheme: SchemeArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    rounding: RoundingArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    work: WorkArgs,
}

struct Measured {
    id: TensorId,
    /// The SQNR; what is exact comes after every figure, what has none at the end.
    rank: f64,
    found: Option<Found>,
}

impl Analyze {
    pub fn run(self) -> Result<(), Error> {
        let checkpoint = self.model.open()?;
        let selection = self.selection.selection();
        let tensors = selection.matching(&checkpoint)?;
        let scan = Scan::start(&checkpoint, tensors, self.questions(), "measuring", &self.work)?;
        let mut measured = scan
            .map(|found| found.map(|(id, found)| Measured { id, rank: rank(&found), found }))
            .collect::<Result<Vec<_>, Error>>()?;
        measured.sort_by(|a, b| a.rank.total_cmp(&b.rank));
        match self.output.json {
            true => self.document(&checkpoint, &selection, &measured),
            false => self.table(&checkpoint, &selection, &measured),
        }
    }

    fn questions(&self) -> Questions {
        let quantizers = vec![self.calibration.quantizer(self.scheme.scheme)];
        Questions::errors(quantizers, self.rounding.rounding)
    }

    fn document(
        &self,
        checkpoint: &Arc<Checkpoint>,
        selection: &Selection,
        measured: &[Measured],
    ) -> Result<(), Error> {
        let scheme = self.scheme.scheme;
        // A list of scales can be as long as a thirty-second of the model, so it is not
        // kept while everything is measured and ranked, but found again row by row.
        let mut lists = match scheme {
            QuantizationScheme::PerTensor(..) => None,
            _ => {
                let order = measured.iter().map(|m| m.id).collect();
                let questions = Questions { errors: false, keep_scales: true, ..self.questions() };
                Some(Scan::start(checkpoint, order, questions, "writing", &self.work)?)
            }
        };
        let mut tally = Tally::new(scheme);
        let mut document = Document::begin(output(), checkpoint, scheme)?;
        for Measured { id, found, .. } in measured {
            let list = lists.as_mut().and_then(Scan::next).transpose()?.and_then(|(_, list)| list);
            // The file may have changed since: then the second look is the truth.
            let found = match &list {
                Some(Err(_)) => list.as_ref(),
                _ => found.as_ref(),
            };
            let mut row = Row::new(checkpoint, selection, *id, found);
            tally.add(&mut row);
            let listed = Row::new(checkpoint, selection, *id, list.as_ref());
            let quantized = listed.quantized().or(row.quantized());
            let scale = quantized.and_then(|q| scale_of(scheme, &q.scales));
            document.tensor(&Tensor::analyzed(&row, scale))?;
        }
        document.end(&tally.totals)?;
        tally.conclude()
    }

    fn table(
        &self,
        checkpoint: &Checkpoint,
        selection: &Selection,
        measured: &[Measured],
    ) -> Result<(), Error> {
        let mut tally = Tally::new(self.scheme.scheme);
        let mut table = Table::new(&[
            ("tensor", Kind::Name),
            ("dtype", Kind::OptionalLeft),
            ("shape", Kind::Left),
            ("bytes", Kind::Optional),
            ("SQNR", Kind::Right),
            ("", Kind::Left),
            ("rel. error", Kind::Optional),
            ("max error", Kind::Optional),
            ("zeroed", Kind::Optional),
            ("levels", Kind::Optional),
            ("quantizable", Kind::Note),
        ]);
        let levels = self.scheme.scheme.quantization_type().levels();
        for Measured { id, found, .. } in measured {
            let mut row = Row::new(checkpoint, selection, *id, found.as_ref());
            tally.add(&mut row);
            table.cell(text::printable(&row.tensor.name));
            table.cell(text::printable(row.tensor.dtype.name()));
            table.cell(&row.tensor.shape);
            table.cell(text::bytes(row.tensor.bytes));
            match statistics(found) {
                Some(error) => {
                    table.cell(text::decibel(error.sqnr_db));
                    table.cell(Verdict::of(error.sqnr_db).word());
                    table.cell(text::percent(error.relative_error));
                    table.cell(figure(error.max_abs_error));
                    table.cell(text::percent(error.zeroed));
                    table.cell(format_args!("{}/{levels}", error.levels_used));
                }
                None => (0..6).for_each(|_| table.cell("")),
            }
            table.cell(row.quantizable());
        }
        let mut out = output();
        table.print(&mut out, width())?;
        tally.print(&mut out)?;
        writeln!(out, "The figures are errors of the weights, not of the model's output.")?;
        out.flush()?;
        tally.conclude()
    }
}

fn rank(found: &Option<Found>) -> f64 {
    statistics(found).map_or(f64::INFINITY, |error| error.sqnr_db.min(f64::MAX))
}

fn statistics(found: &Option<Found>) -> Option<ErrorStatistics> {
    let analysis = found.as_ref()?.as_ref().ok()?;
    let quantized = analysis.outcomes.first()?.result.as_ref().ok()?;
    quantized.error.map(|sums| sums.statistics())
}
