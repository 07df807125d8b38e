//! The ranked table. Only the visible rows are read.

use crate::activations::ActivationMode;
use crate::app::figures::{bytes_aligned, count, counted, decibels, gained, shape};
use crate::app::filter::Matcher;
use crate::app::table::{Column, NodeTotals, Row};
use crate::app::tensor_metrics::{Sqnr, scheme_name, typed_scheme_name};
use crate::app::tree::TreeItem;
use crate::app::{Action, App, CalibrationState, names, outputs};
use crate::quantization;
use crate::quantization::{QuantizationScheme, Quantizer};
use crate::tensor::TensorId;
use crate::ui::layout::{ColumnPlace, Layout};
use crate::ui::theme::Theme;
use crate::ui::{layout, widgets};
use ratatui::buffer::Buffer;
use ratatui::layout::{Alignment, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use std::ops::Range;

pub(super) fn draw(buf: &mut Buffer, layout: &Layout, app: &App, theme: &Theme) {
    if layout.rows.height == 0 {
        return;
    }
    caption(buf, layout.caption, app, theme);
    let places = layout::columns(layout.rows.width, &app.table.widest, &app.columns());
    titles(buf, layout.titles, &places, app, theme);
    if app.table.rows().is_empty() {
        return nothing(buf, layout.rows, app, theme);
    }
    let mut painter =
        Painter { app, theme, matcher: app.table.filter.matcher(), range: app.table.range() };
    for (line, place) in (0..layout.rows.height).zip(app.table.visible()) {
        let area = Rect { y: layout.rows.y + line, height: 1, ..layout.rows };
        painter.row(buf, area, &places, place);
    }
    scroll_bar(buf, layout.rows, app, theme);
}

fn caption(buf: &mut Buffer, area: Rect, app: &App, theme: &Theme) {
    let total = app.model.checkpoint.tensors().len();
    let mut left = match app.filter_text.as_str() {
        "" => vec![Span::raw(counted(total, "tensor"))],
        text => vec![
            Span::raw(format!(
                "{} of {} match ",
                count(app.table.shown_count() as u64),
                counted(total, "tensor")
            )),
            Span::styled(names::visible(text).into_owned(), theme.found),
        ],
    };
    if let Some(range) = app.table.range() {
        let rows = counted(range.len(), "row");
        left.push(Span::styled(format!("  range of {rows}"), theme.mark));
    }
    let scheme = typed_scheme_name(app.model.scheme());
    // What does not fit is left out: the order first, then the words around the scheme.
    let left = Line::from(left);
    let room = usize::from(area.width).saturating_sub(left.width() + 8);
    let full = format!("weight error of {scheme}");
    let right = match (full.chars().count() <= room, scheme.chars().count() <= room) {
        (true, _) => full,
        (false, true) => scheme,
        (false, false) => String::new(),
    };
    let order = format!("  {}", app.table.sort.describe());
    let mut left = left;
    if area.width >= 80 && right.chars().count() + order.chars().count() <= room {
        left.push_span(Span::styled(order, theme.dim));
    }
    let right = Line::styled(right, theme.dim);
    widgets::rule(buf, area, &left, &right, theme);
}

fn titles(buf: &mut Buffer, area: Rect, places: &[ColumnPlace], app: &App, theme: &Theme) {
    let sort = app.table.sort;
    for place in places {
        let arrow = match sort.column == place.column {
            true if sort.descending => " ▼",
            true => " ▲",
            false => "",
        };
        let style = if arrow.is_empty() { theme.dim } else { theme.strong };
        let title = format!("{}{arrow}", place.column.title());
        let width = usize::from(place.width);
        let text = match place.column {
            Column::Name | Column::Scheme | Column::DType | Column::Values => {
                format!("{title:<width$}")
            }
            // Over the figures, not over the gauge beside them.
            Column::Sqnr => format!("{title:>8}"),
            _ => format!("{title:>width$}"),
        };
        buf.set_stringn(area.x + place.x, area.y, text, width, style);
    }
}

struct Painter<'a> {
    app: &'a App,
    theme: &'a Theme,
    matcher: Matcher<'a>,
    /// The rows of the range.
    range: Option<Range<usize>>,
}

