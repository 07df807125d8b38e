//! The budget: the curve of bytes against error, and the position of the marks on it.

use crate::app::budget::Budget;
use crate::app::figures::{bytes, count, counted, decibels, percent};
use crate::app::keys::Context;
use crate::app::overlay::Overlay;
use crate::app::tensor_metrics::scheme_name;
use crate::app::{Action, App, names, ratio};
use crate::plan::budget::Point;
use crate::plan::gguf_baseline::MixPoint;
use crate::plan::target::Container;
use crate::ui::theme::Theme;
use crate::ui::{layout, widgets};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;
use ratatui::widgets::canvas::{Canvas, Line as Stroke};

pub(super) fn draw(buf: &mut Buffer, area: Rect, app: &App, budget: &Budget, theme: &Theme) {
    let rule = Rect { height: 1, ..area };
    let error = match app.model.outputs {
        None => "error: Σ(x−x̂)² / Σx² of the weights, mean over ",
        Some(_) => "error: ‖Wx−Ŵx‖² / ‖Wx‖² of the outputs, mean over ",
    };
    let averaged = match app.model.container() {
        Container::Gguf => "layers",
        _ => "parameters",
    };
    let right = Line::styled(format!("{error}{averaged}"), theme.dim);
    widgets::rule(buf, rule, &Line::styled("budget", theme.accent), &right, theme);
    figures(buf, layout::budget_figures(area), app, budget, theme);
    if let Some(plot) = layout::curve(area) {
        curve(buf, plot, budget, theme);
    }
}

fn figures(buf: &mut Buffer, area: Rect, app: &App, budget: &Budget, theme: &Theme) {
    let point = budget.point();
    let before = app.model.checkpoint.total_bytes();
    let label = |text: &'static str| Span::styled(format!("{text:<9}"), theme.dim);
    let mut lines = vec![
        Line::from(vec![
            label("size"),
            Span::styled(format!("{:>8}", bytes(point.bytes)), theme.strong),
            Span::styled(format!("  {}", ratio(before, point.bytes)), theme.dim),
        ]),
        error(app, label("error"), budget.share(point), theme),
        step(app, budget, label("last"), theme),
        Line::from(vec![label("holds"), Span::raw(budget.composition(app.model.plan()))]),
    ];
    lines.truncate(usize::from(layout::lines_above_schemes(area)));
    let mut marks = vec![0usize; budget.schemes.len()];
    for (_, quantizer) in app.model.plan().iter() {
        let at = budget.schemes.iter().position(|(scheme, _)| *scheme == quantizer.scheme);
        if let Some(n) = at.and_then(|at| marks.get_mut(at)) {
            *n += 1;
        }
    }
    let rows = budget.schemes.iter().zip(marks).enumerate();
    let seen = layout::budget_schemes(area, budget).seen();
    for (number, (&(scheme, allowed), tensors)) in rows.filter(|(at, _)| seen.contains(at)) {
        let chosen = number == budget.chosen;
        let style = if allowed { theme.text } else { theme.dim };
        let marked = match tensors {
            0 => String::new(),
            n => format!("● {}", counted(n, "tensor")),
        };
        let tick = match (budget.one_scheme, allowed) {
            (true, true) => "(•) ",
            (true, false) => "( ) ",
            (false, true) => "[x] ",
            (false, false) => "[ ] ",
        };
        lines.push(Line::from(vec![
            Span::styled(if chosen { "▸ " } else { "  " }, theme.accent),
            Span::styled(tick, style),
            Span::styled(format!("{:<13}", scheme_name(scheme)), style),
            Span::styled(marked, theme.mark),
        ]));
    }
    if let Some(mix) = budget.nearest_mix() {
        lines.push(Line::styled(mix_text(mix), theme.dim));
    }
    if budget.waiting > 0 {
        let waiting = counted(budget.waiting, "tensor");
        lines.push(Line::styled(format!("{waiting} not measured yet: unchanged"), theme.warning));
    } else if !budget.allows_any() {
        let key = app.settings.keys.name(Context::Budget, Action::Toggle);
        lines.push(Line::styled(format!("no scheme is allowed: {key} allows one"), theme.warning));
    } else if let Some(own) = budget.own {
        lines.push(own_marks(budget, own, theme));
    }
    if let Some(input) = &budget.typing {
        let typed = Span::styled(input.value().to_owned(), theme.strong);
        let example = match (input.value().is_empty(), budget.mixes.last()) {
            (false, _) => String::new(),
            (true, None) => "60MB, 50% or 40dB".to_owned(),
            (true, Some(mix)) => format!("60MB, 50%, 40dB or {}", mix.mix),
        };
        lines[0] = Line::from(vec![label("go to"), typed, Span::styled(example, theme.dim)]);
    }
    for (y, line) in (0..).zip(&lines) {
        widgets::line(buf, area, y, line);
    }
}

