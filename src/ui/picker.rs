//! The list of models to choose from.

use crate::app::figures::{bytes_aligned, counted};
use crate::app::keymap::KeyMap;
use crate::app::keys::Context;
use crate::app::names;
use crate::app::pager::wrap;
use crate::app::picker::Picker;
use crate::app::settings::{Glyphs, Settings};
use crate::ui::theme::Theme;
use crate::ui::{ascii, hints, layout, tensors, too_small, widgets};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};

/// Rows above and below the list.
const ROWS_AROUND_LIST: u16 = 4;
/// Rows for why a model did not open.
const PROBLEM_ROWS: u16 = 4;

/// Visible rows of the list on a screen of a height.
pub(crate) fn height(screen: u16, picker: &Picker) -> usize {
    let problem = if picker.problem.is_some() { PROBLEM_ROWS } else { 0 };
    usize::from(screen.saturating_sub(ROWS_AROUND_LIST + problem + picker.notes.len() as u16))
        .max(1)
}

/// The keys of a list without a model, in its place.
pub(super) fn key_list(
    buf: &mut Buffer,
    area: Rect,
    keys: &KeyMap,
    context: Context,
    first: usize,
    theme: &Theme,
) {
    let layers = context.layers();
    let bindings = keys.bindings().filter(|(binding, _)| layers.contains(&binding.context));
    // The keys of the place itself come first.
    let mut bindings: Vec<_> = bindings.collect();
    bindings.sort_by_key(|(binding, _)| binding.context != context);
    let rows = (2..area.height.saturating_sub(1)).zip(bindings.into_iter().skip(first));
    for (y, (binding, own)) in rows {
        let own: Vec<String> = own.iter().map(ToString::to_string).collect();
        let line = Line::from(vec![
            Span::styled(format!("  {:<28}", own.join("  ")), theme.accent),
            Span::raw(binding.help),
        ]);
        widgets::line(buf, area, y, &line);
    }
    let last = Rect { y: area.bottom() - 1, height: 1, ..area };
    widgets::line(
        buf,
        last,
        0,
        &Line::styled(" ↓ ↑ scroll, any other key returns to the list", theme.dim),
    );
}

/// The first visible entry.
fn first(rows: usize, picker: &Picker) -> usize {
    (picker.cursor + 1).saturating_sub(rows)
}

fn top(picker: &Picker) -> u16 {
    2 + picker.notes.len() as u16
}

/// The entry at a row of the screen.
pub(crate) fn hit(screen: u16, picker: &Picker, y: u16) -> Option<usize> {
    let rows = height(screen, picker);
    let line = usize::from(y.checked_sub(top(picker))?);
    let number = first(rows, picker) + line;
    (line < rows && number < picker.shown.len()).then_some(number)
}

pub(crate) fn draw(frame: &mut Frame, picker: &Picker, settings: &Settings, theme: &Theme) {
    let area = frame.area();
    let cursor = render(frame.buffer_mut(), area, picker, &settings.keys, theme);
    if settings.glyphs == Glyphs::Ascii {
        ascii::translate(frame.buffer_mut());
    }
    if let Some(cursor) = cursor {
        frame.set_cursor_position(cursor);
    }
}

/// Draws the list into a buffer. Returns the position of the text cursor while a filter is typed.
pub(crate) fn render(
    buf: &mut Buffer,
    area: Rect,
    picker: &Picker,
    keys: &KeyMap,
    theme: &Theme,
) -> Option<Position> {
    if area.width < layout::MIN_SIZE.width || area.height < layout::MIN_SIZE.height {
        too_small::too_small(buf, area, theme);
        return None;
    }
    let title = Line::from(vec![
        Span::styled(" quantscope", theme.accent),
        Span::styled("  which model?", theme.strong),
    ]);
    widgets::line(buf, area, 0, &title);
    for (y, notes) in (1..).zip(&picker.notes) {
        let notes = names::shorten(notes, usize::from(area.width.saturating_sub(2)));
        widgets::line(buf, area, y, &Line::styled(format!(" {notes}"), theme.dim));
    }
    let rows = height(area.height, picker);
    if let Some(first) = picker.help {
        key_list(buf, area, keys, Context::Picker, first, theme);
        return None;
    }
    if let Some(problem) = &picker.problem {
        let text = wrap(problem, usize::from(area.width.saturating_sub(2)));
        let first = area.bottom().saturating_sub(1 + text.len() as u16).max(area.y + 2);
        for (y, row) in (first..area.bottom() - 1).zip(text) {
            widgets::line(
                buf,
                Rect { y, height: 1, ..area },
                0,
                &Line::styled(format!(" {row}"), theme.bad),
            );
        }
    }
    if picker.shown.is_empty() {
        let text = format!("  No model matches {}.", names::visible(&picker.filter_text));
        widgets::line(buf, area, top(picker), &Line::styled(text, theme.dim));
    }
    let shown = picker.shown.iter().enumerate().skip(first(rows, picker)).take(rows);
    for (y, (number, &at)) in (area.y + top(picker)..).zip(shown) {
        let Some(choice) = picker.choices.get(at) else { continue };
        let row = Rect { y, height: 1, ..area };
        let known = choice.known.map_or(String::new(), |(format, bytes)| {
            format!("{:<12}{:>8}", format.name(), bytes_aligned(bytes))
        });
        let right = format!("{:<14}{known} ", choice.place);
        let room = usize::from(area.width).saturating_sub(right.chars().count() + 4);
        let name = names::shorten(&choice.name, room).into_owned();
        let left = Line::from(vec![Span::raw("  "), Span::styled(name, theme.text)]);
        widgets::ends(buf, row, 0, &left, &Line::styled(right, theme.dim));
        if number == picker.cursor {
            tensors::highlight(buf, row, theme);
        }
    }
    let hints = hint_line(keys, picker.context(), theme);
    let last = Rect { y: area.bottom() - 1, height: 1, ..area };
    let Some(typing) = &picker.typing else {
        hints_below(buf, area, keys, picker.context(), theme);
        return None;
    };
    hints::problem(buf, last, typing, theme);
    let said = match &typing.problem {
        Some(_) => Line::default(),
        None => {
            let (shown, all) = (picker.shown.len(), picker.choices.len());
            Line::styled(format!("{shown} of {} ", counted(all, "model")), theme.dim)
        }
    };
    let room = usize::from(area.width / 2).saturating_sub(said.width());
    let keys = match hints {
        keys if keys.width() <= room => keys,
        _ => Line::from(vec![
            Span::styled(" Esc", theme.accent),
            Span::styled(" show all ", theme.dim),
        ]),
    };
    Some(hints::typed(buf, last, " /", &typing.input, &said, keys, theme))
}

/// The keys of a place that have a hint.
fn hint_line(keys: &KeyMap, context: Context, theme: &Theme) -> Line<'static> {
    let mut hints = vec![Span::raw(" ")];
    for (binding, own) in keys.bindings() {
        let here = context.layers().contains(&binding.context);
        if let (true, Some(word), Some(key)) = (here, binding.hint, own.first()) {
            hints.push(Span::styled(key.to_string(), theme.accent));
            hints.push(Span::styled(format!(" {word}  "), theme.dim));
        }
    }
    Line::from(hints)
}

/// Draws the hints of a place in the last row.
pub(super) fn hints_below(
    buf: &mut Buffer,
    area: Rect,
    keys: &KeyMap,
    context: Context,
    theme: &Theme,
) {
    let last = Rect { y: area.bottom() - 1, height: 1, ..area };
    widgets::line(buf, last, 0, &hint_line(keys, context, theme));
}
