//! The plots of the HTML page, as inline SVG.

use crate::plan::budget::Point;
use crate::report::contents::{ChannelError, Histogram};
use crate::text::figures;
use maud::{Markup, html};
use std::fmt::Write;

/// Width of one bin in pixels.
const BIN_WIDTH: usize = 2;

/// Height of a histogram in pixels.
const HEIGHT: f32 = 24.0;

/// A histogram for a row of the table. Bars are as tall as the square root of the count, and
/// every bin that is not empty is visible, because an outlier may be one element.
pub(super) fn histogram(histogram: &Histogram) -> Markup {
    let highest = histogram.counts.iter().copied().fold(0.0f32, f32::max);
    let width = histogram.counts.len() * BIN_WIDTH;
    let mut path = format!("M0 {HEIGHT}");
    let mut before = HEIGHT;
    for &count in &histogram.counts {
        let share = if highest > 0.0 { (count / highest).sqrt() } else { 0.0 };
        let tall = if count > 0.0 { (share * HEIGHT).max(1.0) } else { 0.0 };
        let top = (HEIGHT - tall).round();
        // Writing to a string cannot fail.
        let _ = if top == before {
            write!(path, "h{BIN_WIDTH}")
        } else {
            write!(path, "V{top}h{BIN_WIDTH}")
        };
        before = top;
    }
    let _ = write!(path, "V{HEIGHT}z");
    let (low, high) = (figures::value(histogram.low), figures::value(histogram.high));
    html! {
        svg class="histogram" width=(width) height=(HEIGHT) viewBox=(format!("0 0 {width} {HEIGHT}")) role="img" {
            title { "element counts from " (low) " to " (high) }
            path d=(path) {}
        }
    }
}

/// The plotting area inside the picture: left, top, width and height.
const PLOT: (f64, f64, f64, f64) = (90.0, 16.0, 620.0, 250.0);

/// The most points of a curve that are drawn.
const MAX_POINTS: usize = 800;

/// The height of a label, and its distance from the points, in pixels.
const LABEL_HEIGHT: f64 = 15.0;
const LABEL_GAP: f64 = 28.0;

/// The budget's curve: bytes to the right, SQNR upwards, exact points at the top. `uniform` are
/// labelled points beside the curve.
pub(super) fn curve(points: &[Point], uniform: &[(String, Point)]) -> Markup {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return html! {} };
    let all = || points.iter().chain(uniform.iter().map(|(_, point)| point));
    let most = all().map(|point| point.bytes).max().unwrap_or(first.bytes);
    let least = all().map(|point| point.bytes).min().unwrap_or(last.bytes);
    let db = |point: &Point| -10.0 * point.error.log10();
    let finite = || all().map(db).filter(|db| db.is_finite());
    let lowest = finite().fold(f64::INFINITY, f64::min).min(60.0).floor();
    let highest = finite().fold(f64::NEG_INFINITY, f64::max).max(lowest + 10.0).ceil();
    let (left, top, width, height) = PLOT;
    let (right, bottom) = (left + width, top + height);
    let place = |point: &Point| {
        let x = share((point.bytes - least) as f64, (most - least) as f64);
        let y = share(db(point).clamp(lowest, highest) - lowest, highest - lowest);
        (left + x * width, top + (1.0 - y) * height)
    };
    let step = points.len().div_ceil(MAX_POINTS).max(1);
    let line = points.iter().step_by(step).chain(points.last()).map(place);
    // The curve is steep at its left end, where the points are: their labels stand in a column
    // below it, in the order of the points, each with a line to its point.
    let mut labels: Vec<(&str, f64, f64)> = uniform
        .iter()
        .map(|(label, point)| {
            let (x, y) = place(point);
            (label.as_str(), x, y)
        })
        .collect();
    labels.sort_by(|(_, _, a), (_, _, b)| a.total_cmp(b));
    let column = labels.iter().map(|(_, x, _)| *x).fold(left, f64::max) + LABEL_GAP;
    let mut rows: Vec<f64> = Vec::with_capacity(labels.len());
    for (_, _, y) in &labels {
        let above = rows.last().map_or(f64::NEG_INFINITY, |row| row + LABEL_HEIGHT);
        rows.push((y + LABEL_GAP).max(above));
    }
    // Only the labels that would be below the axis move up.
    let mut lowest_row = bottom - 4.0;
    for row in rows.iter_mut().rev() {
        *row = row.min(lowest_row);
        lowest_row = *row - LABEL_HEIGHT;
    }
    html! {
        svg viewBox=(format!("0 0 {} {}", right + 110.0, bottom + 36.0)) width=(right + 110.0)
            height=(bottom + 36.0) role="img" aria-labelledby="curve-title"
        {
            title id="curve-title" { "SQNR against bytes; the figures are in the table below" }
            path class="axis" d=(format!("M{left} {top}V{bottom}H{right}")) {}
            polyline class="curve" points=(polyline(line)) {}
            (text(left, bottom + 18.0, "start", &figures::bytes(least)))
            (text(right, bottom + 18.0, "end", &figures::bytes(most)))
            (text(left + width / 2.0, bottom + 32.0, "middle", "bytes of all tensors"))
            (text(left - 8.0, top + 10.0, "end", &figures::decibels(highest)))
            (text(left - 8.0, bottom, "end", &figures::decibels(lowest)))
            @for ((label, x, y), row) in labels.iter().zip(&rows) {
                polyline class="axis" points=(polyline([(*x, *y), (column - 4.0, row - 4.0)].into_iter())) {}
                (text(column, *row, "start", label))
            }
            @for (_, x, y) in &labels {
                circle class="point" cx=(pixel(*x)) cy=(pixel(*y)) r="4" {}
            }
        }
    }
}

