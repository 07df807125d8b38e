//! The whole screen: every pane, and the overlay.

use crate::app::App;
use crate::app::overlay::{Overlay, Tone};
use crate::app::settings::Glyphs;
use crate::ui::theme::Theme;
use crate::ui::too_small::too_small;
use crate::ui::{
    ascii, budget, detail, dialogs, diff, header, help, hints, layout, plan, save_dialog, tensors,
    text,
};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};

/// Draws the whole screen.
pub fn draw(frame: &mut Frame, app: &App, theme: &Theme) {
    let area = frame.area();
    let cursor = render(frame.buffer_mut(), area, app, theme);
    if let Some(cursor) = cursor {
        frame.set_cursor_position(cursor);
    }
}

/// Draws into a buffer. Returns the position of the text cursor while text is typed.
pub fn render(buf: &mut Buffer, area: Rect, app: &App, theme: &Theme) -> Option<Position> {
    let cursor = panes(buf, area, app, &theme.with(app.model.thresholds));
    if app.settings.glyphs == Glyphs::Ascii {
        ascii::translate(buf);
    }
    cursor
}

fn panes(buf: &mut Buffer, area: Rect, app: &App, theme: &Theme) -> Option<Position> {
    let Some(layout) = layout::of(area.as_size(), layout::body(app)) else {
        too_small(buf, area, theme);
        return None;
    };
    header::draw(buf, layout.header, app, theme);
    tensors::draw(buf, &layout, app, theme);
    if let Some(detail) = layout.detail {
        let pane = app.overlays().find(|o| matches!(o, Overlay::Budget(_) | Overlay::Diff(_)));
        match pane {
            Some(Overlay::Budget(budget)) => budget::draw(buf, detail, app, budget, theme),
            Some(Overlay::Diff(view)) => diff::draw(buf, detail, app, view, theme),
            _ => detail::draw(buf, detail, app, theme),
        }
        for y in detail.top()..detail.bottom() {
            if let Some(x) = detail.x.checked_sub(1) {
                let symbol = if y == detail.y { "┬" } else { "│" };
                buf[(x, y)].set_symbol(symbol).set_style(theme.faint);
            }
        }
    }
    plan::draw(buf, &layout, app, theme);
    // The topmost overlay has the text cursor.
    let cursor = app.overlays().map(|open| overlay(buf, area, app, open, theme)).last().flatten();
    let typed = layout.detail.and_then(|detail| budget::cursor(detail, app));
    let cursor = cursor.or(typed);
    hints::draw(buf, layout.hints, app, theme).or(cursor)
}

fn overlay(
    buf: &mut Buffer,
    area: Rect,
    app: &App,
    open: &Overlay,
    theme: &Theme,
) -> Option<Position> {
    match open {
        // These are drawn as panes.
        Overlay::Filter(_) | Overlay::MarkBy(_) | Overlay::Budget(_) | Overlay::Diff(_) => None,
        Overlay::Prompt(prompt) => Some(dialogs::prompt(buf, area, app, prompt, theme)),
        Overlay::Help(help) => Some(help::draw(buf, area, app, help, theme)),
        Overlay::Text(tone, pager) => {
            text::draw(buf, area, *tone, pager, theme);
            None
        }
        Overlay::Receipt(_, pager) => {
            text::draw(buf, area, Tone::Good, pager, theme);
            None
        }
        Overlay::Open(dialog) => Some(dialogs::open(buf, area, app, dialog, theme)),
        Overlay::GoTo(go_to) => Some(dialogs::go_to(buf, area, app, go_to, theme)),
        Overlay::Presets(presets) => {
            dialogs::presets(buf, area, app, presets, theme);
            None
        }
        Overlay::Columns(columns) => {
            dialogs::columns(buf, area, app, columns, theme);
            None
        }
        Overlay::Schemes(list) => {
            dialogs::schemes(buf, area, app, list, theme);
            None
        }
        Overlay::Targets(list) => {
            dialogs::targets(buf, area, app, list, theme);
            None
        }
        Overlay::Save(dialog) => Some(save_dialog::save(buf, area, app, dialog, theme)),
        Overlay::Replace(dialog) => {
            save_dialog::replace(buf, area, app, dialog, theme);
            None
        }
        Overlay::Saving(saving) => {
            save_dialog::saving(buf, area, app, saving, theme);
            None
        }
        Overlay::Leave(other) => {
            dialogs::leave(buf, area, app, other.as_deref(), theme);
            None
        }
    }
}
