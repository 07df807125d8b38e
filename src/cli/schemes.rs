//! `analyze --schemes`: the errors of several schemes side by side.

use super::activations::{Outputs, WithOutput};
use super::duplicates::Duplicates;
use super::error::Error;
use super::experts::MeasuredExperts;
use super::listing::{ListingSummary, Row};
use super::measured::{Measured, note};
use super::output::{output, width};
use super::table::{Column, Table};
use super::target::MeasuredFor;
use crate::activations::ActivationMode;
use crate::checkpoint::Checkpoint;
use crate::plan::Selection;
use crate::quantization::{Outcome, QuantizationScheme, Thresholds};
use crate::report::document::{Document, Scale, SchemeFigures};
use crate::tensor::TensorId;
use crate::text::{figures, names};
use std::io::Write;

/// The measured errors of several schemes.
pub(super) struct SchemeComparison<'a> {
    pub checkpoint: &'a Checkpoint,
    pub selection: &'a Selection,
    pub measured_for: &'a MeasuredFor,
    pub schemes: &'a [QuantizationScheme],
    pub measured: &'a [Measured],
    pub duplicates: &'a Duplicates,
    /// The output errors, if activations were given.
    pub outputs: Option<&'a Outputs>,
    /// The number of tensors to print; all are counted.
    pub rows: usize,
}

/// The totals of one scheme over all tensors that are quantized by default.
#[derive(Clone, Copy, Default)]
struct SchemeTotals {
    bytes: u64,
    sum: f64,
    count: u64,
    worst: Option<f64>,
    /// Output errors in dB: their sum, their number and the worst.
    output_sum: f64,
    outputs: u64,
    worst_output: Option<f64>,
}

