//! The comparison with another checkpoint.

use crate::app::diff::{Counts, DiffState, DiffView, Differences, describe};
use crate::app::figures::{count, counted, decibels, percent, value};
use crate::app::{App, model_name, names};
use crate::job::diff::{Change, Compared};
use crate::ui::theme::Theme;
use crate::ui::{header, tensors, widgets};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// Widths of the columns to the right of the names.
const CHANGE_WIDTH: usize = 10;
/// The title of differences in words.
const WORDS_TITLE: &str = "difference";
const MIN_DTYPES_WIDTH: usize = 7;
const DTYPES_WIDTH: usize = 15;
/// Optional columns after the SQNR, most useful first, with their widths.
const FIGURE_COLUMNS: [(&str, usize); 3] =
    [("rel. error", 12), ("max error", 12), ("differing", 16)];

pub(super) fn draw(buf: &mut Buffer, area: Rect, app: &App, view: &DiffView, theme: &Theme) {
    let here = model_name(&app.model.checkpoint);
    let there = names::visible(view.prompt.text()).into_owned();
    let title = Line::from(vec![
        Span::styled(names::visible(&here).into_owned(), theme.strong),
        Span::styled(" against ", theme.dim),
        Span::styled(names::shorten(&there, 60).into_owned(), theme.strong),
    ]);
    let title = match &view.state {
        DiffState::Done(differences) if !differences.filter_text.is_empty() => Line::from(vec![
            Span::raw(format!("{} of ", count(differences.shown.len() as u64))),
            Span::raw(format!("{} match ", counted(differences.rows.len(), "tensor"))),
            Span::styled(names::visible(&differences.filter_text).into_owned(), theme.found),
        ]),
        _ => title,
    };
    let rule = Rect { height: 1, ..area };
    let body = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    match &view.state {
        DiffState::Comparing(meter) => {
            widgets::rule(buf, rule, &title, &Line::default(), theme);
            let mut line = vec![Span::styled("  comparing ", theme.accent)];
            line.extend(widgets::bar(meter.share(), 30, theme.accent, theme));
            line.push(Span::raw(format!(" {:>3.0} %", meter.share() * 100.0)));
            line.push(Span::styled(format!("  {}", header::progress(meter)), theme.dim));
            widgets::line(buf, body, 1, &Line::from(line));
        }
        DiffState::Done(differences) => {
            widgets::rule(buf, rule, &title, &counts(&differences.counts, theme), theme);
            done(buf, body, differences, theme);
        }
    }
}

fn counts<'a>(counts: &Counts, theme: &Theme) -> Line<'a> {
    let parts = [
        (counts.changed, "changed", theme.warning),
        (counts.added, "added", theme.good),
        (counts.removed, "removed", theme.bad),
        (counts.reshaped, "reshaped", theme.bad),
        (counts.identical, "identical", theme.dim),
    ];
    let spans = parts.into_iter().filter(|(n, ..)| *n > 0).enumerate().flat_map(|(i, item)| {
        let (n, word, style) = item;
        let gap = if i == 0 { "" } else { ", " };
        [Span::raw(gap), Span::styled(format!("{} {word}", count(n as u64)), style)]
    });
    Line::from(spans.collect::<Vec<_>>())
}

fn done(buf: &mut Buffer, area: Rect, differences: &Differences, theme: &Theme) {
    if differences.rows.is_empty() {
        let text = "  Neither checkpoint has a tensor.";
        return widgets::line(buf, area, 1, &Line::styled(text, theme.dim));
    }
    let width = usize::from(area.width).saturating_sub(6);
    let visible = differences.shown.iter().skip(differences.top()).take(area.height.into());
    let visible = visible.filter_map(|&at| differences.rows.get(at)).map(|row| &row.change);
    let columns = Columns::fitting(width, differences.widest, visible);
    let name = columns.name;
    let mut heads = format!("  {:<name$}  ", "tensor");
    match columns.figures {
        0 => heads.push_str(WORDS_TITLE),
        n => {
            heads += &format!(
                "{:<CHANGE_WIDTH$}{:<dtypes$}{:>8}  {:9}",
                "change",
                "dtype",
                "SQNR",
                "",
                dtypes = columns.dtypes
            );
            for (title, width) in FIGURE_COLUMNS.iter().take(n - 1) {
                heads += &format!("{title:>width$}");
            }
        }
    }
    widgets::line(buf, area, 0, &Line::styled(heads, theme.dim));
    if differences.shown.is_empty() {
        let text = format!("  No difference matches {}.", names::visible(&differences.filter_text));
        return widgets::line(buf, area, 1, &Line::styled(text, theme.dim));
    }
    let visible = differences.shown.iter().enumerate().skip(differences.top());
    for (y, (number, &at)) in (1..area.height).zip(visible) {
        let Some(row) = differences.rows.get(at) else { continue };
        widgets::line(buf, area, y, &line(row, &columns, theme));
        if number == differences.cursor() {
            tensors::highlight(buf, Rect { y: area.y + y, height: 1, ..area }, theme);
        }
    }
}

