//! The plan line: the marks, the size of the output, and its error. The rule above it shows the
//! status message.

use crate::app::figures::{bytes, count, counted, decibels};
use crate::app::{App, names, ratio};
use crate::ui::layout::Layout;
use crate::ui::theme::Theme;
use crate::ui::widgets;
use ratatui::buffer::Buffer;
use ratatui::text::{Line, Span};

pub(super) fn draw(buf: &mut Buffer, layout: &Layout, app: &App, theme: &Theme) {
    let status = match &app.status {
        Some(status) => {
            let style = if status.warning { theme.warning } else { theme.text };
            Line::styled(names::visible(&status.text).into_owned(), style)
        }
        None => Line::styled(left_out(app, layout.status.width), theme.dim),
    };
    widgets::rule(buf, layout.status, &status, &Line::default(), theme);
    widgets::line(buf, layout.plan, 0, &plan(app, layout.plan.width, theme));
}

/// Why the tensor under the cursor is not quantized by default. One word if the sentence does
/// not fit.
fn left_out(app: &App, width: u16) -> String {
    let unmarked = app.current_tensor().filter(|&id| !app.model.is_marked(id));
    let id = unmarked.filter(|_| app.overlays().next().is_none());
    let Some(reason) = id.and_then(|id| app.model.reason(id)) else { return String::new() };
    let sentence = format!("left as it is: {reason}");
    match names::width(&sentence) + 4 < usize::from(width) {
        true => sentence,
        false => format!("left as it is: {}", reason.word()),
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
    spans.push(Span::raw(format!("{} → {}", bytes(totals.before), bytes(totals.after))));
    if width >= 110 {
        spans.push(Span::styled(format!("  {}", ratio(totals.before, totals.after)), theme.dim));
    }
    match (quality.mean, quality.worst) {
        (Some(mean), Some(worst)) => {
            if width >= 80 {
                spans.push(Span::styled(format!("{gap}mean "), theme.dim));
                spans.push(Span::styled(decibels(mean), theme.judge(mean).1));
            }
            spans.push(Span::styled("  worst ", theme.dim));
            let (word, style) = theme.judge(worst);
            spans.push(Span::styled(format!("{} {word}", decibels(worst)), style));
        }
        _ => spans.push(Span::styled(format!("{gap}not measured yet"), theme.dim)),
    }
    if quality.waiting > 0 && quality.mean.is_some() {
        spans.push(Span::styled(format!("  {} to measure", quality.waiting), theme.dim));
    }
    Line::from(spans)
}
