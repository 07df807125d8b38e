//! The plots of the HTML page, as inline SVG.

use super::Histogram;
use crate::plan::budget::Point;
use crate::text::figures;
use std::fmt::Write;

/// Width of one bin in pixels.
const BIN: usize = 2;
/// Height of a histogram in pixels.
const HEIGHT: f32 = 24.0;

/// A histogram for a row of the table. Bars are as tall as the square root of the count, and
/// every bin that is not empty is visible, because an outlier may be one element.
pub(super) fn histogram(histogram: &Histogram) -> String {
    let highest = histogram.counts.iter().copied().fold(0.0f32, f32::max);
    let width = histogram.counts.len() * BIN;
    let mut path = format!("M0 {HEIGHT}");
    let mut before = HEIGHT;
    for &count in &histogram.counts {
        let share = if highest > 0.0 { (count / highest).sqrt() } else { 0.0 };
        let tall = if count > 0.0 { (share * HEIGHT).max(1.0) } else { 0.0 };
        let top = (HEIGHT - tall).round();
        // Writing to a string cannot fail.
        let _ = if top == before { write!(path, "h{BIN}") } else { write!(path, "V{top}h{BIN}") };
        before = top;
    }
    let _ = write!(path, "V{HEIGHT}z");
    let (low, high) = (figures::value(histogram.low), figures::value(histogram.high));
    format!(
        "<svg class=\"histogram\" width=\"{width}\" height=\"{HEIGHT}\" viewBox=\"0 0 {width} {HEIGHT}\" role=\"img\"><title>element counts from {low} to {high}</title><path d=\"{path}\"/></svg>"
    )
}

/// The plotting area inside the picture: left, top, width and height.
const PLOT: (f64, f64, f64, f64) = (90.0, 16.0, 620.0, 250.0);
/// The most points of a curve that are drawn.
const MAX_POINTS: usize = 800;

/// The budget's curve: bytes to the right, SQNR upwards, exact points at the top. `uniform` are
/// labelled points beside the curve.
pub(super) fn curve(points: &[Point], uniform: &[(String, Point)]) -> String {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return String::new() };
    let all = || points.iter().chain(uniform.iter().map(|(_, point)| point));
    let most = all().map(|point| point.bytes).max().unwrap_or(first.bytes);
    let least = all().map(|point| point.bytes).min().unwrap_or(last.bytes);
    let db = |point: &Point| -10.0 * point.error.log10();
    let finite = || all().map(db).filter(|db| db.is_finite());
    let lowest = finite().fold(f64::INFINITY, f64::min).min(60.0).floor();
    let highest = finite().fold(f64::NEG_INFINITY, f64::max).max(lowest + 10.0).ceil();
    let (left, top, width, height) = PLOT;
    let share = |value: f64, whole: f64| if whole > 0.0 { value / whole } else { 0.0 };
    let place = |point: &Point| {
        let x = share((point.bytes - least) as f64, (most - least) as f64);
        let y = share(db(point).clamp(lowest, highest) - lowest, highest - lowest);
        (left + x * width, top + (1.0 - y) * height)
    };
    let step = points.len().div_ceil(MAX_POINTS).max(1);
    let shown = points.iter().step_by(step).chain(points.last());
    let line: Vec<String> = shown
        .map(|point| {
            let (x, y) = place(point);
            format!("{x:.1},{y:.1}")
        })
        .collect();
    let (right, bottom) = (left + width, top + height);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\" aria-labelledby=\"curve-title\"><title id=\"curve-title\">SQNR against bytes; the figures are in the table below</title><path class=\"axis\" d=\"M{left} {top}V{bottom}H{right}\"/><polyline class=\"curve\" points=\"{points}\"/>",
        w = right + 110.0,
        h = bottom + 36.0,
        points = line.join(" "),
    );
    let mut text = |x: f64, y: f64, anchor: &str, text: &str| {
        let _ =
            write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
    };
    text(left, bottom + 18.0, "start", &figures::bytes(least));
    text(right, bottom + 18.0, "end", &figures::bytes(most));
    text(left + width / 2.0, bottom + 32.0, "middle", "bytes of all tensors");
    text(left - 8.0, top + 10.0, "end", &figures::decibels(highest));
    text(left - 8.0, bottom, "end", &figures::decibels(lowest));
    let mut taken: Vec<f64> = Vec::new();
    for (label, point) in uniform {
        let (x, y) = place(point);
        // Labels of close points are stacked.
        let mut at = y + 4.0;
        while taken.iter().any(|other| (other - at).abs() < 13.0) {
            at -= 13.0;
        }
        taken.push(at);
        let _ = write!(
            svg,
            "<circle class=\"point\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/><text x=\"{:.1}\" y=\"{at:.1}\">{label}</text>",
            x + 9.0,
        );
    }
    svg + "</svg>"
}

/// A share as a percentage, with significant digits for small shares.
pub(super) fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p > 0.0 && p < 0.01 => format!("{p:.1e} %").replace('-', "−"),
        _ => figures::percent(share),
    }
}
