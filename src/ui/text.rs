//! A text in a window: metadata, the legend, a receipt or an error.

use crate::app::overlay::Tone;
use crate::app::pager::{Pager, Row};
use crate::ui::theme::Theme;
use crate::ui::{layout, widgets};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

pub(super) fn draw(buf: &mut Buffer, screen: Rect, tone: Tone, pager: &Pager, theme: &Theme) {
    let full = layout::text_window(screen.as_size());
    let rows = pager.rows(layout::inside(full).width.into());
    // A short text gets a short window.
    let height = (rows.len() as u16).saturating_add(4).min(full.height);
    let area = layout::window(screen.as_size(), full.width, height);
    let style = match tone {
        Tone::Plain => theme.strong,
        Tone::Good => theme.good,
        Tone::Bad => theme.bad,
    };
    let inside = widgets::frame(buf, area, &pager.title, style, theme);
    for (y, row) in (0..inside.height).zip(rows.iter().skip(pager.scroll())) {
        let line = match row {
            Row::Blank => continue,
            Row::Heading(text) => Line::styled(text.as_str(), theme.strong),
            Row::Text(text) => Line::styled(text.as_str(), theme.text),
            Row::Field(label, value) => Line::from(vec![
                Span::styled(format!("{label:<width$}", width = pager.label_width()), theme.dim),
                Span::raw(value.as_str()),
            ]),
        };
        widgets::line(buf, inside, y, &line);
    }
    more(buf, area, pager.scroll(), inside.height.into(), rows.len(), theme);
}

/// Writes on the border which part of the text is visible, and the keys.
pub(super) fn more(
    buf: &mut Buffer,
    window: Rect,
    scroll: usize,
    height: usize,
    total: usize,
    theme: &Theme,
) {
    if total <= height || window.height < 2 {
        return;
    }
    let text = format!(" {}–{} of {total} ", scroll + 1, (scroll + height).min(total));
    let width = text.chars().count() as u16;
    if let Some(x) = window.right().checked_sub(width + 3) {
        buf.set_stringn(x, window.bottom() - 1, text, width.into(), theme.dim);
    }
}
