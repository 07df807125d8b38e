//! The histogram of a tensor, the int8 levels below it, and the clip.

use crate::app::App;
use crate::app::figures::{count, decibels, percent, value};
use crate::app::histogram::Clipped;
use crate::app::pager::wrap;
use crate::app::tensor_metrics::TensorMetrics;
use crate::quantization::{QuantizationScheme, ValueHistogram};
use crate::tensor::TensorId;
use crate::ui::theme::Theme;
use crate::ui::{layout, widgets};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

pub(super) fn draw(
    buf: &mut Buffer,
    area: Rect,
    app: &App,
    id: TensorId,
    metrics: &TensorMetrics,
    theme: &Theme,
) {
    let mut say = |text: &str, style: Style| {
        for (y, row) in (1..).zip(wrap(text, area.width.min(96).into())) {
            widgets::line(buf, area, y, &Line::styled(row, style));
        }
    };
    let histogram = match app.histogram.histogram(id, metrics) {
        Some(Ok(histogram)) => histogram,
        Some(Err(why)) => return say(why, theme.bad),
        None => return say("counting …", theme.dim),
    };
    if metrics.statistics.absmax.is_nan() || histogram.is_empty() {
        return say("No element is finite.", theme.dim);
    }
    let [plot, figures] = layout::histogram(area);
    let log = bars(buf, plot, app, metrics, histogram, theme);
    let judged = app.histogram.clipped;
    match judged {
        Some(clipped) => {
            let lines = sentences(app, metrics, &clipped, log, theme);
            for (y, line) in (0..).zip(&lines) {
                widgets::line(buf, figures, y, line);
            }
        }
        None => {
            let text = "Cannot be quantized: no scale.";
            widgets::line(buf, figures, 0, &Line::styled(text, theme.bad));
        }
    }
}

/// Draws the bars. Returns whether their heights are logarithms of the counts.
fn bars(
    buf: &mut Buffer,
    area: Rect,
    app: &App,
    metrics: &TensorMetrics,
    histogram: &ValueHistogram,
    theme: &Theme,
) -> bool {
    if area.height < 4 || area.width < 16 {
        return false;
    }
    let absmax = match metrics.statistics.absmax {
        0.0 => 1.0,
        absmax => absmax,
    };
    let height = area.height - 2;
    let columns = usize::from(area.width);
    let counts = histogram.rebin(-absmax, absmax, columns);
    let log = app.histogram.is_log(&counts);
    let weigh = |count: f64| if log { count.ln_1p() } else { count };
    let highest = counts.iter().copied().map(weigh).fold(0.0, f64::max);
    let width = 2.0 * absmax / columns as f64;
    let clipped = app.histogram.clipped;
    let clip = clipped.map_or(absmax, |clipped| clipped.clip);
    let half = clipped.map_or(0.0, |clipped| f64::from(clipped.scale) / 2.0);
    for (column, &count) in counts.iter().enumerate() {
        let middle = -absmax + (column as f64 + 0.5) * width;
        let style = match middle.abs() {
            x if x > clip => theme.bad,
            x if x < half.max(width / 2.0) => theme.warning,
            _ => theme.accent,
        };
        let share = if highest > 0.0 { weigh(count) / highest } else { 0.0 };
        let mut eighths = (share * f64::from(height) * 8.0).round() as u32;
        // A bar with any element is visible, however few there are.
        eighths = eighths.max(u32::from(count > 0.0));
        let x = area.x + column as u16;
        for row in 0..height {
            let here = eighths.saturating_sub(u32::from(row) * 8).min(8) as u8;
            if here > 0 {
                let symbol = widgets::column(here).to_string();
                buf[(x, area.y + height - 1 - row)].set_symbol(&symbol).set_style(style);
            }
        }
    }
    let column_of = |value: f64| {
        let column = ((value + absmax) / width).clamp(0.0, columns as f64 - 1.0);
        area.x + column as u16
    };
    axis(buf, Rect { y: area.y + height, height: 2, ..area }, clip, absmax, column_of, theme);
    if clip < absmax {
        for x in [column_of(-clip), column_of(clip)] {
            for y in area.y..area.y + height {
                if buf[(x, y)].symbol() == " " {
                    buf[(x, y)].set_symbol("┊").set_style(theme.bad);
                }
            }
        }
    }
    log
}

