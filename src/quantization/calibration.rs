//! From the values of a tensor to the range its quantized values span.

use super::Range;
use crate::tensor::FloatType;
use half::{bf16, f16};
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
/// Where the rounded scale is so large that its largest multiple overflows though
/// `absmax` did not, the next smaller one is taken: what is read back is finite.
/// `None` when `absmax` is beyond f32.
pub fn symmetric_scale(absmax: f64, qmax: f32) -> Option<f32> {
    stored_scale(absmax, qmax, FloatType::F32)
}

/// [`symmetric_scale`] for scales stored as `stored`: rounded to that type, so that what
/// is quantized by it is what is read back. F64 stands for F32, the widest in use.
pub fn stored_scale(absmax: f64, qmax: f32, stored: FloatType) -> Option<f32> {
    let scale = match absmax as f32 {
        // A magnitude that is an f32 is divided in f32, as every implementation does.
        narrow if f64::from(narrow) == absmax => narrow / qmax,
        _ => (absmax / f64::from(qmax)) as f32,
    };
    let (scale, smallest, next_smaller) = match stored {
        FloatType::F64 | FloatType::F32 => (scale, f32::MIN_POSITIVE, scale.next_down()),
        FloatType::F16 => {
            let scale = f16::from_f32(scale);
            (scale.into(), f16::MIN_POSITIVE.into(), scale.into())
        }
        FloatType::BF16 => {
            let scale = bf16::from_f32(scale);
            let next_smaller = bf16::from_bits(scale.to_bits().saturating_sub(1));
            (scale.into(), bf16::MIN_POSITIVE.into(), next_smaller.into())
        }
    };
    if scale == 0.0 {
        Some(smallest)
    } else if (scale * qmax).is_finite() {
        Some(scale)
    } else {
        let fits = absmax <= f64::from(f32::MAX) && (next_smaller * qmax).is_finite();
        fits.then_some(next_smaller)
    }
}

/// A scale as it reads back from the type it is stored in.
pub fn narrowed_scale(scale: f32, stored: FloatType) -> f32 {
    stored_scale(scale.into(), 1.0, stored).unwrap_or(scale)
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
    /// The scale for values of `range`, onto quantized values up to `qmax`, as it is stored
    /// in the type `stored`.
    pub fn scale(&self, range: &Range, qmax: f32, stored: FloatType) -> Option<f32> {
        match self {
            Calibration::MinMax => stored_scale(range.absmax(), qmax, stored),
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
    fn the_largest_multiple_of_any_finite_f32s_scale_is_finite() {
        for qmax in [127.0, 7.0, 448.0] {
            let mut absmax = f32::MAX;
            for _ in 0..1000 {
                for stored in [FloatType::F32, FloatType::BF16] {
                    let scale = stored_scale(absmax.into(), qmax, stored).expect("fits");
                    assert!((scale * qmax).is_finite(), "{absmax:e} {qmax} {stored:?}");
                    // Not so small that the largest value is not rounded to the last level.
                    assert!(absmax / scale < qmax + 0.5 || qmax == 448.0);
                }
                absmax = absmax.next_down();
            }
        }
        assert_eq!(stored_scale(1e7, 127.0, FloatType::F16), None);
    }

    #[test]
    fn a_stored_scale_is_of_the_type_it_is_stored_in() {
        let scale = symmetric_scale(0.3, 127.0).expect("fits");
        let stored = |stored| stored_scale(0.3, 127.0, stored);
        assert_eq!(stored(FloatType::F32), Some(scale));
        assert_eq!(stored(FloatType::BF16), Some(bf16::from_f32(scale).into()));
        assert_eq!(stored(FloatType::F16), Some(f16::from_f32(scale).into()));
        assert_eq!(stored_scale(0.0, 127.0, FloatType::F16), Some(2f32.powi(-14)));
        assert_eq!(stored_scale(1e-6, 127.0, FloatType::F16), Some(2f32.powi(-14)));
        for to in [FloatType::F32, FloatType::BF16, FloatType::F16] {
            for absmax in [0.0, 1e-6, 0.3, 1000.0] {
                let scale = symmetric_scale(absmax, 127.0).expect("fits");
                assert_eq!(Some(narrowed_scale(scale, to)), stored_scale(absmax, 127.0, to));
            }
        }
    }

    #[test]
    fn a_range_beyond_f32_has_no_scale() {
        assert_eq!(symmetric_scale(1e300, 127.0), None);
        assert!(symmetric_scale(1e38, 127.0).is_some());
    }
}
