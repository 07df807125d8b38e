//! The schemes of a tensor side by side.

use crate::app::comparison::{ComparedScheme, compared};
use crate::app::figures::{bytes, count, decibels, gained, percent};
use crate::app::pager::wrap;
use crate::app::tensor_metrics::{Cost, SCHEMES};
use crate::app::{App, texts};
use crate::quantization::{NotQuantizable, Outcome, QuantizationScheme};
use crate::tensor::TensorId;
use crate::ui::theme::Theme;
use crate::ui::{tensors, widgets};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

pub(super) fn draw(buf: &mut Buffer, area: Rect, app: &App, id: TensorId, theme: &Theme) {
    let rows = compared(&app.model);
    let is_int8 = rows.iter().all(|row| row.saved == SCHEMES.contains(&row.scheme));
    let columns = SchemeColumns::fitting(area.width.into());
    let heads = columns.heads(if is_int8 { "int8" } else { "scheme" });
    widgets::line(buf, area, 0, &Line::styled(heads, theme.dim));
    let cursor = app.scheme_in_tab(id).filter(|_| app.zoomed);
    // The row under the cursor is always visible.
    let at = rows.iter().position(|row| Some(row.scheme) == cursor).unwrap_or(0);
    let first = (at + 2).saturating_sub(area.height.into());
    let mut y = 1;
    for row in rows.iter().skip(first) {
        // A failed measurement is reported below the schemes that need none.
        if !row.saved
            && let Some(why) = app.comparison.failure(id)
        {
            widgets::line(buf, area, y, &Line::styled(why.to_owned(), theme.bad));
            y += rows.iter().filter(|row| !row.saved).count() as u16;
            break;
        }
        let line = compared_scheme(app, id, row, columns, theme);
        widgets::line(buf, area, y, &Line::from(line));
        if Some(row.scheme) == cursor && y < area.height {
            let x = area.x.saturating_sub(2);
            let row = Rect { x, y: area.y + y, width: area.width + 4, height: 1 };
            tensors::highlight(buf, row, theme);
        }
        y += 1;
    }
    let advice = advice(app, id);
    let mut say = |text: &str, style: Style| {
        for row in wrap(text, area.width.into()) {
            widgets::line(buf, area, y, &Line::styled(row, style));
            y += 1;
        }
    };
    if !advice.is_empty() {
        say(&advice, theme.text);
    }
    // Explains the names if there is room left.
    if area.height > 24 || rows.len() as u16 + 7 < area.height {
        say("", theme.dim);
        let presets = rows.iter().filter_map(|row| Some((&*row.name, row.scheme.preset()?)));
        let presets = presets.map(|(name, preset)| (name, texts::preset_meaning(preset)));
        let axes = app.model.checkpoint.tensor(id).shape.channel_axes();
        let said = texts::scheme_meanings(Some(axes)).into_iter().chain(if is_int8 {
            Some(("fp8, int4", "for comparison; the target holds int8"))
        } else {
            None
        });
        let said = presets.chain(said);
        said.for_each(|(name, meaning)| say(&format!("{name:<12} {meaning}"), theme.dim));
    }
}

