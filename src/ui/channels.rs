//! The output channels of a tensor: a strip of their magnitudes, and a list of outliers.

use crate::app::channels::Channels;
use crate::app::figures::{count, decibels, gained, value};
use crate::app::pager::wrap;
use crate::app::{Action, App, CalibrationState};
use crate::tensor::TensorId;
use crate::ui::theme::Theme;
use crate::ui::widgets;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

pub(super) fn draw(buf: &mut Buffer, area: Rect, app: &App, id: TensorId, theme: &Theme) {
    let mut say = |text: &str, style: Style| {
        for (y, row) in (1..).zip(wrap(text, area.width.min(96).into())) {
            widgets::line(buf, area, y, &Line::styled(row, style));
        }
    };
    let shape = &app.model.checkpoint.tensor(id).shape;
    if shape.rank() < 2 || shape.elements() == 0 {
        return say("No output channels: the tensor has fewer than two axes.", theme.dim);
    }
    let channels = match app.channels.channels(id) {
        Some(Ok(channels)) => channels,
        Some(Err(why)) => return say(why, theme.bad),
        None => {
            let not_measured =
                format!("Not measured: {} calibrates.", app.key_of(Action::Calibrate));
            let text = match app.calibration {
                CalibrationState::Running { .. } => "Waiting for the calibration …",
                _ if app.model.measurement(id).metrics().is_none() => &not_measured,
                _ if app.model.obstacle(id).is_some_and(|o| !o.can_be_overruled()) => {
                    "No scale, so there is no error per channel."
                }
                _ => "reading …",
            };
            return say(text, theme.dim);
        }
    };
    strip(buf, Rect { height: 3, ..area }, channels, theme);
    list(
        buf,
        Rect { y: area.y + 3, height: area.height.saturating_sub(3), ..area },
        app,
        channels,
        theme,
    );
}

/// The largest magnitude of every channel in order; one column may cover several channels.
fn strip(buf: &mut Buffer, area: Rect, channels: &Channels, theme: &Theme) {
    let all = &channels.all;
    let widest = channels.ranked.first().and_then(|&n| all.get(n as usize));
    let Some(widest) = widest.map(|channel| channel.absmax) else { return };
    let columns = usize::from(area.width).min(all.len()).max(1);
    let many = match all.len().div_ceil(columns) {
        1 => String::new(),
        n => format!(", largest of about {n} per column"),
    };
    let title = format!("absmax of each of {} output channels{many}", count(all.len() as u64));
    widgets::line(buf, area, 0, &Line::styled(title, theme.dim));
    for column in 0..columns {
        let from = column * all.len() / columns;
        let to = ((column + 1) * all.len() / columns).max(from + 1);
        let of = all.get(from..to).unwrap_or_default();
        let absmax = of.iter().map(|channel| channel.absmax).fold(0.0, f64::max);
        let share = if widest > 0.0 { absmax / widest } else { 0.0 };
        let eighths = (share * 8.0).ceil().clamp(0.0, 8.0) as u8;
        let style = match absmax {
            x if x > channels.median * 4.0 => theme.bad,
            x if x > channels.median * 2.0 => theme.warning,
            _ => theme.accent,
        };
        let symbol = match eighths {
            0 => "·".to_owned(),
            n => widgets::column(n).to_string(),
        };
        buf[(area.x + column as u16, area.y + 1)].set_symbol(&symbol).set_style(style);
    }
    let last = format!("{}", all.len() - 1);
    widgets::line(buf, area, 2, &Line::styled("0", theme.faint));
    let x = (area.x + columns as u16).saturating_sub(last.chars().count() as u16);
    if columns > 8 {
        buf.set_stringn(x, area.y + 2, &last, 12, theme.faint);
    }
}

/// Below this width the ratings beside the SQNRs are left out.
const MIN_RATINGS_WIDTH: u16 = 96;

fn list(buf: &mut Buffer, area: Rect, app: &App, channels: &Channels, theme: &Theme) {
    let has_ratings = area.width >= MIN_RATINGS_WIDTH;
    let (shared, own) =
        if has_ratings { ("tensor's scale", "own scale") } else { ("shared", "own scale") };
    // A figure with its comment.
    let (figure, word) = if has_ratings { (17, 10) } else { (10, 0) };
    let column = figure + word;
    let heads = format!(
        "{:>7}{:>11}{:>10}{shared:>figure$}{:word$}{own:>figure$}{:word$}{:>10}",
        "channel", "absmax", "× median", "", "", "gain"
    );
    widgets::line(buf, area, 0, &Line::styled(heads, theme.dim));
    let shown = channels.ranked.iter().skip(app.channels.top());
    for (y, &number) in (1..area.height).zip(shown) {
        let Some(channel) = channels.all.get(number as usize) else { continue };
        let times = channel.absmax / channels.median;
        let style = match times {
            t if t > 4.0 => theme.bad,
            t if t > 2.0 => theme.warning,
            _ => theme.text,
        };
        let times = if times.is_finite() { format!("{times:.2}") } else { "–".to_owned() };
        let judged = |db: f64| match db {
            db if db.is_nan() => Span::styled(format!("{:>column$}", "no scale"), theme.bad),
            db => {
                let (word, style) = theme.rate(db);
                let word = if has_ratings { format!(" {word:<9}") } else { String::new() };
                let text = format!("{}{word}", decibels(db));
                Span::styled(format!("{text:>column$}"), style)
            }
        };
        let gain = channel.own_db - channel.shared_db;
        let gain = if gain.is_finite() { gained(gain) } else { String::new() };
        let line = Line::from(vec![
            Span::styled(format!("{:>7}", count(number.into())), theme.strong),
            Span::raw(format!("{:>11}", value(channel.absmax))),
            Span::styled(format!("{times:>10}"), style),
            judged(channel.shared_db),
            judged(channel.own_db),
            Span::raw(format!("{gain:>10}")),
        ]);
        widgets::line(buf, area, y, &line);
    }
}
