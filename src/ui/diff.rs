//! The comparison with another checkpoint.

use super::theme::Theme;
use super::{header, paint, tensors};
use crate::app::diff::{Counts, DiffState, DiffView, Differences, describe};
use crate::app::figures::{count, percent, value};
use crate::app::{App, model_name, names};
use crate::job::diff::{Change, Compared};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// Columns of the figures, right of the names.
const CHANGE: usize = 10;
const DTYPES: usize = 15;
const FIGURES: usize = 58;

pub fn draw(buf: &mut Buffer, area: Rect, app: &App, view: &DiffView, theme: &Theme) {
    let here = model_name(&app.model.checkpoint);
    let there = names::visible(view.prompt.text()).into_owned();
    let title = Line::from(vec![
        Span::styled(names::visible(&here).into_owned(), theme.strong),
        Span::styled(" against ", theme.dim),
        Span::styled(names::shorten(&there, 60).into_owned(), theme.strong),
    ]);
    let rule = Rect { height: 1, ..area };
    let body = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    match &view.state {
        DiffState::Comparing(meter) => {
            paint::rule(buf, rule, &title, &Line::default(), theme);
            let mut line = vec![Span::styled("  comparing ", theme.accent)];
            line.extend(paint::bar(meter.share(), 30, theme.accent, theme));
            line.push(Span::raw(format!(" {:>3.0} %", meter.share() * 100.0)));
            line.push(Span::styled(format!("  {}", header::progress(meter)), theme.dim));
            paint::line(buf, body, 1, &Line::from(line));
        }
        DiffState::Done(differences) => {
            paint::rule(buf, rule, &title, &counts(&differences.counts, theme), theme);
            done(buf, body, differences, theme);
        }
    }
}

fn counts<'a>(counts: &Counts, theme: &Theme) -> Line<'a> {
    let said = [
        (counts.changed, "changed", theme.warning),
        (counts.added, "added", theme.good),
        (counts.removed, "removed", theme.bad),
        (counts.reshaped, "reshaped", theme.bad),
        (counts.identical, "identical", theme.dim),
    ];
    let spans = said.into_iter().filter(|(n, ..)| *n > 0).enumerate().flat_map(|(i, item)| {
        let (n, word, style) = item;
        let gap = if i == 0 { "" } else { ", " };
        [Span::raw(gap), Span::styled(format!("{} {word}", count(n as u64)), style)]
    });
    Line::from(spans.collect::<Vec<_>>())
}

fn done(buf: &mut Buffer, area: Rect, differences: &Differences, theme: &Theme) {
    if differences.rows.is_empty() {
        let text = "  Neither of them holds a tensor.";
        return paint::line(buf, area, 1, &Line::styled(text, theme.dim));
    }
    let width = usize::from(area.width).saturating_sub(4);
    let full = width >= 30 + CHANGE + DTYPES + FIGURES;
    let name = match full {
        true => width - CHANGE - DTYPES - FIGURES - 2,
        false => width.saturating_sub(28) / 2,
    };
    let heads = match full {
        true => format!(
            "  {:<name$}  {:<CHANGE$}{:<DTYPES$}{:>8}  {:9}{:>12}{:>11}{:>16}",
            "tensor", "change", "dtype", "SQNR", "", "rel. error", "max error", "differing"
        ),
        false => format!("  {:<name$}  difference", "tensor"),
    };
    paint::line(buf, area, 0, &Line::styled(heads, theme.dim));
    let visible = differences.rows.iter().enumerate().skip(differences.top());
    for (y, (number, row)) in (1..area.height).zip(visible) {
        paint::line(buf, area, y, &line(row, name, full, theme));
        if number == differences.cursor() {
            tensors::highlight(buf, Rect { y: area.y + y, height: 1, ..area }, theme);
        }
    }
}

fn line<'a>(row: &Compared, name: usize, full: bool, theme: &Theme) -> Line<'a> {
    let text = names::visible(&row.name);
    let text = names::shorten(&text, name);
    let pad = " ".repeat(name - names::width(&text));
    let quiet = matches!(row.change, Change::Common { identical: true, .. });
    let name = Span::styled(format!("  {text}{pad}  "), if quiet { theme.dim } else { theme.text });
    if !full {
        let text = describe(&row.change);
        return Line::from(vec![name, Span::raw(names::visible(&text).into_owned())]);
    }
    let (word, style): (_, Style) = match &row.change {
        Change::Added { .. } => ("added", theme.good),
        Change::Removed { .. } => ("removed", theme.bad),
        Change::Reshaped { .. } => ("reshaped", theme.bad),
        Change::Common { identical: true, .. } => ("identical", theme.dim),
        Change::Common { from, to, .. } if from != to => ("re-typed", theme.warning),
        Change::Common { .. } => ("changed", theme.warning),
    };
    let kind = match &row.change {
        Change::Added { dtype, .. } | Change::Removed { dtype, .. } => dtype.to_string(),
        Change::Reshaped { from, to } => format!("{from} → {to}"),
        Change::Common { from, to, .. } if from == to => from.to_string(),
        Change::Common { from, to, .. } => format!("{from} → {to}"),
    };
    let kind = names::visible(&kind).into_owned();
    let mut spans = vec![name, Span::styled(format!("{word:<CHANGE$}"), style)];
    if let Change::Reshaped { .. } = row.change {
        spans.push(Span::styled(kind, theme.dim));
        return Line::from(spans);
    }
    let kind = names::shorten(&kind, DTYPES - 1).into_owned();
    spans.push(Span::styled(format!("{kind:<DTYPES$}"), theme.dim));
    if let Change::Common { difference: Some(found), identical: false, .. } = &row.change {
        let error = found.sums.statistics();
        let [figure, word] = paint::verdict(error.sqnr_db, theme);
        spans.extend([figure, word]);
        spans.push(Span::raw(format!(
            "{:>12}{:>11}{:>16}",
            percent(error.relative_error),
            value(error.max_abs_error),
            count(found.differing)
        )));
    }
    Line::from(spans)
}