impl SchemeComparison<'_> {
    fn first(&self) -> QuantizationScheme {
        self.schemes.first().copied().unwrap_or(QuantizationScheme::PER_TENSOR)
    }

    pub(super) fn document(&self) -> Result<(), Error> {
        let mut summary = ListingSummary::new(self.measured_for);
        let mut document = Document::begin(output(), self.checkpoint, self.first())?;
        for (index, Measured { id, found, .. }) in self.measured.iter().enumerate() {
            let mut row =
                Row::new(self.checkpoint, self.selection, self.measured_for, *id, found.as_ref());
            summary.add(&mut row);
            if index >= self.rows {
                continue;
            }
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
        let experts = self.experts();
        if !experts.is_empty() {
            document.key("experts", &experts.figures())?;
        }
        match self.outputs {
            Some(outputs) => {
                document.end_with(&summary.totals, "activations", &outputs.summary())?;
                outputs.conclude()?;
            }
            None => document.end(&summary.totals)?,
        }
        summary.conclude()
    }

    pub(super) fn table(&self, thresholds: &Thresholds) -> Result<(), Error> {
        let names: Vec<String> =
            self.schemes.iter().map(std::string::ToString::to_string).collect();
        let mut columns = vec![
            ("tensor", Column::Name),
            ("dtype", Column::OptionalLeft),
            ("shape", Column::OptionalLeft),
            ("bytes", Column::Optional),
        ];
        columns.extend(names.iter().map(|name| (name.as_str(), Column::Left)));
        let title = self.outputs.map_or("output", Outputs::title);
        let outputs: Vec<String> = names.iter().map(|name| format!("{title} {name}")).collect();
        if self.outputs.is_some() {
            columns.extend(outputs.iter().map(|name| (name.as_str(), Column::Right)));
        }
        columns.extend([("best", Column::Left), ("quantizable", Column::Note)]);
        let mut table = Table::new(&columns);
        let mut summary = ListingSummary::new(self.measured_for);
        let mut totals = vec![SchemeTotals::default(); self.schemes.len()];
        for (index, Measured { id, found, .. }) in self.measured.iter().enumerate() {
            let mut row =
                Row::new(self.checkpoint, self.selection, self.measured_for, *id, found.as_ref());
            summary.add(&mut row);
            self.add_totals(*id, &row, &mut totals);
            if index < self.rows {
                self.add_row(*id, &row, &mut table);
            }
        }
        let mut out = output();
        table.print(&mut out, width())?;
        summary.print(&mut out)?;
        writeln!(out)?;
        self.summary(&names, &totals).print(&mut out, width())?;
        self.experts().print(&mut out, width(), thresholds)?;
        writeln!(out)?;
        writeln!(
            out,
            "SQNR in dB; in parentheses the worst output channel and its index. {}int4 and fp8 are\nsaved as presets such as W4A16 and FP8_DYNAMIC.",
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
        summary.conclude()
    }

    fn experts(&self) -> MeasuredExperts {
        MeasuredExperts::of(self.checkpoint, self.schemes, self.measured)
    }

    /// Adds a tensor to the totals of every scheme.
    fn add_totals(&self, id: TensorId, row: &Row, totals: &mut [SchemeTotals]) {
        let outcomes = row.analysis.map_or(&[][..], |analysis| &analysis.outcomes);
        for (place, total) in totals.iter_mut().enumerate() {
            let outcome = outcomes.get(place);
            let db = outcome.and_then(sqnr).filter(|_| row.is_selected());
            let scheme = self.schemes.get(place).filter(|_| db.is_some());
            let bytes = |&s| self.measured_for.container_of(s).bytes(s, row.tensor);
            total.bytes += scheme.map_or(row.tensor.bytes, bytes);
            if let Some(db) = db {
                total.add(db);
            }
            let output = outcome.and_then(|outcome| self.outputs?.error(id, outcome.quantizer));
            let output = output.and_then(|error| error.db(ActivationMode::Weights));
            if let Some(db) = output.filter(|_| row.is_selected()) {
                total.add_output(db);
            }
        }
    }

    /// Adds the cells of a tensor.
    fn add_row(&self, id: TensorId, row: &Row, table: &mut Table) {
        table.cell(names::visible(&row.tensor.name));
        table.cell(names::visible(row.tensor.dtype.name()));
        table.cell(&row.tensor.shape);
        table.cell(figures::bytes(row.tensor.bytes));
        let outcomes = row.analysis.map_or(&[][..], |analysis| &analysis.outcomes);
        for place in 0..self.schemes.len() {
            table.cell(outcomes.get(place).map_or(String::new(), cell));
        }
        if let Some(outputs) = self.outputs {
            for place in 0..self.schemes.len() {
                let quantizer = outcomes.get(place).map(|outcome| outcome.quantizer);
                let error = quantizer.and_then(|quantizer| outputs.error(id, quantizer));
                let text = error.and_then(|error| error.shown(ActivationMode::Weights));
                table.cell(text.unwrap_or_default());
            }
        }
        let dbs: Vec<Option<f64>> = outcomes.iter().map(sqnr).collect();
        table.cell(self.best(&dbs));
        table.cell(note(row, self.duplicates, self.checkpoint, id));
    }

    /// The best scheme and its gain over the first.
    fn best(&self, dbs: &[Option<f64>]) -> String {
        let Some(Some(first)) = dbs.first() else { return String::new() };
        let all = dbs.iter().zip(self.schemes).filter_map(|(db, scheme)| Some(((*db)?, scheme)));
        // Of equals the first, which is the smallest if schemes are listed by size.
        let best = all.reduce(|best, next| if next.0 > best.0 { next } else { best });
        match best {
            Some((db, scheme)) if db > *first && db.is_finite() => {
                format!("{scheme} +{:.1} dB", db - first)
            }
            _ => String::new(),
        }
    }

    fn summary<'n>(&self, names: &'n [String], totals: &[SchemeTotals]) -> Table<'n> {
        let mut columns = vec![
            ("scheme", Column::Left),
            ("bytes", Column::Right),
            ("of float", Column::Right),
            ("mean SQNR", Column::Right),
            ("worst SQNR", Column::Right),
        ];
        if let Some(outputs) = self.outputs {
            let titles = match outputs.title() {
                "weighted" => ["mean weighted", "worst weighted"],
                _ => ["mean output", "worst output"],
            };
            columns.extend(titles.map(|title| (title, Column::Right)));
        }
        columns.push(("", Column::Note));
        let mut table = Table::new(&columns);
        let before: u64 = self.measured.iter().map(|m| self.checkpoint.tensor(m.id).bytes).sum();
        for ((name, total), scheme) in names.iter().zip(totals).zip(self.schemes) {
            table.cell(name);
            table.cell(figures::bytes(total.bytes));
            table.cell(figures::percent(total.bytes as f64 / before.max(1) as f64));
            match total.count {
                0 => table.cell(""),
                n => table.cell(figures::decibels(total.sum / n as f64)),
            }
            table.cell(total.worst.map_or(String::new(), |db| figures::decibels(db).clone()));
            if self.outputs.is_some() {
                let db = |db: f64| format!("{db:.1} dB");
                let mean = (total.outputs > 0).then(|| total.output_sum / total.outputs as f64);
                table.cell(mean.map(db).unwrap_or_default());
                table.cell(total.worst_output.map(db).unwrap_or_default());
            }
            table.cell(match (scheme.is_scaled_int8(), scheme.ggml(), scheme.preset()) {
                (true, ..) => "",
                (_, Some(_), _) => "saved as GGUF",
                (_, _, Some(_)) => "saved as compressed-tensors",
                (_, None, None) => "measured, not saved",
            });
        }
        table
    }
}

impl SchemeTotals {
    fn add(&mut self, db: f64) {
        self.worst = Some(self.worst.map_or(db, |worst| worst.min(db)));
        // Exact tensors are left out of the mean.
        if db.is_finite() {
            self.sum += db;
            self.count += 1;
        }
    }
}

impl SchemeTotals {
    /// Adds an output error. Exact layers are left out of the mean.
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
