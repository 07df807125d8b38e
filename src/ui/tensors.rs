//! The ranked table. Only the visible rows are read.

use crate::app::figures::{count, counted};
use crate::app::table::Column;
use crate::app::tensor_metrics::typed_scheme_name;
use crate::app::{Action, App, names};
use crate::ui::columns::{CellPainter, ColumnPlace, columns};
use crate::ui::layout::Layout;
use crate::ui::theme::Theme;
use crate::ui::widgets;
use ratatui::buffer::Buffer;
use ratatui::layout::{Alignment, Rect};
use ratatui::style::{Color, Modifier};
use ratatui::text::{Line, Span};
use std::ops::Range;

pub(super) fn draw(buf: &mut Buffer, layout: &Layout, app: &App, theme: &Theme) {
    if layout.rows.height == 0 {
        return;
    }
    caption(buf, layout.caption, app, theme);
    let places = columns(layout.rows.width, &app.table.widest, &app.columns());
    titles(buf, layout.titles, &places, app, theme);
    if app.table.rows().is_empty() {
        return nothing(buf, layout.rows, app, theme);
    }
    let cells = CellPainter { app, theme, matcher: app.table.filter.matcher() };
    let mut painter = RowPainter { cells, range: app.table.range() };
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

struct RowPainter<'a> {
    cells: CellPainter<'a>,
    /// The rows of the range.
    range: Option<Range<usize>>,
}

impl RowPainter<'_> {
    fn row(&mut self, buf: &mut Buffer, area: Rect, places: &[ColumnPlace], number: usize) {
        let CellPainter { app, theme, .. } = self.cells;
        let Some(&row) = app.table.rows().get(number) else { return };
        let cells = self.cells.cells(row);
        let (mark, style) = cells.mark;
        buf.set_stringn(area.x + 2, area.y, mark, 1, style);
        if cells.flagged {
            buf.set_stringn(area.x + 1, area.y, "!", 1, theme.warning);
        }
        for place in places {
            let cell = Rect::new(area.x + place.x, area.y, place.width, 1);
            let Some(line) = self.cells.line(row, &cells, place) else { continue };
            let width = (line.width() as u16).min(cell.width);
            let x = match line.alignment {
                Some(Alignment::Right) => cell.right() - width,
                _ => cell.x,
            };
            buf.set_line(x, cell.y, &line, cell.right() - x);
        }
        if number == app.table.cursor() {
            highlight(buf, area, theme);
        } else if self.range.as_ref().is_some_and(|range| range.contains(&number)) {
            highlight(buf, area, theme);
            buf[(area.x, area.y)].set_symbol("┃");
        }
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