/// The line of one scheme in the Schemes tab.
fn compared_scheme<'a>(
    app: &App,
    id: TensorId,
    row: &ComparedScheme,
    columns: SchemeColumns,
    theme: &Theme,
) -> Vec<Span<'a>> {
    let scheme = row.scheme;
    let now = app.model.scheme_of(id);
    let chosen = scheme == now;
    let allowed = app.model.schemes().contains(&scheme);
    let style = match (chosen, allowed, row.saved) {
        (true, ..) => theme.strong,
        (false, true, _) => theme.text,
        (false, false, true) => theme.faint,
        (false, false, false) => theme.dim,
    };
    let figures = if row.saved { theme.text } else { theme.dim };
    let mut spans = vec![Span::styled(format!("{:<12}", row.name), style)];
    let outcome = app.comparison.outcome(id, scheme);
    let compared = outcome.and_then(|outcome| match &outcome.result {
        Ok(found) => found.error.map(|sums| (sums.statistics(), None)),
        Err(_) => None,
    });
    let measured = match app.model.cost(id, scheme) {
        Some(Cost::Error { error, scales, .. }) => Some((*error, Some(*scales))),
        Some(Cost::Impossible(_)) => None,
        None => compared,
    };
    let Some((error, scales)) = measured else {
        let text = match app.model.cost(id, scheme) {
            Some(Cost::Impossible(NotQuantizable::DoesNotFit { why, .. })) => {
                format!("  does not fit: {why}")
            }
            None if outcome.is_none() => {
                spans.push(Span::styled(format!("{:>8}", "…"), theme.faint));
                return spans;
            }
            _ => format!("{:>8}", "no scale"),
        };
        spans.push(Span::styled(text, theme.bad));
        return spans;
    };
    let [figure, word] = widgets::rating(error.sqnr_db, theme);
    spans.push(figure);
    if columns.gauge {
        spans.push(Span::raw("  "));
        spans.extend(widgets::gauge(error.sqnr_db, 12, theme));
    }
    spans.push(word);
    let base = app.model.error(id, now).map(|error| error.sqnr_db);
    let gain = match base {
        Some(base) if row.saved && !chosen && (error.sqnr_db - base).is_finite() => {
            gained(error.sqnr_db - base)
        }
        _ => String::new(),
    };
    let size = bytes(app.model.bytes(id, scheme));
    spans.push(Span::styled(format!("{gain:>9}{size:>10}"), figures));
    let scales = scales.filter(|_| row.saved).map(count).unwrap_or_default();
    if columns.scales {
        spans.push(Span::styled(format!("{scales:>9}"), figures));
    }
    let mut rest = String::new();
    if columns.relative_error {
        rest += &format!("{:>11}", percent(error.relative_error));
    }
    if columns.zeroed {
        rest += &format!("{:>10}", percent(error.zeroed));
    }
    if columns.worst_channel {
        rest += &format!("{:>15}", worst_channel(outcome));
    }
    if columns.saved {
        rest += &format!("{:>6}", if row.saved { "yes" } else { "no" });
    }
    spans.push(Span::styled(rest, theme.dim));
    spans
}

/// The columns of the schemes beside name, SQNR, gain and bytes, as far as there is room.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct SchemeColumns {
    saved: bool,
    worst_channel: bool,
    relative_error: bool,
    gauge: bool,
    zeroed: bool,
    scales: bool,
}

impl SchemeColumns {
    /// The columns for a width, added in order of usefulness.
    fn fitting(width: usize) -> SchemeColumns {
        let mut room = width.saturating_sub(50);
        let mut take = |needed: usize| {
            let fits = room >= needed;
            room -= if fits { needed } else { 0 };
            fits
        };
        SchemeColumns {
            saved: take(6),
            worst_channel: take(15),
            relative_error: take(11),
            gauge: take(14),
            zeroed: take(10),
            scales: take(9),
        }
    }

    fn heads(self, first: &str) -> String {
        let optional = |shown: bool, head: &str, width: usize| {
            if shown { format!("{head:>width$}") } else { String::new() }
        };
        [
            format!("{first:<12}{:>8}", "SQNR"),
            optional(self.gauge, "", 14),
            format!("{:<11}{:>9}{:>10}", "", "gain", "bytes"),
            optional(self.scales, "scales", 9),
            optional(self.relative_error, "rel. error", 11),
            optional(self.zeroed, "zeroed", 10),
            optional(self.worst_channel, "worst channel", 15),
            optional(self.saved, "saved", 6),
        ]
        .concat()
    }
}

/// The SQNR of the channel with the largest loss, and its index.
fn worst_channel(outcome: Option<&Outcome>) -> String {
    let channels = outcome.and_then(|outcome| outcome.result.as_ref().ok()?.channels.as_ref());
    match channels.and_then(|channels| channels.worst()) {
        Some((channel, db)) => format!("{}, {channel}", decibels(db)),
        None => String::new(),
    }
}

/// Suggests another scheme if it would recover much precision.
pub(super) fn advice(app: &App, id: TensorId) -> String {
    let now = app.model.scheme_of(id);
    let error = |scheme| app.model.error(id, scheme);
    let Some(before) = error(now) else { return String::new() };
    let channel = error(QuantizationScheme::PER_CHANNEL).map(|e| e.sqnr_db);
    let block = error(QuantizationScheme::per_block(32)).map(|e| e.sqnr_db);
    let worth = |db: Option<f64>, least: f64| {
        db.map(|db| db - before.sqnr_db).filter(|gain| gain.is_finite() && *gain >= least)
    };
    let only = now == QuantizationScheme::PER_TENSOR;
    match (worth(channel, 3.0).filter(|_| only), worth(block, 6.0)) {
        (Some(gain), _) => format!("per channel recovers {gain:.1} dB here"),
        (None, Some(gain)) => format!("blocks of 32 recover {gain:.1} dB here"),
        (None, None) => String::new(),
    }
}
