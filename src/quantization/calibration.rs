//! Calibration methods, and scales computed from a clipping magnitude.

use crate::tensor::FloatType;
use half::{bf16, f16};
use std::fmt;
use std::str::FromStr;

/// Chooses the clip of a group of values: the magnitude that is mapped to the largest quantized
/// value. Larger magnitudes saturate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Calibration {
    /// The largest magnitude, so that nothing saturates.
    #[default]
    MinMax,
    /// The smallest magnitude that the given percentage of the values do not exceed. The
    /// percentage is above 0 and at most 100. Min-max where that magnitude is zero.
    Percentile(f64),
    /// The candidate of [`clips`] with the least mean squared error; the largest clip if there are several.
    Mse,
    /// The given fraction of the largest magnitude, above 0 and at most 1.
    Clip(f64),
    /// The given magnitude.
    Magnitude(f64),
    /// The scales learned in quantization-aware training, one for the tensor or one for each
    /// output channel. Min-max where no learned scales fit the scheme.
    Learned,
}

/// Number of candidates that [`Calibration::Mse`] tries.
pub const CLIP_CANDIDATES: usize = 65;

/// The candidates that [`Calibration::Mse`] tries: `absmax · 2^(−k/16)` for `k` from 0 to 64.
pub fn clips(absmax: f64) -> impl ExactSizeIterator<Item = f64> {
    (0..CLIP_CANDIDATES as u32).map(move |step| absmax * (-f64::from(step) / 16.0).exp2())
}

/// Returns the index of the smallest error, the first one if there are several.
pub(super) fn least_index(errors: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::INFINITY);
    for (index, error) in errors.enumerate() {
        if error < best.1 {
            best = (index, error);
        }
    }
    best.0
}

/// The rank, counted from 1 by ascending magnitude, of the value that `percent` percent of
/// `count` values do not exceed.
pub(super) fn percentile_rank(percent: f64, count: u64) -> u64 {
    ((percent * count as f64 / 100.0).ceil() as u64).clamp(1, count.max(1))
}

/// The f32 scale that maps `absmax` onto the largest quantized value: `absmax / qmax`.
///
/// The scale of zeros, or one that underflows, is the smallest normal f32, as in Burn. If
/// `scale * qmax` overflows although `absmax` is finite, the next smaller scale is returned,
/// so that dequantized values are finite. `None` if `absmax` is beyond f32.
pub fn symmetric_scale(absmax: f64, qmax: f32) -> Option<f32> {
    stored_scale(absmax, qmax, FloatType::F32)
}

/// [`symmetric_scale`] rounded to `stored`, the type the scale is stored in. Elements are
/// quantized by the scale as it reads back. [`FloatType::F64`] counts as F32.
pub fn stored_scale(absmax: f64, qmax: f32, stored: FloatType) -> Option<f32> {
    let scale = match absmax as f32 {
        // Other implementations divide in f32, so an f32 magnitude is divided in f32 too.
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

/// `scale` as it reads back from `stored`, the type it is stored in.
pub(crate) fn narrowed_scale(scale: f32, stored: FloatType) -> f32 {
    stored_scale(scale.into(), 1.0, stored).unwrap_or(scale)
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Calibration::MinMax => f.pad("min-max"),
            Calibration::Percentile(percent) => f.pad(&format!("percentile:{percent}")),
            Calibration::Mse => f.pad("mse"),
            Calibration::Clip(share) => f.pad(&format!("clip:{share}")),
            Calibration::Magnitude(magnitude) => f.pad(&format!("magnitude:{magnitude}")),
            Calibration::Learned => f.pad("learned"),
        }
    }
}

impl FromStr for Calibration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |prefix: &str, most: f64| {
            let value: f64 = text.strip_prefix(prefix)?.parse().ok()?;
            (value > 0.0 && value <= most).then_some(value)
        };
        match text {
            "min-max" => Ok(Calibration::MinMax),
            "mse" => Ok(Calibration::Mse),
            "learned" => Ok(Calibration::Learned),
            _ => number("percentile:", 100.0)
                .map(Calibration::Percentile)
                .or_else(|| number("clip:", 1.0).map(Calibration::Clip))
                .or_else(|| number("magnitude:", f32::MAX.into()).map(Calibration::Magnitude))
                .ok_or_else(|| {
                    format!(
                        "unknown calibration '{text}': expected min-max, percentile:P with P up to 100, mse, clip:S with S up to 1, magnitude:M or learned"
                    )
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibrations_survive_formatting_and_parsing() {
        for text in [
            "min-max",
            "percentile:99.9",
            "mse",
            "clip:0.5",
            "percentile:100",
            "magnitude:3.25",
            "learned",
        ] {
            assert_eq!(text.parse::<Calibration>().expect(text).to_string(), text);
        }
        for text in [
            "",
            "percentile",
            "percentile:0",
            "percentile:101",
            "clip:NaN",
            "clip:-1",
            "magnitude:0",
        ] {
            assert!(text.parse::<Calibration>().is_err(), "{text}");
        }
    }

    #[test]
    fn percentile_ranks_start_at_one_and_clips_at_the_absmax() {
        assert_eq!((percentile_rank(100.0, 10), percentile_rank(99.0, 1000)), (10, 990));
        assert_eq!((percentile_rank(0.001, 10), percentile_rank(99.99, 10)), (1, 10));
        let clips: Vec<f64> = clips(8.0).collect();
        assert_eq!((clips.len(), clips[0], clips[16], clips[64]), (CLIP_CANDIDATES, 8.0, 4.0, 0.5));
        assert_eq!(least_index([3.0, 1.0, 2.0, 1.0].into_iter()), 1);
    }

    #[test]
    fn absmax_maps_onto_the_largest_quantized_value() {
        assert_eq!(symmetric_scale(127.0, 127.0), Some(1.0));
        assert_eq!(symmetric_scale(1.0, 127.0), Some(1.0 / 127.0));
    }

    #[test]
    fn zeros_and_underflow_give_the_smallest_normal_scale() {
        assert_eq!(symmetric_scale(0.0, 127.0), Some(f32::MIN_POSITIVE));
        assert_eq!(symmetric_scale(1e-45, 127.0), Some(f32::MIN_POSITIVE));
    }

    #[test]
    fn scale_times_qmax_is_finite_for_any_finite_f32() {
        for qmax in [127.0, 7.0, 448.0] {
            let mut absmax = f32::MAX;
            for _ in 0..1000 {
                for stored in [FloatType::F32, FloatType::BF16] {
                    let scale = stored_scale(absmax.into(), qmax, stored).expect("fits");
                    assert!((scale * qmax).is_finite(), "{absmax:e} {qmax} {stored:?}");
                    // Still large enough that absmax rounds to the largest level.
                    assert!(absmax / scale < qmax + 0.5 || qmax == 448.0);
                }
                absmax = absmax.next_down();
            }
        }
        assert_eq!(stored_scale(1e7, 127.0, FloatType::F16), None);
    }

    #[test]
    fn stored_scales_are_rounded_to_their_type() {
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
    fn absmax_beyond_f32_has_no_scale() {
        assert_eq!(symmetric_scale(1e300, 127.0), None);
        assert!(symmetric_scale(1e38, 127.0).is_some());
    }
}
