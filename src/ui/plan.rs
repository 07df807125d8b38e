//! The plan line: the marks, the size of the output, and its error. The rule above it shows the
//! status message.

use crate::app::figures::{bytes, count, counted, decibels};
use crate::app::pager::wrap;
use crate::app::{App, names, ratio};
use crate::plan::target::Container;
use crate::ui::layout::Layout;
use crate::ui::theme::Theme;
use crate::ui::widgets;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Widget};

pub(super) fn draw(buf: &mut Buffer, layout: &Layout, app: &App, theme: &Theme) {
    let (text, style) = match &app.status {
        Some(status) if status.warning => {
            (names::visible(&status.text).into_owned(), theme.warning)
        }
        Some(status) => (names::visible(&status.text).into_owned(), theme.text),
        None => (left_out(app, layout.status.width), theme.dim),
    };
    // A message that is longer than the rule begins above it.
    let mut rows = wrap(&text, usize::from(layout.status.width.saturating_sub(5)));
    let last = rows.pop().unwrap_or_default();
    let first = layout.status.y.saturating_sub(rows.len() as u16);
    for (y, row) in (first..layout.status.y).zip(rows) {
        let line = Rect { y, height: 1, ..layout.status };
        Clear.render(line, buf);
        widgets::line(buf, line, 0, &Line::styled(format!("  {row}"), style));
    }
    widgets::rule(buf, layout.status, &Line::styled(last, style), &Line::default(), theme);
    widgets::line(buf, layout.plan, 0, &plan(app, layout.plan.width, theme));
}

/// Why the tensor under the cursor is not quantized by default. One word if the sentence does
/// not fit.
fn left_out(app: &App, width: u16) -> String {
    let unmarked = app.current_tensor().filter(|&id| !app.model.is_marked(id));
    let id = unmarked.filter(|_| app.overlays().next().is_none());
    let Some(reason) = id.and_then(|id| app.model.reason(id)) else { return String::new() };
    let sentence = format!("left as it is: {reason}");
    if names::width(&sentence) + 4 < usize::from(width) {
        sentence
    } else {
        format!("left as it is: {}", reason.word())
    }
}

fn plan<'a>(app: &App, width: u16, theme: &Theme) -> Line<'a> {
    let mut spans = vec![Span::styled(" plan  ", theme.strong)];
    if app.model.plan().is_empty() {
        let text = match app.model.has_floats() {
            true if width < 80 => "nothing marked".to_owned(),
            true => format!("nothing marked: {}", app.how_to_mark()),
            false => "no tensor can be quantized".to_owned(),
        };
        spans.push(Span::styled(text, theme.dim));
        return Line::from(spans);
    }
    let totals = app.model.totals();
    let quality = app.model.quality();
    let marked = match width {
        0..80 => format!("● {} marked", count(totals.marked as u64)),
        _ => format!("● {} marked", counted(totals.marked, "tensor")),
    };
    let gap = if width >= 110 { "    " } else { "  " };
    spans.push(Span::styled(marked, theme.mark));
    spans.push(Span::raw(gap));
    let (before, after) = (bytes(totals.before), bytes(totals.after));
    let as_floats = app.model.plan().target.container() == Container::FakeQuantized;
    spans.push(Span::raw(match (as_floats, width) {
        (false, _) => format!("{before} → {after}"),
        (true, 0..80) => format!("{before} as floats"),
        (true, _) => format!("{before} as floats, {after} in int8"),
    }));
    if width >= 110 && !as_floats {
        spans.push(Span::styled(format!("  {}", ratio(totals.before, totals.after)), theme.dim));
    }
    match (quality.mean, quality.worst) {
        (Some(mean), Some(worst)) => {
            let (word, style) = theme.rate(worst);
            let mean = [
                Span::styled(format!("{gap}mean "), theme.dim),
                Span::styled(decibels(mean), theme.rate(mean).1),
            ];
            let worst = [
                Span::styled("  worst ", theme.dim),
                Span::styled(format!("{} {word}", decibels(worst)), style),
            ];
            // Words give way to the rating where there is no room for both.
            let used: usize = spans.iter().chain(&worst).map(Span::width).sum();
            if let Some(marked) = spans.get_mut(1).filter(|_| used > width.into()) {
                marked.content = format!("● {}", count(totals.marked as u64)).into();
            }
            // The mean is left out where there is no room for both.
            let needed = spans.iter().chain(&mean).chain(&worst).map(Span::width).sum::<usize>();
            if needed <= width.into() {
                spans.extend(mean);
            }
            spans.extend(worst);
        }
        _ => spans.push(Span::styled(format!("{gap}not measured yet"), theme.dim)),
    }
    if quality.waiting > 0 && quality.mean.is_some() {
        let waiting = format!("  {} to measure", quality.waiting);
        let used: usize = spans.iter().map(Span::width).sum();
        if used + waiting.len() <= width.into() {
            spans.push(Span::styled(waiting, theme.dim));
        }
    }
    Line::from(spans)
}
