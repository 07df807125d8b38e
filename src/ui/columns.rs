//! The columns of the table: their places, widths and cells. Each column has one arm in
//! [`columns`] for its width and one in [`CellPainter::line`] for its cell.

use crate::activations::ActivationMode;
use crate::app::figures::{bytes_aligned, counted, decibels, gained, shape};
use crate::app::filter::Matcher;
use crate::app::table::{Column, ColumnWidths, NodeTotals, Row};
use crate::app::tensor_metrics::{Sqnr, scheme_name};
use crate::app::tree::TreeItem;
use crate::app::{App, CalibrationState, names, outputs, sparkline};
use crate::quantization;
use crate::quantization::{QuantizationScheme, Quantizer};
use crate::tensor::TensorId;
use crate::ui::theme::Theme;
use crate::ui::widgets;
use ratatui::layout::Alignment;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// A column of the table: its position and its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ColumnPlace {
    /// The column.
    pub column: Column,
    /// Its first cell.
    pub x: u16,
    /// Its width in cells.
    pub width: u16,
}

/// Width of a row's cursor bar and mark, in columns.
pub(super) const MARK_WIDTH: u16 = 4;
/// Gap between two columns.
const COLUMN_GAP: u16 = 2;

/// Width of an SQNR with its rating, and of the gauge between the two.
const SQNR_WIDTH: u16 = 19;
/// Cells of the SQNR bar.
const GAUGE_WIDTH: u16 = 8;

/// The columns that fit, from left to right. The SQNR is always shown; the others are added in
/// order of usefulness while enough room is left for the name, which gets the rest.
pub(super) fn columns(width: u16, widest: &ColumnWidths, wanted: &[Column]) -> Vec<ColumnPlace> {
    use Column::*;
    let width_of = |column| match column {
        Shape => (widest.shape as u16).clamp(5, 20),
        DType => (widest.dtype as u16).clamp(5, 12),
        Bytes => 8,
        Scheme => 13,
        // A sparkline of logarithms says so.
        Values => sparkline::WIDTH as u16 + 4,
        Output => 10,
        By(_) | Gain { .. } => (column.title().chars().count() as u16 + 2).max(10),
        Sqnr | File | Name => 0,
    };
    let enough = (widest.name as u16).clamp(16, 46);
    // The last column is for the scroll bar.
    let mut name = width.saturating_sub(MARK_WIDTH + 2).saturating_sub(COLUMN_GAP + SQNR_WIDTH);
    let mut take = |wanted: u16| {
        let fits = name >= enough + wanted;
        name -= if fits { wanted } else { 0 };
        fits
    };
    // Columns of schemes were chosen explicitly, so they come before the defaults.
    let of_schemes = wanted.iter().copied().filter(|column| column.is_of_schemes());
    let plain = [Bytes, Shape, Scheme, DType, Values].into_iter();
    let taken: Vec<Column> = std::iter::once(Output)
        .chain(of_schemes.clone())
        .chain(plain)
        .filter(|column| wanted.contains(column) && take(COLUMN_GAP + width_of(*column)))
        .collect();
    let sqnr = if take(COLUMN_GAP + GAUGE_WIDTH) {
        SQNR_WIDTH + COLUMN_GAP + GAUGE_WIDTH
    } else {
        SQNR_WIDTH
    };
    let mut x = MARK_WIDTH;
    let mut places = Vec::with_capacity(7);
    let mut put = |column, width| {
        places.push(ColumnPlace { column, x, width });
        x += width + COLUMN_GAP;
    };
    put(Name, name);
    let fits = |column| taken.contains(&column);
    for column in [Shape, DType, Bytes].into_iter().filter(|&column| fits(column)) {
        put(column, width_of(column));
    }
    put(Sqnr, sqnr);
    if fits(Output) {
        put(Output, width_of(Output));
    }
    for column in of_schemes.filter(|&column| fits(column)) {
        put(column, width_of(column));
    }
    if fits(Values) {
        put(Values, width_of(Values));
    }
    if fits(Scheme) {
        put(Scheme, width_of(Scheme));
    }
    places
}

/// Draws the cells of the table.
pub(super) struct CellPainter<'a> {
    pub app: &'a App,
    pub theme: &'a Theme,
    pub matcher: Matcher<'a>,
}

