//! From the values of a tensor to the range its quantized values span.

use super::Range;
use std::fmt;
use std::str::FromStr;

/// How the range of a group of values is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Calibration {
    /// The smallest and the largest value: nothing is clipped.
    #[default]
    MinMax,
}

/// The scale that maps `absmax` onto the largest quantized value `qmax`:
/// `absmax / qmax`, rounded to f32 as it is stored.
///
/// All zeros, or a scale that underflows, give the smallest normal f32, as Burn does.
/// `None` when the scale, or its largest multiple, does not fit an f32.
pub fn symmetric_scale(absmax: f64, qmax: f32) -> Option<f32> {
    let scale = match absmax as f32 {
        // A magnitude that is an f32 is divided in f32, as every implementation does.
        narrow if f64::from(narrow) == absmax => narrow / qmax,
        _ => (absmax / f64::from(qmax)) as f32,
    };
    if scale == 0.0 {
        return Some(f32::MIN_POSITIVE);
    }
    (scale * qmax).is_finite().then_some(scale)
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Calibration::MinMax => f.pad("min-max"),
        }
    }
}

impl FromStr for Calibration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "min-max" => Ok(Calibration::MinMax),
            _ => Err(format!("unknown calibration '{text}': expected min-max")),
        }
    }
}

impl Calibration {
    /// The scale for values of `range`, onto quantized values up to `qmax`.
    pub fn scale(&self, range: &Range, qmax: f32) -> Option<f32> {
        match self {
            Calibration::MinMax => symmetric_scale(range.absmax(), qmax),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_lands_on_the_last_level() {
        assert_eq!(symmetric_scale(127.0, 127.0), Some(1.0));
        assert_eq!(symmetric_scale(1.0, 127.0), Some(1.0 / 127.0));
    }

    #[test]
    fn nothing_to_scale_by_gives_the_smallest_normal() {
        assert_eq!(symmetric_scale(0.0, 127.0), Some(f32::MIN_POSITIVE));
        assert_eq!(symmetric_scale(1e-45, 127.0), Some(f32::MIN_POSITIVE));
    }

    #[test]
    fn a_range_beyond_f32_has_no_scale() {
        assert_eq!(symmetric_scale(1e300, 127.0), None);
        assert!(symmetric_scale(1e38, 127.0).is_some());
    }
}