impl Painter<'_> {
    fn row(&mut self, buf: &mut Buffer, area: Rect, places: &[ColumnPlace], number: usize) {
        let Some(&row) = self.app.table.rows().get(number) else { return };
        let cells = match row.item {
            TreeItem::Tensor(id) => self.tensor_cells(id),
            TreeItem::Module(node) => self.module_cells(self.app.table.totals(node)),
        };
        let (mark, style) = cells.mark;
        buf.set_stringn(area.x + 2, area.y, mark, 1, style);
        if cells.flagged {
            buf.set_stringn(area.x + 1, area.y, "!", 1, self.theme.warning);
        }
        for place in places {
            let cell = Rect::new(area.x + place.x, area.y, place.width, 1);
            let line = match place.column {
                Column::Name => self.name(row, place.width.into()),
                Column::Shape => cells.shape.clone().alignment(Alignment::Right),
                Column::DType => cells.dtype.clone(),
                Column::Bytes => cells.bytes.clone().alignment(Alignment::Right),
                Column::Sqnr => self.sqnr(&cells, place.width.into()),
                Column::Output => self.output(row.item).alignment(Alignment::Right),
                Column::By(scheme) => {
                    let db = |id| self.app.model.sqnr_by(id, scheme);
                    self.of_scheme(row.item, db).alignment(Alignment::Right)
                }
                Column::Gain { of, over } => {
                    self.gain(row.item, of, over).alignment(Alignment::Right)
                }
                Column::Values => self.sparkline(row.item),
                Column::Scheme => cells.scheme.clone(),
                Column::File => continue,
            };
            let width = (line.width() as u16).min(cell.width);
            let x = match line.alignment {
                Some(Alignment::Right) => cell.right() - width,
                _ => cell.x,
            };
            buf.set_line(x, cell.y, &line, cell.right() - x);
        }
        if number == self.app.table.cursor() {
            highlight(buf, area, self.theme);
        } else if self.range.as_ref().is_some_and(|range| range.contains(&number)) {
            highlight(buf, area, self.theme);
            buf[(area.x, area.y)].set_symbol("┃");
        }
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
                if width > usize::from(layout::GAUGE_WIDTH) * 3 {
                    spans.push(Span::raw("  "));
                    spans.extend(widgets::gauge(db, layout::GAUGE_WIDTH.into(), theme));
                }
                spans.push(word);
                Line::from(spans)
            }
            Sqnr::Impossible => word("no scale", theme.bad),
            Sqnr::DoesNotFit => Line::styled("does not fit", theme.dim),
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

struct Cells<'a> {
    mark: (&'static str, Style),
    shape: Line<'a>,
    dtype: Line<'a>,
    bytes: Line<'a>,
    sqnr: Sqnr,
    /// The packed format of a tensor that is stored quantized.
    stored: String,
    /// The SQNR is the worst of several.
    at_least: bool,
    /// The tensor has a diagnostic.
    flagged: bool,
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

/// Highlights the row under the cursor and keeps colours that carry meaning.
pub(super) fn highlight(buf: &mut Buffer, area: Rect, theme: &Theme) {
    for x in area.left()..area.right().saturating_sub(1) {
        let cell = &mut buf[(x, area.y)];
        let own = cell.fg;
        cell.set_style(theme.cursor);
        cell.modifier.remove(Modifier::DIM);
        match theme.cursor.bg {
            Some(_)
                if own != Color::Reset
                    && theme.dim.fg != Some(own)
                    && theme.faint.fg != Some(own) =>
            {
                cell.set_fg(own);
            }
            Some(_) => {}
            None => {
                cell.set_fg(Color::Reset);
            }
        }
    }
    buf[(area.x, area.y)].set_symbol("▌").set_style(theme.cursor_bar);
}

fn scroll_bar(buf: &mut Buffer, area: Rect, app: &App, theme: &Theme) {
    let (total, height) = (app.table.rows().len(), usize::from(area.height));
    if total <= height {
        return;
    }
    let length = (height * height / total).max(1);
    let top = app.table.top() * (height - length) / (total - height);
    for line in 0..height {
        let symbol = if (top..top + length).contains(&line) { "┃" } else { "│" };
        let y = area.y + line as u16;
        buf[(area.right() - 1, y)].set_symbol(symbol).set_style(theme.faint);
    }
}

/// Explains why there are no rows.
fn nothing(buf: &mut Buffer, area: Rect, app: &App, theme: &Theme) {
    let (what, then) = if app.model.checkpoint.tensors().is_empty() {
        (
            "This checkpoint holds no tensors.".to_owned(),
            format!("{} shows the file's metadata", app.key_of(Action::Metadata)),
        )
    } else {
        (
            format!("No tensor matches {}.", names::visible(&app.filter_text)),
            format!("{} clears the filter", app.key_of(Action::Back)),
        )
    };
    let y = area.height / 3;
    for (line, (text, style)) in
        [(what.as_str(), theme.text), (then.as_str(), theme.dim)].iter().enumerate()
    {
        let line = y + line as u16;
        if line < area.height {
            let left = (usize::from(area.width).saturating_sub(names::width(text)) / 2) as u16;
            buf.set_stringn(area.x + left, area.y + line, text, (area.width - left).into(), *style);
        }
    }
}