impl CellPainter<'_> {
    /// Returns what the cells of a row show.
    pub(super) fn cells(&self, row: Row) -> Cells<'static> {
        match row.item {
            TreeItem::Tensor(id) => self.tensor_cells(id),
            TreeItem::Module(node) => self.module_cells(self.app.table.totals(node)),
        }
    }

    /// Returns the cell of a row in a column; `None` for a column that is only an order.
    pub(super) fn line<'b>(
        &mut self,
        row: Row,
        cells: &Cells<'b>,
        place: &ColumnPlace,
    ) -> Option<Line<'b>> {
        let line = match place.column {
            Column::Name => self.name(row, place.width.into()),
            Column::Shape => cells.shape.clone().alignment(Alignment::Right),
            Column::DType => cells.dtype.clone(),
            Column::Bytes => cells.bytes.clone().alignment(Alignment::Right),
            Column::Sqnr => self.sqnr(cells, place.width.into()),
            Column::Output => self.output(row.item).alignment(Alignment::Right),
            Column::By(scheme) => {
                let db = |id| self.app.model.sqnr_by(id, scheme);
                self.of_scheme(row.item, db).alignment(Alignment::Right)
            }
            Column::Gain { of, over } => self.gain(row.item, of, over).alignment(Alignment::Right),
            Column::Values => self.sparkline(row.item),
            Column::Scheme => cells.scheme.clone(),
            Column::File => return None,
        };
        Some(line)
    }

    fn name<'b>(&mut self, row: Row, width: usize) -> Line<'b> {
        let (app, theme) = (self.app, self.theme);
        let full = app.full_name(row);
        let label = &full[(row.label as usize).min(full.len())..];
        let indent = if app.table.as_tree { usize::from(row.depth) * 2 } else { 0 };
        let indent = indent.min(width / 2);
        let mut spans = vec![Span::raw(" ".repeat(indent))];
        let mut room = width - indent;
        if app.table.as_tree {
            let sign = match row.item {
                TreeItem::Module(node) if app.table.is_folded(node) => "▸ ",
                TreeItem::Module(_) => "▾ ",
                TreeItem::Tensor(_) => "  ",
            };
            spans.push(Span::styled(sign, theme.faint));
            room = room.saturating_sub(2);
        }
        let (module, leaf) = match row.item {
            TreeItem::Module(_) => (theme.strong, theme.strong),
            TreeItem::Tensor(id) if app.model.is_marked(id) => (theme.dim, theme.strong),
            TreeItem::Tensor(id) if app.model.quantizable(id) => (theme.dim, theme.text),
            TreeItem::Tensor(_) => (theme.dim, theme.dim),
        };
        let text = names::visible(label);
        let text = names::shorten(&text, room);
        // The end of a name, with layer and parameter, tells rows apart; cut the start.
        let leaf_start = match row.item {
            TreeItem::Module(_) => 0,
            TreeItem::Tensor(_) => text.rmatch_indices('.').nth(1).map_or(0, |(dot, _)| dot + 1),
        };
        let exact = text == label && !app.table.filter.is_everything();
        let found = match row.item {
            TreeItem::Tensor(_) if exact => self.matcher.found(full),
            _ => Vec::new(),
        };
        let skipped = full[..full.len() - label.len()].chars().count() as u32;
        for (number, (at, c)) in (skipped..).zip(text.char_indices()) {
            let base = if at < leaf_start { module } else { leaf };
            let style = match found.binary_search(&number) {
                Ok(_) => theme.found,
                Err(_) => base,
            };
            match spans.last_mut() {
                Some(span) if span.style == style && spans_text(span) => {
                    span.content.to_mut().push(c)
                }
                _ => spans.push(Span::styled(c.to_string(), style)),
            }
        }
        Line::from(spans)
    }

    fn tensor_cells(&self, id: TensorId) -> Cells<'static> {
        let (app, theme) = (self.app, self.theme);
        let tensor = app.model.checkpoint.tensor(id);
        let marked = app.model.is_marked(id);
        let sqnr = app.model.sqnr(id);
        let mark = match sqnr {
            Sqnr::Unreadable | Sqnr::Impossible => ("!", theme.bad),
            _ if marked => ("●", theme.mark),
            _ => (" ", theme.text),
        };
        let style = if app.model.quantizable(id) { theme.text } else { theme.dim };
        let scheme = match (sqnr, app.model.reason(id)) {
            (Sqnr::Stored | Sqnr::Nothing | Sqnr::Impossible | Sqnr::Unreadable, _) => {
                String::new()
            }
            (_, Some(reason)) if !marked => reason.word().to_owned(),
            (Sqnr::F16, _) => "f16".to_owned(),
            _ => scheme_text(app.model.quantizer_of(id)),
        };
        Cells {
            mark,
            shape: Line::styled(shape(&tensor.shape), theme.dim),
            dtype: Line::styled(names::visible(tensor.dtype.name()).into_owned(), theme.dim),
            bytes: Line::styled(bytes_aligned(tensor.bytes), style),
            sqnr,
            stored: app
                .model
                .checkpoint
                .packed_format(id)
                .map_or(String::new(), |l| names::visible(&l.name()).into_owned()),
            at_least: false,
            flagged: app
                .model
                .measurement(id)
                .metrics()
                .is_some_and(|metrics| !metrics.flags.is_empty())
                && !matches!(sqnr, Sqnr::Impossible | Sqnr::Unreadable),
            scheme: Line::styled(scheme, if marked { theme.mark } else { theme.faint }),
        }
    }

    fn module_cells(&self, totals: &NodeTotals) -> Cells<'static> {
        let theme = self.theme;
        let mark = match totals.marked {
            0 => (" ", theme.text),
            n if n >= totals.quantizable => ("●", theme.mark),
            _ => ("◐", theme.mark),
        };
        let sqnr = match (totals.worst, totals.waiting) {
            (Some(db), _) => Sqnr::Decibels(db),
            (None, 0) => Sqnr::Nothing,
            (None, _) => Sqnr::Waiting,
        };
        let scheme = match totals.marked {
            0 => Line::default(),
            n => Line::styled(format!("{n} of {}", totals.tensors), theme.mark),
        };
        Cells {
            mark,
            shape: Line::styled(counted(totals.tensors, "tensor"), theme.dim),
            dtype: Line::default(),
            bytes: Line::raw(bytes_aligned(totals.bytes)),
            sqnr,
            stored: String::new(),
            at_least: true,
            flagged: false,
            scheme,
        }
    }

    /// The output error of the layer with quantized weights.
    fn output<'b>(&self, item: TreeItem) -> Line<'b> {
        let theme = self.theme;
        let id = match item {
            TreeItem::Tensor(id) => id,
            TreeItem::Module(node) => {
                // The worst error of all layers of the module.
                let worst = self.app.table.totals(node).worst_output;
                let text = |db: f64| match db {
                    f64::NEG_INFINITY => "exact".to_owned(),
                    db => format!("≤{db:.1} dB").replace('-', "−"),
                };
                let style = worst.map_or(theme.text, |db| theme.rate(-db).1);
                return Line::styled(worst.map(text).unwrap_or_default(), style);
            }
        };
        let outputs = self.app.model.outputs.as_ref();
        if outputs.is_some_and(|outputs| outputs.failure(id).is_some()) {
            return Line::styled("unreadable", theme.bad);
        }
        if outputs.is_some_and(|outputs| outputs.is_waiting(id)) {
            return match self.app.measuring_outputs {
                Some(_) => Line::styled("…", theme.faint),
                None => Line::styled("–", theme.faint),
            };
        }
        let error = self.app.model.output(id);
        let text = error.and_then(|error| outputs::text(error, ActivationMode::Weights));
        let style = match error.and_then(|error| error.db(ActivationMode::Weights)) {
            Some(db) => theme.rate(-db).1,
            None => theme.text,
        };
        Line::styled(text.unwrap_or_default(), style)
    }

    /// The SQNR of one scheme.
    fn of_scheme<'b>(&self, item: TreeItem, db: impl Fn(TensorId) -> Option<f64>) -> Line<'b> {
        let TreeItem::Tensor(id) = item else { return Line::default() };
        match db(id) {
            Some(db) => Line::styled(decibels(db), self.theme.rate(db).1),
            None => self.unknown(id),
        }
    }

    /// The gain of one scheme over another in dB. One bit of precision is 6 dB.
    fn gain<'b>(
        &self,
        item: TreeItem,
        of: QuantizationScheme,
        over: QuantizationScheme,
    ) -> Line<'b> {
        let TreeItem::Tensor(id) = item else { return Line::default() };
        match self.app.model.gain(id, of, over) {
            Some(db) if !self.app.model.quantizable(id) => Line::styled(gained(db), self.theme.dim),
            Some(db) if db >= 6.0 => Line::styled(gained(db), self.theme.good),
            Some(db) if db <= 0.05 => Line::styled(gained(db), self.theme.dim),
            Some(db) => Line::raw(gained(db)),
            None => self.unknown(id),
        }
    }

    fn unknown<'b>(&self, id: TensorId) -> Line<'b> {
        let running = matches!(self.app.calibration, CalibrationState::Running { .. });
        let waits = running && self.app.model.obstacle(id).is_none_or(|o| o.can_be_overruled());
        let waits = waits && self.app.model.sqnr(id) != Sqnr::Nothing;
        Line::styled(if waits { "…" } else { "–" }, self.theme.faint)
    }

    /// The sparkline from −absmax to absmax.
    fn sparkline<'b>(&self, item: TreeItem) -> Line<'b> {
        let TreeItem::Tensor(id) = item else { return Line::default() };
        let metrics = self.app.model.measurement(id).metrics();
        let Some(sparkline) = metrics.and_then(|metrics| metrics.sparkline) else {
            return Line::default();
        };
        let heights = sparkline.heights.iter();
        let text: String = heights.map(|&height| widgets::column(height)).collect();
        let scale = if sparkline.log.is_some() { " log" } else { "" };
        Line::from(vec![Span::styled(text, self.theme.dim), Span::styled(scale, self.theme.faint)])
    }

    fn sqnr<'b>(&self, cells: &Cells, width: usize) -> Line<'b> {
        let theme = self.theme;
        let Cells { sqnr, at_least, stored, .. } = cells;
        let word = |text: &'static str, style: Style| Line::styled(format!("{text:>8}"), style);
        match *sqnr {
            Sqnr::Decibels(db) => {
                let [mut figure, word] = widgets::rating(db, theme);
                if *at_least && db.is_finite() {
                    figure.content = format!("{:>8}", format!("≥{}", figure.content.trim())).into();
                }
                let mut spans = vec![figure];
                if width > usize::from(GAUGE_WIDTH) * 3 {
                    spans.push(Span::raw("  "));
                    spans.extend(widgets::gauge(db, GAUGE_WIDTH.into(), theme));
                }
                spans.push(word);
                Line::from(spans)
            }
            Sqnr::Impossible => word("no scale", theme.bad),
            Sqnr::DoesNotFit => Line::styled("does not fit", theme.dim),
            Sqnr::F16 => Line::styled("becomes F16", theme.dim),
            Sqnr::Unreadable => Line::styled("unreadable", theme.bad),
            Sqnr::Waiting => match self.app.calibration {
                CalibrationState::Running { .. } => word("…", theme.faint),
                _ => Line::styled("not measured", theme.dim),
            },
            Sqnr::Stored => Line::styled(names::shorten(stored, width).into_owned(), theme.dim),
            Sqnr::Nothing => word("–", theme.faint),
        }
    }
}

