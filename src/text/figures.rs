//! Formats figures. Each kind of figure has one function.
//!
//! Sizes are decimal (1 kB = 1000 bytes), like those of disks and downloads.

use crate::quantization::Thresholds;
use crate::tensor::Shape;
use std::time::Duration;

/// A size with three significant digits: `512 B`, `2.36 MB`, `14.5 GB`.
pub(crate) fn bytes(n: u64) -> String {
    scaled(n, ["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// A size in eight columns, with aligned numbers and units.
pub(crate) fn bytes_aligned(n: u64) -> String {
    let text = bytes(n);
    let (number, unit) = text.split_once(' ').unwrap_or((&text, ""));
    format!("{number:>5} {unit:<2}")
}

/// A number of parameters: `22.7 M`, `8.03 B`.
pub(crate) fn parameters(n: u64) -> String {
    scaled(n, ["", "K", "M", "B", "T", "P", "E"]).trim_end().to_owned()
}

fn scaled(n: u64, units: [&str; 7]) -> String {
    if n < 1000 {
        return format!("{n} {}", units[0]);
    }
    // Find the unit and the decimals that give three digits after rounding.
    let mut step = 10;
    for unit in &units[1..] {
        for decimals in [2, 1, 0] {
            let rounded = n.saturating_add(step / 2) / step;
            if rounded < 1000 {
                let (tens, ones) = (rounded / 10, rounded % 10);
                return match decimals {
                    2 => format!("{}.{}{ones} {unit}", tens / 10, tens % 10),
                    1 => format!("{tens}.{ones} {unit}"),
                    _ => format!("{rounded} {unit}"),
                };
            }
            step = step.saturating_mul(10);
        }
    }
    format!("{n} {}", units[0])
}

/// An integer with grouped digits: `30 522`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{a0}');
        }
        out.push(digit);
    }
    out
}

/// `1 tensor`, `103 tensors`.
pub(crate) fn counted(n: usize, noun: &str) -> String {
    format!("{} {noun}{}", count(n as u64), if n == 1 { "" } else { "s" })
}

/// `384 × 1536`; a scalar is `scalar`.
pub(crate) fn shape(shape: &Shape) -> String {
    let dims: Vec<String> = shape.dims().iter().map(u64::to_string).collect();
    if dims.is_empty() { "scalar".to_owned() } else { dims.join(" × ") }
}

/// An SQNR; `exact` if it is infinite.
pub(crate) fn decibels(db: f64) -> String {
    match db {
        db if db == f64::INFINITY => "exact".to_owned(),
        db if db.is_nan() => "none".to_owned(),
        db => format!("{db:.1} dB"),
    }
}

/// The difference of two SQNRs.
pub(crate) fn gained(db: f64) -> String {
    match db {
        db if db.is_finite() => format!("{db:+.1} dB").replace('-', "−"),
        db if db > 0.0 => "all".to_owned(),
        _ => "none".to_owned(),
    }
}

/// An SQNR with its rating: `31.2 dB (good)`.
pub(crate) fn rated(db: f64, thresholds: &Thresholds) -> String {
    format!("{} ({})", decibels(db), thresholds.rate(db).name())
}

/// A weight or an error with four significant digits, and an exponent if it is far from one.
pub(crate) fn value(x: f64) -> String {
    plain(x).replace('-', "−")
}

/// Like [`value`], with the ASCII minus sign that other programs can read.
pub(crate) fn plain(x: f64) -> String {
    match x.abs() {
        _ if x.is_nan() => "none".to_owned(),
        _ if x == 0.0 => "0".to_owned(),
        m if !(1e-4..1e6).contains(&m) => format!("{x:.3e}"),
        m => {
            let before = m.log10().floor() as i32;
            let decimals = (3 - before).max(0) as usize;
            format!("{x:.decimals$}")
        }
    }
}

/// A stored value with all its digits: the shortest text that parses to the same value.
pub(crate) fn exact(x: f64) -> String {
    let magnitude = x.abs();
    let plain = x == 0.0 || (1e-5..1e9).contains(&magnitude) || !x.is_finite();
    let narrow = x as f32;
    let text = match (f64::from(narrow) == x || x.is_nan(), plain) {
        (true, true) => narrow.to_string(),
        (true, false) => format!("{narrow:e}"),
        (false, true) => x.to_string(),
        (false, false) => format!("{x:e}"),
    };
    text.replace('-', "−")
}

/// A share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        p if p.is_nan() => "none".to_owned(),
        0.0 => "0 %".to_owned(),
        p if p < 0.01 => "< 0.01 %".to_owned(),
        p if p < 10.0 => format!("{p:.2} %"),
        p if !(99.95..100.0).contains(&p) => format!("{p:.1} %"),
        _ => "> 99.9 %".to_owned(),
    }
}

/// Bytes per second: `1.31 GB/s`.
pub(crate) fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", bytes(bytes_per_second as u64))
}

/// A duration: `0.41 s`, `12 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..10 => format!("{:.2} s", span.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_a_unit() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_999, "10.0 kB"),
            (99_950, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (90_868_376, "90.9 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(bytes_aligned(512), "  512 B ");
        assert_eq!(parameters(22_713_216), "22.7 M");
        assert_eq!(parameters(384), "384");
    }

    #[test]
    fn values_keep_four_digits() {
        for (x, text) in [
            (0.0, "0"),
            (-0.88121, "−0.8812"),
            (12.34567, "12.35"),
            (123_456.7, "123457"),
            (1.5e-7, "1.500e−7"),
            (f64::NAN, "none"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(value(x), text);
        }
        assert_eq!(plain(-1.5e-7), "-1.500e-7");
        assert_eq!(rated(f64::INFINITY, &Thresholds::default()), "exact (excellent)");
    }

    #[test]
    fn exact_values_keep_all_digits() {
        for (x, text) in [
            (f64::from(0.1f32), "0.1"),
            (0.1, "0.1"),
            (-0.0498046875, "−0.049804688"),
            (f64::from(1e-38f32), "1e−38"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "−inf"),
            (-0.0, "−0"),
        ] {
            assert_eq!(exact(x), text);
        }
    }

    #[test]
    fn small_and_large_shares_are_not_rounded_to_0_or_100() {
        assert_eq!(percent(0.0), "0 %");
        assert_eq!(percent(1e-9), "< 0.01 %");
        assert_eq!(percent(0.0274), "2.74 %");
        assert_eq!(percent(0.99999), "> 99.9 %");
        assert_eq!(percent(1.0), "100.0 %");
    }

    #[test]
    fn durations_have_a_unit_that_fits() {
        let spans = [(410, "0.41 s"), (12_900, "12 s"), (200_000, "3 min 20 s")];
        for (millis, text) in spans {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration(Duration::from_secs(7500)), "2 h 5 min");
        assert_eq!(rate(0.0), "0 B/s");
    }
}