/// Height of a plot of channels in pixels, and the room for labels left of it.
const CHANNELS_HEIGHT: f64 = 110.0;
const CHANNELS_LEFT: f64 = 70.0;

/// The SQNR of each channel, in the order given: an area with the channel's own scale, and a line
/// with the scale of the tensor.
pub(super) fn channels(channels: &[(usize, ChannelError)]) -> Markup {
    let width = PLOT.2;
    let step = channels.len().div_ceil(MAX_POINTS).max(1);
    let shown: Vec<&ChannelError> =
        channels.iter().step_by(step).map(|(_, channel)| channel).collect();
    let finite = shown.iter().flat_map(|channel| [channel.shared_db, channel.own_db]);
    let finite: Vec<f64> = finite.filter(|db| db.is_finite()).collect();
    let highest = finite.iter().copied().fold(1.0, f64::max).ceil();
    let lowest = finite.iter().copied().fold(0.0, f64::min).floor();
    let place = |(index, db): (usize, f64)| {
        // An exact channel is at the top, one without a scale at the bottom.
        let db = if db.is_nan() { lowest } else { db.clamp(lowest, highest) };
        let x = share(index as f64, (shown.len().max(2) - 1) as f64);
        let y = share(db - lowest, highest - lowest);
        (CHANNELS_LEFT + x * width, 4.0 + (1.0 - y) * CHANNELS_HEIGHT)
    };
    let bottom = 4.0 + CHANNELS_HEIGHT;
    let own = shown.iter().map(|channel| channel.own_db).enumerate().map(place);
    let shared = shown.iter().map(|channel| channel.shared_db).enumerate().map(place);
    let corners = [(CHANNELS_LEFT + width, bottom), (CHANNELS_LEFT, bottom)];
    let area = polyline(own.chain(corners));
    html! {
        svg class="channels" viewBox=(format!("0 0 {} {}", CHANNELS_LEFT + width + 4.0, bottom + 22.0))
            width=(CHANNELS_LEFT + width + 4.0) height=(bottom + 22.0) role="img"
        {
            title { "SQNR of each channel, largest magnitude first" }
            polygon class="own" points=(area) {}
            polyline class="shared" points=(polyline(shared)) {}
            (text(CHANNELS_LEFT - 6.0, 14.0, "end", &figures::decibels(highest)))
            (text(CHANNELS_LEFT - 6.0, bottom, "end", &figures::decibels(lowest)))
            (text(CHANNELS_LEFT, bottom + 16.0, "start", "largest channel"))
            (text(CHANNELS_LEFT + width, bottom + 16.0, "end", "smallest channel"))
        }
    }
}

fn share(value: f64, whole: f64) -> f64 {
    if whole > 0.0 { value / whole } else { 0.0 }
}

fn pixel(x: f64) -> String {
    format!("{x:.1}")
}

fn polyline(points: impl Iterator<Item = (f64, f64)>) -> String {
    let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    points.join(" ")
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> Markup {
    html! { text x=(pixel(x)) y=(pixel(y)) text-anchor=(anchor) { (text) } }
}

/// A share as a percentage, with significant digits for small shares.
pub(super) fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p > 0.0 && p < 0.01 => format!("{p:.1e} %").replace('-', "−"),
        _ => figures::percent(share),
    }
}