/// The columns that fit beside the names.
struct Columns {
    name: usize,
    /// Width of the dtypes.
    dtypes: usize,
    /// Width of the description in words.
    words: usize,
    /// Width of the figures from the SQNR on; 0 if the difference is described in words.
    figures: usize,
}

impl Columns {
    /// As many figures as fit beside the longest name; at least the SQNR. `visible` are the changes
    /// on the screen.
    fn fitting<'c>(
        width: usize,
        widest: usize,
        visible: impl Iterator<Item = &'c Change> + Clone,
    ) -> Columns {
        let longest = visible.clone().map(|change| kind(change).chars().count()).max();
        let dtypes = (longest.unwrap_or(0) + 2).clamp(MIN_DTYPES_WIDTH, DTYPES_WIDTH);
        let base = CHANGE_WIDTH + dtypes + 19;
        if width < 30 + base {
            let described = visible.map(|change| names::width(&describe(change))).max();
            let name = width
                .saturating_sub(described.unwrap_or(0).max(WORDS_TITLE.len()) + 2)
                .max(width / 3);
            return Columns { name, dtypes, words: width - name - 2, figures: 0 };
        }
        let mut taken = base;
        let mut figures = 1;
        for (_, needed) in FIGURE_COLUMNS {
            if width < taken + needed + widest.min(60) {
                break;
            }
            taken += needed;
            figures += 1;
        }
        Columns { name: width - taken, dtypes, words: 0, figures }
    }
}

/// A change in the words that matter most.
fn in_short(change: &Change) -> String {
    match change {
        Change::Added { .. } => "only in the other".to_owned(),
        Change::Removed { .. } => "only in this one".to_owned(),
        Change::Reshaped { .. } => "shape changed".to_owned(),
        Change::Common { identical: true, .. } => "identical".to_owned(),
        Change::Common { difference, .. } => match difference {
            None => "bytes differ".to_owned(),
            Some(found) if found.differing == 0 => "equal values".to_owned(),
            Some(found) => format!("changed, {}", decibels(found.sums.statistics().sqnr_db)),
        },
    }
}

/// The dtypes of a change, or its shapes.
fn kind(change: &Change) -> String {
    let kind = match change {
        Change::Added { dtype, .. } | Change::Removed { dtype, .. } => dtype.to_string(),
        Change::Reshaped { from, to } => format!("{from} → {to}"),
        Change::Common { from, to, .. } if from == to => from.to_string(),
        Change::Common { from, to, .. } => format!("{from} → {to}"),
    };
    names::visible(&kind).into_owned()
}

fn line<'a>(row: &Compared, columns: &Columns, theme: &Theme) -> Line<'a> {
    let name = columns.name;
    let text = names::visible(&row.name);
    let text = names::shorten(&text, name);
    let pad = " ".repeat(name - names::width(&text));
    let quiet = matches!(row.change, Change::Common { identical: true, .. });
    let name = Span::styled(format!("  {text}{pad}  "), if quiet { theme.dim } else { theme.text });
    if columns.figures == 0 {
        let text = names::visible(&describe(&row.change)).into_owned();
        let text = if names::width(&text) <= columns.words { text } else { in_short(&row.change) };
        return Line::from(vec![name, Span::raw(text)]);
    }
    let (word, style): (_, Style) = match &row.change {
        Change::Added { .. } => ("added", theme.good),
        Change::Removed { .. } => ("removed", theme.bad),
        Change::Reshaped { .. } => ("reshaped", theme.bad),
        Change::Common { identical: true, .. } => ("identical", theme.dim),
        Change::Common { from, to, .. } if from != to => ("re-typed", theme.warning),
        Change::Common { .. } => ("changed", theme.warning),
    };
    let kind = kind(&row.change);
    let mut spans = vec![name, Span::styled(format!("{word:<CHANGE_WIDTH$}"), style)];
    if let Change::Reshaped { .. } = row.change {
        spans.push(Span::styled(kind, theme.dim));
        return Line::from(spans);
    }
    let dtypes = columns.dtypes;
    let kind = names::shorten(&kind, dtypes - 1).into_owned();
    spans.push(Span::styled(format!("{kind:<dtypes$}"), theme.dim));
    if let Change::Common { difference: Some(found), identical: false, .. } = &row.change {
        let error = found.sums.statistics();
        let [figure, word] = widgets::rating(error.sqnr_db, theme);
        spans.extend([figure, word]);
        let texts =
            [percent(error.relative_error), value(error.max_abs_error), count(found.differing)];
        for (text, (_, width)) in texts.iter().zip(FIGURE_COLUMNS).take(columns.figures - 1) {
            spans.push(Span::raw(format!("{text:>width$}")));
        }
    }
    Line::from(spans)
}
