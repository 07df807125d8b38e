//! The help: the key table, with a search.

use crate::app::App;
use crate::app::keys::Key;
use crate::app::overlay::{Help, HelpLine};
use crate::app::pager::wrap;
use crate::ui::theme::Theme;
use crate::ui::{layout, text, widgets};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};
use std::ops::Range;

/// Width of the keys, in columns.
const KEYS_WIDTH: usize = 18;

pub(super) fn draw(
    buf: &mut Buffer,
    screen: Rect,
    app: &App,
    help: &Help,
    theme: &Theme,
) -> Position {
    let area = layout::text_window(screen.as_size());
    let mut inside = widgets::frame(buf, area, "Keys", theme.strong, theme);
    // The search uses the row between border and text.
    let search = Rect { y: inside.y - 1, height: 1, ..inside };
    widgets::line(buf, search, 0, &Line::styled("search ", theme.dim));
    let typed = Rect { x: search.x + 7, width: search.width.saturating_sub(7), ..search };
    let cursor = widgets::input(buf, typed, &help.input, theme);
    inside.y += 1;
    inside.height = inside.height.saturating_sub(1);
    let lines = help.lines(&app.settings.keys);
    if lines.is_empty() {
        widgets::line(buf, inside, 0, &Line::styled("No key matches.", theme.dim));
    }
    let (rows, chosen) = rows(&lines, help.chosen, inside.width.into(), theme);
    let first = (chosen.end).saturating_sub(inside.height.into());
    for (y, row) in (0..inside.height).zip(rows.iter().skip(first)) {
        widgets::line(buf, inside, y, row);
    }
    text::more(buf, area, first, inside.height.into(), rows.len(), theme);
    cursor
}

/// The rows of the help, and those of the key under the cursor. Long texts take several rows.
fn rows<'a>(
    lines: &[HelpLine],
    chosen: usize,
    width: usize,
    theme: &Theme,
) -> (Vec<Line<'a>>, Range<usize>) {
    let mut rows: Vec<Line> = Vec::new();
    let (mut number, mut here) = (0, 0..0);
    for line in lines {
        let start = rows.len();
        match line {
            HelpLine::Blank => rows.push(Line::default()),
            HelpLine::Heading(title) => rows.push(Line::styled(*title, theme.strong)),
            HelpLine::Binding(binding, own) => {
                let is_chosen = number == chosen;
                let sign = Span::styled(if is_chosen { "▸ " } else { "  " }, theme.accent);
                let keys = Span::styled(format!("{:<KEYS_WIDTH$}", keys(own)), theme.accent);
                // Keys that are wider than their column have a row of their own.
                let mut first = vec![sign, keys];
                if first[1].width() > KEYS_WIDTH {
                    rows.push(Line::from(std::mem::take(&mut first)));
                }
                let style = if is_chosen { theme.strong } else { theme.text };
                for part in wrap(binding.help, width.saturating_sub(KEYS_WIDTH + 2)) {
                    if first.is_empty() {
                        first.push(Span::raw(" ".repeat(KEYS_WIDTH + 2)));
                    }
                    first.push(Span::styled(part, style));
                    rows.push(Line::from(std::mem::take(&mut first)));
                }
                if is_chosen {
                    here = start..rows.len();
                }
                number += 1;
            }
        }
    }
    (rows, here)
}

fn keys(keys: &[Key]) -> String {
    let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
    keys.join("  ")
}
