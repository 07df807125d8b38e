//! The last line: the keys that have an effect now, or the filter being typed.

use crate::app::diff::DiffState;
use crate::app::figures::{count, counted};
use crate::app::keys::{Context, Key};
use crate::app::overlay::Overlay;
use crate::app::pager::wrap;
use crate::app::{App, FilterInput};
use crate::ui::theme::Theme;
use crate::ui::widgets;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Widget};
use tui_input::Input;

pub(super) fn draw(buf: &mut Buffer, area: Rect, app: &App, theme: &Theme) -> Option<Position> {
    let context = app.context();
    let total = app.model.checkpoint.tensors().len();
    let of = |shown: usize, all: usize| {
        format!("{} of {} ", count(shown as u64), counted(all, "tensor"))
    };
    let (sign, filter, found) = match &app.overlay {
        Some(Overlay::Filter(prompt)) => {
            let kind = app.table.filter.kind();
            (" /", &prompt.filter, format!("{kind}  {}", of(app.table.shown_count(), total)))
        }
        Some(Overlay::MarkBy(prompt)) => {
            let (matches, all) = (count(prompt.matches.len() as u64), prompt.quantizable as u64);
            (" *", &prompt.filter, format!("{matches} match, {} quantizable ", count(all)))
        }
        Some(Overlay::Diff(view)) => match (&view.typing, &view.state) {
            (Some(filter), DiffState::Done(differences)) => {
                (" /", filter, of(differences.shown.len(), differences.rows.len()))
            }
            _ => return plain(buf, area, app, theme),
        },
        _ => return plain(buf, area, app, theme),
    };
    // On a narrow screen, or beside a long sentence, there is room for the way out only.
    let narrow = area.width < 100 || filter.problem.is_some();
    let keys_width = if narrow { 1 } else { area.width - area.width / 3 };
    let keys = hints(context, app, keys_width, theme);
    let said = match &filter.problem {
        // It is drawn above, in as many rows as it needs.
        Some(_) => Line::default(),
        None if filter.text().is_empty() => {
            let room = usize::from(area.width).saturating_sub(keys.width() + 8);
            Line::styled(examples(room, context), theme.dim)
        }
        None => Line::styled(found, theme.dim),
    };
    problem(buf, area, filter, theme);
    Some(typed(buf, area, sign, &filter.input, &said, keys, theme))
}

fn plain(buf: &mut Buffer, area: Rect, app: &App, theme: &Theme) -> Option<Position> {
    widgets::line(buf, area, 0, &hints(app.context(), app, area.width, theme));
    None
}

/// Draws what is wrong with the filter that is typed, in the rows above `area`.
pub(super) fn problem(buf: &mut Buffer, area: Rect, filter: &FilterInput, theme: &Theme) {
    let Some(why) = &filter.problem else { return };
    let rows = wrap(why, usize::from(area.width.saturating_sub(2)));
    let first = area.y.saturating_sub(rows.len() as u16);
    for (y, row) in (first..area.y).zip(rows) {
        let line = Rect { y, height: 1, ..area };
        Clear.render(line, buf);
        widgets::line(buf, line, 0, &Line::styled(format!(" {row}"), theme.warning));
    }
}

/// Draws a text that is typed, with what is said about it and the keys at the right.
pub(super) fn typed(
    buf: &mut Buffer,
    area: Rect,
    sign: &str,
    input: &Input,
    said: &Line,
    keys: Line,
    theme: &Theme,
) -> Position {
    let said = said.spans.iter().map(|span| span.clone().patch_style(said.style));
    let right = Line::from_iter(said.chain(keys.spans));
    buf.set_stringn(area.x, area.y, sign, area.width.into(), theme.accent);
    let room = area.width.saturating_sub(right.width() as u16 + 4);
    let typed = Rect::new(area.x + 2, area.y, room, 1);
    let cursor = widgets::input(buf, typed, input, theme);
    let rest = Rect { x: typed.right(), width: area.right() - typed.right(), ..area };
    widgets::ends(buf, rest, 0, &Line::default(), &right);
    cursor
}

/// Examples of filters, as many as fit.
fn examples(room: usize, context: Context) -> String {
    const TENSORS: [&str; 7] =
        ["words", "*glob*", "is:marked", "sqnr<30", "size>10MB", "dtype:f32", "re:regex"];
    const DIFFERENCES: [&str; 5] = ["words", "*glob*", "is:changed", "sqnr<30", "re:regex"];
    let examples = if context == Context::DiffFilter { &DIFFERENCES[..] } else { &TENSORS };
    let mut text = String::new();
    for &example in examples {
        let gap = if text.is_empty() { "" } else { ", " };
        if text.len() + gap.len() + example.len() < room {
            text += gap;
            text += example;
        }
    }
    text + " "
}

/// The keys of a context that have an effect now, as many as fit.
fn hints<'a>(context: Context, app: &App, width: u16, theme: &Theme) -> Line<'a> {
    let mut spans = vec![Span::raw(" ")];
    for (key, word) in shown(context, app, width) {
        spans.push(Span::styled(key.to_string(), theme.accent));
        spans.push(Span::styled(format!(" {word}  "), theme.dim));
    }
    Line::from(spans)
}

/// The key whose hint is at a column.
pub(super) fn at(app: &App, width: u16, x: u16) -> Option<Key> {
    let context = app.context();
    if context.layers().contains(&Context::FilterText) {
        return None;
    }
    let mut left = 1;
    shown(context, app, width).into_iter().find_map(|(key, word)| {
        let start = left;
        left += length(key, word) as u16;
        // The gap after a hint belongs to no key.
        (start..left - 2).contains(&x).then_some(key)
    })
}

/// Width of a hint and the gap after it, in columns.
fn length(key: Key, word: &str) -> usize {
    key.to_string().chars().count() + word.chars().count() + 3
}

fn shown(context: Context, app: &App, width: u16) -> Vec<(Key, &'static str)> {
    let mut hints = Vec::new();
    let mut used = 1;
    // The keys for help and for closing are always shown.
    let always = |key: Key, word: &str| key == Key::Esc || ["help", "quit"].contains(&word);
    let shown = |context: Context| {
        let keys = app.settings.keys.bindings();
        keys.filter(move |(b, _)| context.layers().contains(&b.context) && app.can(b.action))
            .filter_map(|(binding, keys)| Some((*keys.first()?, binding.hint?)))
    };
    let reserved: usize = shown(context)
        .filter(|&(key, word)| always(key, word))
        .map(|(key, word)| length(key, word))
        .sum();
    let mut left = reserved;
    for (key, word) in shown(context) {
        let needed = length(key, word);
        if always(key, word) {
            left -= needed;
        } else if used + needed + left > usize::from(width) {
            continue;
        }
        used += needed;
        hints.push((key, word));
    }
    hints
}
