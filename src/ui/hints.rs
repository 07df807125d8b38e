//! The last line: the keys that have an effect now, or the filter being typed.

use crate::app::App;
use crate::app::figures::{count, counted};
use crate::app::keys::{Context, Key};
use crate::app::overlay::Overlay;
use crate::ui::theme::Theme;
use crate::ui::widgets;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};

pub(super) fn draw(buf: &mut Buffer, area: Rect, app: &App, theme: &Theme) -> Option<Position> {
    let Some(Overlay::Filter(prompt)) = &app.overlay else {
        widgets::line(buf, area, 0, &hints(app.context(), app, area.width, theme));
        return None;
    };
    let total = app.model.checkpoint.tensors().len();
    // On a narrow screen, or beside a long sentence, only the key to close the filter fits.
    let narrow = area.width < 100 || prompt.problem.is_some();
    let keys_width = if narrow { 1 } else { area.width };
    let keys = hints(Context::Filter, app, keys_width, theme);
    let found = match (&prompt.problem, app.table.shown_count()) {
        (Some(why), _) => Line::styled(format!("{why} "), theme.warning),
        (None, _) if prompt.input.value().is_empty() => {
            let room = usize::from(area.width).saturating_sub(keys.width() + 8);
            Line::styled(examples(room), theme.dim)
        }
        (None, shown) => {
            let kind = app.table.filter.kind();
            let of = counted(total, "tensor");
            Line::styled(format!("{kind}  {} of {of} ", count(shown as u64)), theme.dim)
        }
    };
    let found = Line::from_iter(
        found.spans.into_iter().map(|s| s.patch_style(found.style)).chain(keys.spans),
    );
    buf.set_stringn(area.x, area.y, " /", area.width.into(), theme.accent);
    let room = area.width.saturating_sub(found.width() as u16 + 4);
    let typed = Rect::new(area.x + 2, area.y, room, 1);
    let cursor = widgets::input(buf, typed, &prompt.input, theme);
    widgets::ends(
        buf,
        Rect { x: typed.right(), width: area.right() - typed.right(), ..area },
        0,
        &Line::default(),
        &found,
    );
    Some(cursor)
}

/// Examples of filters, as many as fit.
fn examples(room: usize) -> String {
    const EXAMPLES: [&str; 7] =
        ["words", "*glob*", "is:marked", "sqnr<30", "size>10MB", "dtype:f32", "re:regex"];
    let mut text = String::new();
    for example in EXAMPLES {
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
    if let Some(Overlay::Filter(_)) = app.overlay {
        return None;
    }
    let mut left = 1;
    shown(app.context(), app, width).into_iter().find_map(|(key, word)| {
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
