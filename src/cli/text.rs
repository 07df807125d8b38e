//! Figures and names as people read them.

use crate::quantization::Verdict;
use std::borrow::Cow;
use std::fmt::{self, Display};

/// `text` with everything escaped that a terminal would obey or hide: control characters,
/// and those that change direction or have no width.
pub fn printable(text: &str) -> Cow<'_, str> {
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if plain || !text.contains(is_hostile) {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hostile(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe.into()
}

/// Whether a terminal would obey or hide it.
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Bytes with three digits and a decimal unit: `90.9 MB`.
pub fn bytes(n: u64) -> impl Display {
    scaled(n, ["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// A count with three digits: `22.7 M`.
pub fn count(n: u64) -> impl Display {
    scaled(n, ["", "k", "M", "G", "T", "P", "E"])
}

fn scaled(n: u64, units: [&'static str; 7]) -> impl Display {
    display(move |f| {
        if n < 1000 {
            let space = if units[0].is_empty() { "" } else { " " };
            return write!(f, "{n}{space}{}", units[0]);
        }
        let (mut value, mut unit) = (n as f64, 0);
        // 999.5 would be shown as 1000.
        while value >= 999.5 && unit + 1 < units.len() {
            (value, unit) = (value / 1000.0, unit + 1);
        }
        let decimals = match value {
            v if v < 9.995 => 2,
            v if v < 99.95 => 1,
            _ => 0,
        };
        let space = if units[unit].is_empty() { "" } else { " " };
        write!(f, "{value:.decimals$}{space}{}", units[unit])
    })
}

/// A number with four significant digits.
pub fn figure(x: f64) -> impl Display {
    display(move |f| match x.abs() {
        a if a == 0.0 || !a.is_finite() => write!(f, "{x}"),
        a if (1e-3..1e5).contains(&a) => {
            let decimals = (3.0 - a.log10().floor()).max(0.0) as usize;
            write!(f, "{x:.decimals$}")
        }
        _ => write!(f, "{x:.3e}"),
    })
}

/// A share of one as a percentage.
pub fn percent(share: f64) -> impl Display {
    display(move |f| match share * 100.0 {
        p if p.is_nan() => f.write_str("–"),
        p if p > 0.0 && p < 0.05 => write!(f, "<0.1 %"),
        p => write!(f, "{p:.1} %"),
    })
}

/// An SQNR in dB.
pub fn decibel(sqnr_db: f64) -> impl Display {
    display(move |f| match sqnr_db {
        db if db == f64::INFINITY => write!(f, "exact"),
        db => write!(f, "{db:.1} dB"),
    })
}

/// An SQNR in dB with its word.
pub fn judged(sqnr_db: f64) -> impl Display {
    display(move |f| write!(f, "{} ({})", decibel(sqnr_db), Verdict::of(sqnr_db).word()))
}

fn display(write: impl Fn(&mut fmt::Formatter<'_>) -> fmt::Result) -> impl Display {
    struct Displayed<F>(F);
    impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> Display for Displayed<F> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            (self.0)(f)
        }
    }
    Displayed(write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(printable("layers.0.größe"), "layers.0.größe");
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(printable("a\u{202e}b\u{200b}"), "a\\u{202e}b\\u{200b}");
        assert_eq!(printable("\u{9b}31m"), "\\u{9b}31m");
    }

    #[test]
    fn sizes_have_three_digits_and_a_unit() {
        let shown = |n| bytes(n).to_string();
        assert_eq!(shown(0), "0 B");
        assert_eq!(shown(999), "999 B");
        assert_eq!(shown(1000), "1.00 kB");
        assert_eq!(shown(9_996), "10.0 kB");
        assert_eq!(shown(999_499), "999 kB");
        assert_eq!(shown(999_500), "1.00 MB");
        assert_eq!(shown(90_868_376), "90.9 MB");
        assert_eq!(shown(u64::MAX), "18.4 EB");
        assert_eq!(count(42).to_string(), "42");
        assert_eq!(count(22_713_216).to_string(), "22.7 M");
    }

    #[test]
    fn figures_keep_four_digits() {
        let shown = |x| figure(x).to_string();
        assert_eq!(shown(0.0), "0");
        assert_eq!(shown(-1.234567), "-1.235");
        assert_eq!(shown(0.00123456), "0.001235");
        assert_eq!(shown(1.2346e-7), "1.235e-7");
        assert_eq!(shown(12345.6), "12346");
        assert_eq!(shown(f64::NAN), "NaN");
        assert_eq!(percent(0.0001).to_string(), "<0.1 %");
        assert_eq!(percent(0.5).to_string(), "50.0 %");
        assert_eq!(judged(f64::INFINITY).to_string(), "exact (excellent)");
    }
}
