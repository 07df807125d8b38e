//! `analyze --schemes`: what each of several schemes makes of every tensor, side by side.

use super::activations::{Outputs, WithOutput};
use super::duplicates::Duplicates;
use super::error::Error;
use super::listing::{HistogramBuilder, Row};
use super::measured::{Measured, note};
use super::output::{output, width};
use super::table::{Kind, Table};
use crate::activations::ActivationMode;
use crate::checkpoint::Checkpoint;
use crate::plan::Selection;
use crate::quantization::{Outcome, QuantizationScheme};
use crate::report::document::{Document, Scale, SchemeFigures};
use crate::text::{figures, names};
use std::io::Write;

/// Everything that is shown.
pub(super) struct SideBySide<'a> {
    pub checkpoint: &'a Checkpoint,
    pub selection: &'a Selection,
    pub schemes: &'a [QuantizationScheme],
    pub measured: &'a [Measured],
    pub duplicates: &'a Duplicates,
    /// What the layers' outputs lose, where activations are given.
    pub outputs: Option<&'a Outputs>,
}

/// What one scheme does to all tensors that are quantized by default.
#[derive(Clone, Copy, Default)]
struct Whole {
    bytes: u64,
    sum: f64,
    count: u64,
    worst: Option<f64>,
    /// Errors of outputs in dB: the sum, how many, and the worst.
    output_sum: f64,
    outputs: u64,
    worst_output: Option<f64>,
}