fn spans_text(span: &Span) -> bool {
    !span.content.is_empty()
}

pub(super) struct Cells<'a> {
    /// The symbol of the mark, and its style.
    pub mark: (&'static str, Style),
    shape: Line<'a>,
    dtype: Line<'a>,
    bytes: Line<'a>,
    sqnr: Sqnr,
    /// The packed format of a tensor that is stored quantized.
    stored: String,
    /// The SQNR is the worst of several.
    at_least: bool,
    /// The tensor has a diagnostic.
    pub flagged: bool,
    scheme: Line<'a>,
}

/// The name of a scheme, with a letter for the calibration if that is not min–max.
fn scheme_text(quantizer: Quantizer) -> String {
    let scheme = scheme_name(quantizer.scheme);
    match quantizer.calibration {
        quantization::Calibration::MinMax => scheme.into_owned(),
        quantization::Calibration::Mse => format!("{scheme} m"),
        quantization::Calibration::Percentile(_) => format!("{scheme} p"),
        quantization::Calibration::Clip(_) => format!("{scheme} c"),
        quantization::Calibration::Magnitude(_) => format!("{scheme} g"),
        quantization::Calibration::Learned => format!("{scheme} q"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA_WIDTHS: ColumnWidths = ColumnWidths { name: 40, shape: 12, dtype: 4 };

    #[test]
    fn columns_that_do_not_fit_beside_the_name_are_left_out() {
        for width in 60..300 {
            let places = columns(width, &LLAMA_WIDTHS, &Column::ALL);
            let last = places.last().expect("a column");
            assert!(last.x + last.width < width, "{width}");
            assert!(places[0].width >= 24, "{width}: {}", places[0].width);
            assert!(places.iter().any(|p| p.column == Column::Sqnr));
        }
        let shown = |width, wanted: &[Column]| {
            columns(width, &LLAMA_WIDTHS, wanted).iter().map(|p| p.column).collect::<Vec<_>>()
        };
        let without = Column::ALL.into_iter().filter(|&column| column != Column::Output);
        let without: Vec<Column> = without.collect();
        assert_eq!(shown(60, &without), [Column::Name, Column::Sqnr]);
        assert_eq!(shown(80, &without), [Column::Name, Column::Bytes, Column::Sqnr]);
        assert_eq!(shown(140, &without).len(), 7);
        assert_eq!(shown(80, &Column::ALL), [Column::Name, Column::Sqnr, Column::Output]);
        assert_eq!(shown(160, &Column::ALL).len(), 8);
    }
}