/// The error that the curve minimizes, and the mean SQNR of the marks, as in the plan line.
fn error<'a>(app: &App, label: Span<'a>, share: f64, theme: &Theme) -> Line<'a> {
    let mut spans = vec![label, Span::raw(format!("{:>8}", share_text(share)))];
    match app.model.quality().mean {
        Some(mean) => {
            let (word, style) = theme.rate(mean);
            spans.push(Span::styled(format!("  mean {} {word}", decibels(mean)), style));
        }
        None => spans.push(Span::styled("  nothing quantized", theme.dim)),
    }
    Line::from(spans)
}

/// The position of the cursor in the size that is typed.
pub(super) fn cursor(area: Rect, app: &App) -> Option<Position> {
    let Some(Overlay::Budget(budget)) = &app.overlay else { return None };
    let input = budget.typing.as_ref()?;
    let area = layout::budget_figures(area);
    let x = area.x + TYPED_SIZE_COLUMN + input.visual_cursor() as u16;
    Some(Position::new(x.min(area.right().saturating_sub(1)), area.y))
}

/// The column at which a typed size begins.
const TYPED_SIZE_COLUMN: u16 = 9;

/// A small share as a percentage with significant digits.
fn share_text(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0".to_owned(),
        p if p < 0.01 => format!("{p:.1e} %").replace('-', "−"),
        _ => percent(share),
    }
}

/// Describes the last scheme change on the way to the selected point.
fn step<'a>(app: &App, budget: &Budget, label: Span<'a>, theme: &Theme) -> Line<'a> {
    let Some((id, choice)) = budget.curve.step_to(budget.at) else {
        return Line::from(vec![label, Span::styled("nothing quantized", theme.dim)]);
    };
    let name = names::visible(&app.model.checkpoint.tensor(id).name).into_owned();
    let to = choice.quantizer;
    let to = to.map_or("as it is".into(), |quantizer| scheme_name(quantizer.scheme));
    let room = usize::from(layout::BUDGET_FIGURES).saturating_sub(9 + to.chars().count() + 3);
    Line::from(vec![
        label,
        Span::raw(names::shorten(&name, room).into_owned()),
        Span::styled(format!(" → {to}"), theme.dim),
    ])
}

/// Compares the previous marks with the curve.
fn own_marks<'a>(budget: &Budget, own: Point, theme: &Theme) -> Line<'a> {
    let best = budget.curve.within(own.bytes).and_then(|at| budget.curve.points().get(at));
    let text = match best {
        Some(best) if best.error > 0.0 && own.error > best.error * 1.005 => {
            let times = own.error / best.error;
            format!("◆ your marks: {times:.2}× the error of the curve at this size")
        }
        _ => "◆ your marks are on the curve".to_owned(),
    };
    Line::styled(text, theme.warning)
}

/// Compares a mix of llama.cpp with the curve.
fn mix_text(mix: &MixPoint) -> String {
    let size = bytes(mix.point.bytes);
    match mix.over_optimum {
        Some(ratio) => format!("◇ {}: {size}, error {ratio:.2} × the optimum", mix.mix),
        None => format!("◇ {}: {size}, smaller than the curve", mix.mix),
    }
}

/// Errors below this share of the largest are drawn at the bottom.
const MIN_ERROR_SHARE: f64 = 1e-5;

