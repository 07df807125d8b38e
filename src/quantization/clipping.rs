//! The clip of a group of elements in memory, or of a histogram.

use crate::quantization::calibration::{
    Calibration, clips, least_index, percentile_rank, symmetric_scale,
};
use crate::quantization::kernels::{self, Quantization};
use crate::quantization::quantization_type::QuantizationType;
use crate::quantization::scheme::Rounding;
use crate::quantization::value_histogram::ValueHistogram;
use crate::tensor::{FloatType, read_f64};

/// Bytes of 16-bit elements from which a histogram is faster than trying candidates on the
/// elements themselves.
const HISTOGRAM_BYTES: usize = 1 << 17;

impl Calibration {
    /// The clip of elements with the largest magnitude `absmax`, for calibrations that need
    /// nothing else; `absmax` itself for those that search for a smaller clip.
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

    /// The clip of the finite little-endian elements `group`, whose largest magnitude is
    /// `absmax`.
    pub(super) fn clip(
        self,
        dtype: FloatType,
        group: &[u8],
        absmax: f64,
        qtype: QuantizationType,
        rounding: Rounding,
    ) -> f64 {
        // From a histogram, the sums do not depend on how the elements are divided.
        if self == Calibration::Mse && dtype.size() == 2 && group.len() >= HISTOGRAM_BYTES {
            let histogram = ValueHistogram::of(dtype, group);
            return self.clip_of_histogram(&histogram, absmax, qtype, rounding);
        }
        self.search(
            absmax,
            |percent| {
                let count = (group.len() / dtype.size()) as u64;
                nth_magnitude(dtype, group, percentile_rank(percent, count))
            },
            || {
                let error = |params| kernels::error(dtype, group, params).noise;
                candidates(absmax, qtype, rounding)
                    .map(|params| params.map_or(f64::INFINITY, error))
                    .collect()
            },
        )
    }

    /// The clip of a tensor with the largest magnitude `absmax`, from its exact histogram.
    pub fn clip_of_histogram(
        self,
        histogram: &ValueHistogram,
        absmax: f64,
        qtype: QuantizationType,
        rounding: Rounding,
    ) -> f64 {
        self.search(
            absmax,
            |percent| {
                let rank = percentile_rank(percent, histogram.moments().range.finite());
                histogram.magnitude(rank).map(f64::from)
            },
            || histogram.squared_errors(candidates(absmax, qtype, rounding)),
        )
    }

    /// The clip, given functions for what a search needs: the magnitude at a percentile, and
    /// the squared errors of all candidates.
    fn search(
        self,
        absmax: f64,
        percentile: impl FnOnce(f64) -> Option<f64>,
        errors: impl FnOnce() -> Vec<f64>,
    ) -> f64 {
        match self {
            Calibration::MinMax
            | Calibration::Clip(_)
            | Calibration::Magnitude(_)
            | Calibration::Learned => self.clip_of_range(absmax),
            Calibration::Percentile(percent) => percentile_or_absmax(percentile(percent), absmax),
            Calibration::Mse => clip_at(absmax, least_index(errors().into_iter())),
        }
    }
}

/// The quantization for each of the [`clips`]; `None` where a clip has no scale.
pub(super) fn candidates(
    absmax: f64,
    qtype: QuantizationType,
    rounding: Rounding,
) -> impl Iterator<Item = Option<Quantization>> {
    clips(absmax).map(move |clip| {
        symmetric_scale(clip, qtype.max()).map(|scale| Quantization { scale, qtype, rounding })
    })
}

/// Number `index` of the [`clips`].
pub(super) fn clip_at(absmax: f64, index: usize) -> f64 {
    clips(absmax).nth(index).unwrap_or(absmax)
}

/// `absmax` where the percentile is zero or unknown: most elements are zero then.
pub(super) fn percentile_or_absmax(percentile: Option<f64>, absmax: f64) -> f64 {
    percentile.filter(|&magnitude| magnitude > 0.0).unwrap_or(absmax)
}

/// The `rank`-th smallest magnitude, counted from 1.
fn nth_magnitude(dtype: FloatType, group: &[u8], rank: u64) -> Option<f64> {
    let index = usize::try_from(rank).ok()?.checked_sub(1)?;
    let count = group.len() / dtype.size();
    let magnitudes = (0..count).filter_map(|i| Some(read_f64(dtype, group, i)?.abs()));
    let mut magnitudes: Vec<f64> = magnitudes.collect();
    (index < magnitudes.len()).then(|| *magnitudes.select_nth_unstable_by(index, f64::total_cmp).1)
}