impl SideBySide<'_> {
    fn first(&self) -> QuantizationScheme {
        self.schemes.first().copied().unwrap_or(QuantizationScheme::PER_TENSOR)
    }

    pub(super) fn document(&self) -> Result<(), Error> {
        let mut tally = HistogramBuilder::new(self.first());
        let mut document = Document::begin(output(), self.checkpoint, self.first())?;
        for Measured { id, found, .. } in self.measured {
            let mut row = Row::new(self.checkpoint, self.selection, *id, found.as_ref());
            tally.add(&mut row);
            let outcomes = row.analysis.map_or(&[][..], |analysis| &analysis.outcomes);
            let schemes = outcomes.iter().map(|outcome| {
                let output = self.outputs.and_then(|all| all.figures(*id, outcome.quantizer));
                SchemeFigures::of(outcome, &row.tensor.shape).with_output(output)
            });
            let schemes = schemes.collect();
            let duplicate = self.duplicates.of(self.checkpoint, *id);
            let scale = row.quantized().filter(|found| found.scales.count == 1);
            let scale = scale.map(|found| Scale::One(found.scales.max));
            let tensor = row.analyzed(scale, duplicate).compared(schemes);
            let first = outcomes.first().map(|outcome| outcome.quantizer);
            match self.outputs {
                Some(outputs) => {
                    let output = first.and_then(|first| outputs.figures(*id, first));
                    document.tensor(&WithOutput { tensor, output })?;
                }
                None => document.tensor(&tensor)?,
            }
        }
        match self.outputs {
            Some(outputs) => {
                document.end_with(&tally.totals, "activations", &outputs.summary())?;
                outputs.conclude()?;
            }
            None => document.end(&tally.totals)?,
        }
        tally.conclude()
    }

    pub(super) fn table(&self) -> Result<(), Error> {
        let names: Vec<String> =
            self.schemes.iter().map(std::string::ToString::to_string).collect();
        let mut columns = vec![
            ("tensor", Kind::Name),
            ("dtype", Kind::OptionalLeft),
            ("shape", Kind::OptionalLeft),
            ("bytes", Kind::Optional),
        ];
        columns.extend(names.iter().map(|name| (name.as_str(), Kind::Left)));
        let outputs: Vec<String> = names.iter().map(|name| format!("output {name}")).collect();
        if self.outputs.is_some() {
            columns.extend(outputs.iter().map(|name| (name.as_str(), Kind::Right)));
        }
        columns.extend([("best", Kind::Left), ("quantizable", Kind::Note)]);
        let mut table = Table::new(&columns);
        let mut tally = HistogramBuilder::new(self.first());
        let mut wholes = vec![Whole::default(); self.schemes.len()];
        for Measured { id, found, .. } in self.measured {
            let mut row = Row::new(self.checkpoint, self.selection, *id, found.as_ref());
            let selected = row.is_selected();
            tally.add(&mut row);
            table.cell(names::visible(&row.tensor.name));
            table.cell(names::visible(row.tensor.dtype.name()));
            table.cell(&row.tensor.shape);
            table.cell(figures::bytes(row.tensor.bytes));
            let outcomes = row.analysis.map_or(&[][..], |analysis| &analysis.outcomes);
            let dbs: Vec<Option<f64>> = outcomes.iter().map(sqnr).collect();
            for (place, whole) in wholes.iter_mut().enumerate() {
                let db = dbs.get(place).copied().flatten();
                table.cell(outcomes.get(place).map_or(String::new(), cell));
                let scheme = self.schemes.get(place).filter(|_| selected && db.is_some());
                whole.bytes += scheme.map_or(row.tensor.bytes, |s| s.bytes(&row.tensor.shape, 4));
                if let Some(db) = db.filter(|_| selected) {
                    whole.add(db);
                }
            }
            if let Some(outputs) = self.outputs {
                for (place, whole) in wholes.iter_mut().enumerate() {
                    let quantizer = outcomes.get(place).map(|outcome| outcome.quantizer);
                    let error = quantizer.and_then(|quantizer| outputs.error(*id, quantizer));
                    let text = error.and_then(|error| error.shown(ActivationMode::Weights));
                    table.cell(text.unwrap_or_default());
                    if let Some(db) =
                        error.and_then(|e| e.db(ActivationMode::Weights)).filter(|_| selected)
                    {
                        whole.add_output(db);
                    }
                }
            }
            table.cell(self.best(&dbs));
            table.cell(note(&row, self.duplicates, self.checkpoint, *id));
        }
        let mut out = output();
        table.print(&mut out, width())?;
        tally.print(&mut out)?;
        writeln!(out)?;
        self.summary(&names, &wholes).print(&mut out, width())?;
        writeln!(out)?;
        writeln!(
            out,
            "SQNR in dB; in parentheses that of the worst output channel, and its index. {}int4 and\nfp8 are measured, not saved.",
            match self.outputs {
                None => "The\nfigures are errors of the weights, not of the model's output. ",
                Some(_) => "",
            }
        )?;
        if let Some(outputs) = self.outputs {
            outputs.print(self.checkpoint, &mut out)?;
        }
        out.flush()?;
        self.outputs.map_or(Ok(()), Outputs::conclude)?;
        tally.conclude()
    }

    /// The best scheme, and what it gains over the first.
    fn best(&self, dbs: &[Option<f64>]) -> String {
        let Some(Some(first)) = dbs.first() else { return String::new() };
        let all = dbs.iter().zip(self.schemes).filter_map(|(db, scheme)| Some(((*db)?, scheme)));
        // The first of equals: it is the smallest, as people name them.
        let best = all.reduce(|best, next| if next.0 > best.0 { next } else { best });
        match best {
            Some((db, scheme)) if db > *first && db.is_finite() => {
                format!("{scheme} +{:.1} dB", db - first)
            }
            _ => String::new(),
        }
    }

    fn summary<'n>(&self, names: &'n [String], wholes: &[Whole]) -> Table<'n> {
        let mut columns = vec![
            ("scheme", Kind::Left),
            ("bytes", Kind::Right),
            ("of float", Kind::Right),
            ("mean SQNR", Kind::Right),
            ("worst SQNR", Kind::Right),
        ];
        if self.outputs.is_some() {
            columns.extend([("mean output", Kind::Right), ("worst output", Kind::Right)]);
        }
        columns.push(("", Kind::Note));
        let mut table = Table::new(&columns);
        let before: u64 = self.measured.iter().map(|m| self.checkpoint.tensor(m.id).bytes).sum();
        for ((name, whole), scheme) in names.iter().zip(wholes).zip(self.schemes) {
            table.cell(name);
            table.cell(figures::bytes(whole.bytes));
            table.cell(figures::percent(whole.bytes as f64 / before.max(1) as f64));
            match whole.count {
                0 => table.cell(""),
                n => table.cell(figures::decibels(whole.sum / n as f64)),
            }
            table.cell(whole.worst.map_or(String::new(), |db| figures::decibels(db).clone()));
            if self.outputs.is_some() {
                let db = |db: f64| format!("{db:.1} dB");
                let mean = (whole.outputs > 0).then(|| whole.output_sum / whole.outputs as f64);
                table.cell(mean.map(db).unwrap_or_default());
                table.cell(whole.worst_output.map(db).unwrap_or_default());
            }
            let saved = scheme.is_scaled_int8();
            table.cell(if saved { "" } else { "measured, not saved" });
        }
        table
    }
}

impl Whole {
    fn add(&mut self, db: f64) {
        self.worst = Some(self.worst.map_or(db, |worst| worst.min(db)));
        // A tensor that loses nothing has no say in a mean.
        if db.is_finite() {
            self.sum += db;
            self.count += 1;
        }
    }
}

impl Whole {
    /// A layer whose output loses nothing has no say in a mean.
    fn add_output(&mut self, db: f64) {
        self.worst_output = Some(self.worst_output.map_or(db, |worst| worst.max(db)));
        if db.is_finite() {
            self.output_sum += db;
            self.outputs += 1;
        }
    }
}

fn sqnr(outcome: &Outcome) -> Option<f64> {
    Some(outcome.result.as_ref().ok()?.loss()?.sqnr_db())
}

fn cell(outcome: &Outcome) -> String {
    let Some(db) = sqnr(outcome) else { return String::new() };
    let channels = outcome.result.as_ref().ok().and_then(|found| found.channels.as_ref());
    match channels.and_then(|channels| channels.worst()) {
        Some((channel, worst)) if worst.is_finite() => format!("{db:.1} ({worst:.1} #{channel})"),
        _ => figures::decibels(db).clone(),
    }
}
