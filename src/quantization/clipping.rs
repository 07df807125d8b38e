//! The magnitude a calibration maps onto the largest quantized value, of a group of
//! elements that lies in memory or is counted.

use crate::quantization::calibration::{clips, least, percentile_rank, symmetric_scale};
use crate::quantization::kernels::{self, Quantization};
use crate::quantization::{Calibration, QuantizationType, Rounding, ValueHistogram};
use crate::tensor::{FloatType, read_f64};

/// From how many bytes of elements of 16 bits on counting them is worth it.
const COUNTED_BYTES: usize = 1 << 17;

impl Calibration {
    /// The clip that follows from the largest magnitude alone, which is that magnitude where
    /// a calibration needs more to find a smaller one.
    pub fn clip_of_range(self, absmax: f64) -> f64 {
        match self {
            Calibration::Clip(share) => absmax * share,
            Calibration::Magnitude(magnitude) => magnitude,
            Calibration::MinMax
            | Calibration::Percentile(_)
            | Calibration::Mse
            | Calibration::Learned => absmax,
        }
    }

    /// The clip of the finite elements `group`, whose largest magnitude is `absmax`.
    pub(super) fn clip(
        self,
        dtype: FloatType,
        group: &[u8],
        absmax: f64,
        qtype: QuantizationType,
        rounding: Rounding,
    ) -> f64 {
        // Counted, so that the sums do not depend on how the elements are divided.
        if self == Calibration::Mse && dtype.size() == 2 && group.len() >= COUNTED_BYTES {
            return self.clip_counted(&ValueHistogram::of(dtype, group), absmax, qtype, rounding);
        }
        self.choose(
            absmax,
            |percent| {
                let count = (group.len() / dtype.size()) as u64;
                nth_magnitude(dtype, group, percentile_rank(percent, count))
            },
            || {
                let noise = |how| kernels::error(dtype, group, how).noise;
                trials(absmax, qtype, rounding)
                    .map(|how| how.map_or(f64::INFINITY, noise))
                    .collect()
            },
        )
    }

    /// The clip of a tensor whose elements are counted exactly.
    pub fn clip_counted(
        self,
        counted: &ValueHistogram,
        absmax: f64,
        qtype: QuantizationType,
        rounding: Rounding,
    ) -> f64 {
        self.choose(
            absmax,
            |percent| {
                let rank = percentile_rank(percent, counted.moments().range.finite());
                counted.magnitude(rank).map(f64::from)
            },
            || counted.noises(trials(absmax, qtype, rounding)),
        )
    }

    /// The clip, from the largest magnitude and what is looked for only where it is needed:
    /// a percentile's magnitude, and the squared errors of all [`clips`].
    fn choose(
        self,
        absmax: f64,
        magnitude: impl FnOnce(f64) -> Option<f64>,
        noises: impl FnOnce() -> Vec<f64>,
    ) -> f64 {
        match self {
            Calibration::MinMax
            | Calibration::Clip(_)
            | Calibration::Magnitude(_)
            | Calibration::Learned => self.clip_of_range(absmax),
            Calibration::Percentile(percent) => or_absmax(magnitude(percent), absmax),
            Calibration::Mse => nth_clip(absmax, least(noises().into_iter())),
        }
    }
}

/// How the elements would be quantized for each of [`clips`]; `None` where a clip has no
/// scale.
pub(super) fn trials(
    absmax: f64,
    qtype: QuantizationType,
    rounding: Rounding,
) -> impl Iterator<Item = Option<Quantization>> {
    clips(absmax).map(move |clip| {
        symmetric_scale(clip, qtype.max()).map(|scale| Quantization { scale, qtype, rounding })
    })
}

/// One of [`clips`].
pub(super) fn nth_clip(absmax: f64, place: usize) -> f64 {
    clips(absmax).nth(place).unwrap_or(absmax)
}

/// Where so many elements are zero that the percentile is, min-max.
pub(super) fn or_absmax(percentile: Option<f64>, absmax: f64) -> f64 {
    percentile.filter(|&magnitude| magnitude > 0.0).unwrap_or(absmax)
}

/// The `rank`-th magnitude from the smallest, counted from 1.
fn nth_magnitude(dtype: FloatType, group: &[u8], rank: u64) -> Option<f64> {
    let place = usize::try_from(rank).ok()?.checked_sub(1)?;
    let count = group.len() / dtype.size();
    let magnitudes = (0..count).filter_map(|i| Some(read_f64(dtype, group, i)?.abs()));
    let mut magnitudes: Vec<f64> = magnitudes.collect();
    (place < magnitudes.len()).then(|| *magnitudes.select_nth_unstable_by(place, f64::total_cmp).1)
}