/// Draws the int8 levels and the values at their ends.
fn axis(
    buf: &mut Buffer,
    area: Rect,
    clip: f64,
    absmax: f64,
    column_of: impl Fn(f64) -> u16,
    theme: &Theme,
) {
    for x in area.left()..area.right() {
        buf[(x, area.y)].set_symbol("─").set_style(theme.faint);
    }
    // Every 16th level; all of them would be closer than characters.
    for step in -8i32..=8 {
        let q = (f64::from(step) * 16.0).clamp(-127.0, 127.0);
        let x = column_of(q / 127.0 * clip);
        let symbol = if step % 8 == 0 { "┼" } else { "┴" };
        buf[(x, area.y)].set_symbol(symbol).set_style(theme.dim);
    }
    let mut put = |x: u16, text: &str, style: Style| {
        let width = text.chars().count() as u16;
        let left = x.saturating_sub(width / 2).clamp(area.x, area.right().saturating_sub(width));
        buf.set_stringn(left, area.y + 1, text, width.into(), style);
    };
    put(area.x, &value(-absmax), theme.dim);
    put(area.right(), &value(absmax), theme.dim);
    put(column_of(0.0), "0", theme.dim);
    let inner = column_of(clip);
    if clip < absmax && inner + 16 < area.right() && inner > column_of(0.0) + 8 {
        put(inner, "q 127", theme.bad);
        put(column_of(-clip), "q −127", theme.bad);
    }
}

fn sentences<'a>(
    app: &App,
    metrics: &TensorMetrics,
    clipped: &Clipped,
    log: bool,
    theme: &Theme,
) -> Vec<Line<'a>> {
    let label = |text: &'static str| Span::styled(format!("{text:<9}"), theme.dim);
    let error = &clipped.error;
    let (word, style) = theme.rate(error.sqnr_db);
    let whole = metrics.statistics.count;
    let share = |n: u64| percent(n as f64 / whole.max(1) as f64);
    let about = if clipped.exact { "" } else { "≈ " };
    let plain = metrics.error(QuantizationScheme::PER_TENSOR).map(|error| error.sqnr_db);
    let gain = match plain.map(|db| error.sqnr_db - db).filter(|gain| gain.is_finite()) {
        Some(gain) if clipped.share < 1.0 => format!("  {about}{gain:+.1} dB").replace('-', "−"),
        _ => String::new(),
    };
    let mut lines = vec![
        Line::from(vec![
            label("clip"),
            Span::styled(format!("{:.1} %", clipped.share * 100.0), theme.strong),
            Span::styled(format!(" of absmax, ±{}", value(clipped.clip)), theme.dim),
        ]),
        Line::from(vec![
            label("SQNR"),
            Span::styled(format!("{about}{} {}", decibels(error.sqnr_db), word), style),
            Span::raw(gain),
        ]),
        Line::from(vec![
            label("clipped"),
            Span::raw(format!("{about}{}", count(clipped.beyond))),
            match clipped.beyond {
                0 => Span::raw(""),
                n => Span::styled(format!("  {}", share(n)), theme.bad),
            },
        ]),
        Line::from(vec![
            label("zeroed"),
            Span::styled(format!("{about}{}", percent(error.zeroed)), theme.warning),
            Span::styled(" of the non-zero elements", theme.dim),
        ]),
        Line::from(vec![
            label("levels"),
            Span::raw(format!("{about}{} of 255", error.levels_used)),
            Span::styled(format!(", {} apart", value(clipped.scale.into())), theme.dim),
        ]),
    ];
    let best = app.histogram.best.as_ref();
    if let Some(best) = best {
        let about = if best.exact { "" } else { "≈ " };
        lines.push(Line::from(vec![
            label("best"),
            Span::raw(format!("{about}{}", decibels(best.error.sqnr_db))),
            Span::styled(format!(" at {:.1} %, least MSE", best.share * 100.0), theme.dim),
        ]));
    }
    let scale = if log { "log counts" } else { "linear counts" };
    let counted = if clipped.exact && best.is_none_or(|best| best.exact) {
        format!("{scale}, every value counted")
    } else {
        format!("{scale}; ≈ from bins 1/128 wide")
    };
    lines.push(Line::styled(counted, theme.faint));
    let key = |key: &'static str, word: &'static str| {
        [Span::styled(key, theme.accent), Span::styled(format!(" {word}  "), theme.dim)]
    };
    let keys = [key("[ ]", "clip"), key("=", "keep"), key("%", "log")];
    lines.push(Line::from(keys.concat()));
    lines
}
