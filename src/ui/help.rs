//! The help: the key table, with a search.

use crate::app::App;
use crate::app::keys::Key;
use crate::app::overlay::{Help, HelpLine};
use crate::ui::theme::Theme;
use crate::ui::{layout, text, widgets};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};

/// Width of the keys, in columns.
const KEYS: usize = 16;

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
    for (y, line) in (0..inside.height).zip(lines.iter().skip(help.scroll)) {
        let line = match line {
            HelpLine::Blank => continue,
            HelpLine::Group(group) => Line::styled(group.title(), theme.strong),
            HelpLine::Binding(binding, own) => Line::from(vec![
                Span::styled(format!("{:<KEYS$}", keys(own)), theme.accent),
                Span::raw(binding.help),
            ]),
        };
        widgets::line(buf, inside, y, &line);
    }
    text::more(buf, area, help.scroll, inside.height.into(), lines.len(), theme);
    cursor
}

fn keys(keys: &[Key]) -> String {
    let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
    keys.join("  ")
}