/// Draws bytes from left to right and the logarithm of the error from bottom to top.
fn curve(buf: &mut Buffer, area: Rect, budget: &Budget, theme: &Theme) {
    let points = budget.curve.points();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
    if first.bytes == last.bytes {
        let text = "No allowed scheme makes a tensor smaller.";
        widgets::line(buf, area, area.height / 2, &Line::styled(text, theme.dim));
        return;
    }
    let plot = layout::plot(area);
    let mixes = budget.mixes.iter().map(|mix| &mix.point);
    let errors = points.iter().chain(&budget.own).chain(mixes).map(|point| point.error);
    let errors = errors.filter(|&error| error > 0.0);
    let top = errors.clone().fold(0.0, f64::max);
    let (top, least) = if top > 0.0 {
        (top, errors.fold(top, f64::min).max(top * MIN_ERROR_SHARE))
    } else {
        (1.0, MIN_ERROR_SHARE)
    };
    // Errors of schemes differ by orders of magnitude: on a linear axis almost all points would
    // be at the bottom. A lossless point is drawn at the bottom.
    let y_of = |point: &Point| point.error.max(least).log10();
    let y_bounds = [if least < top { least.log10() } else { top.log10() - 1.0 }, top.log10()];
    let x_of = |point: &Point| point.bytes as f64;
    let x_bounds = [x_of(last), x_of(first)];
    let colour = |style: Style| style.fg.unwrap_or_default();
    Canvas::default()
        .marker(Marker::Braille)
        .x_bounds(x_bounds)
        .y_bounds(y_bounds)
        .paint(|context| {
            for pair in points.windows(2) {
                let [from, to] = pair else { continue };
                context.draw(&Stroke {
                    x1: x_of(from),
                    y1: y_of(from),
                    x2: x_of(to),
                    y2: y_of(to),
                    color: colour(theme.accent),
                });
            }
        })
        .render(plot, buf);
    axes(buf, area, plot, budget, (first, last), y_bounds, theme);
    let mut put = |point: &Point, symbol: &str, style: Style| {
        let share =
            |value: f64, low: f64, high: f64| ((value - low) / (high - low)).clamp(0.0, 1.0);
        let x = share(x_of(point), x_bounds[0], x_bounds[1]);
        let y = share(y_of(point), y_bounds[0], y_bounds[1]);
        let column = (x * f64::from(plot.width.saturating_sub(1))).round() as u16;
        let row = (y * f64::from(plot.height.saturating_sub(1))).round() as u16;
        let (column, row) = (plot.x + column, plot.bottom().saturating_sub(1 + row));
        buf[(column, row)].set_symbol(symbol).set_style(style);
    };
    for mix in &budget.mixes {
        put(&mix.point, "◇", theme.dim);
    }
    if let Some(own) = &budget.own {
        put(own, "◆", theme.warning);
    }
    put(&budget.point(), "●", theme.mark);
}

/// The labels of the axes.
fn axes(
    buf: &mut Buffer,
    area: Rect,
    plot: Rect,
    budget: &Budget,
    (first, last): (&Point, &Point),
    errors: [f64; 2],
    theme: &Theme,
) {
    for y in plot.top()..plot.bottom() {
        buf[(plot.x - 1, y)].set_symbol("│").set_style(theme.faint);
    }
    for x in plot.left()..plot.right() {
        buf[(x, plot.bottom())].set_symbol("─").set_style(theme.faint);
    }
    buf[(plot.x - 1, plot.bottom())].set_symbol("└").set_style(theme.faint);
    let mut text = |x: u16, y: u16, text: &str, width: u16| {
        buf.set_stringn(x, y, text, width.into(), theme.dim);
    };
    let margin = plot.x - 1 - area.x;
    // The ends, and the middle if there is a row for it.
    let rows = [(plot.bottom() - 1, errors[0]), (plot.y, errors[1])];
    let middle = (plot.height >= 7).then(|| {
        let row = plot.y + plot.height / 2;
        let share = f64::from(plot.bottom() - 1 - row) / f64::from(plot.height - 1);
        (row, errors[0] + (errors[1] - errors[0]) * share)
    });
    for (y, logarithm) in rows.into_iter().chain(middle) {
        let error = share_text(budget.share(Point { bytes: 0, error: 10f64.powf(logarithm) }));
        text(area.x, y, &format!("{error:>width$}", width = usize::from(margin)), margin);
    }
    let (least, most) = (bytes(last.bytes), bytes(first.bytes));
    text(plot.x, plot.bottom() + 1, &least, plot.width);
    let width = most.chars().count() as u16;
    if width + least.chars().count() as u16 + 4 < plot.width {
        text(plot.right() - width, plot.bottom() + 1, &most, width);
        let middle =
            format!("{} points, logarithm of the error", count(budget.curve.points().len() as u64));
        let width_of = middle.chars().count() as u16;
        let x = plot.x + plot.width.saturating_sub(width_of) / 2;
        if plot.width > width + least.chars().count() as u16 + width_of + 6 {
            text(x, plot.bottom() + 1, &middle, width_of);
        }
    }
}
