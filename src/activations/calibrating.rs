//! From recorded inputs to the one scale that static quantization has for them.

use super::captures::{Recording, Source};
use super::error::{ActivationsError, Fault};
use super::stream::Stream;
use crate::quantization::kernels::{self, Quantization};
use crate::quantization::{
    CLIPS, Calibration, QuantizationType, Range, Rounding, clips, symmetric_scale,
};
use crate::tensor::FloatType;

const INT8: QuantizationType = QuantizationType::QInt8;

/// The scale of a layer's inputs as symmetric int8, per tensor; `None` if only a summary
/// without ranges was recorded. The range runs over all batches.
///
/// A summary tells the largest magnitude alone: the calibrations that need more take it.
pub fn input_scale(
    stream: &mut Stream,
    recording: &Recording,
    calibration: Calibration,
    wanted: &dyn Fn() -> bool,
) -> Result<Option<f32>, ActivationsError> {
    let clip = match &recording.source {
        Source::Summary(summary) => {
            let Some(absmax) = summary.absmax else { return Ok(None) };
            match calibration {
                Calibration::Clip(share) => absmax * share,
                Calibration::Magnitude(magnitude) => magnitude,
                _ => absmax,
            }
        }
        Source::Inputs(inputs) => {
            let mut range = Range::default();
            stream.each(inputs, wanted, |samples| {
                range.merge(&kernels::range(FloatType::F32, samples.bytes));
            })?;
            let absmax = range.absmax();
            match calibration {
                Calibration::MinMax => absmax,
                Calibration::Clip(share) => absmax * share,
                Calibration::Magnitude(magnitude) => magnitude,
                Calibration::Percentile(percent) => {
                    let rank = crate::quantization::percentile_rank(percent, range.count);
                    let mut magnitude = Ranked::new(rank);
                    for _ in 0..2 {
                        stream.each(inputs, wanted, |samples| magnitude.count(samples.values))?;
                        magnitude.narrow();
                    }
                    match magnitude.found() {
                        0.0 => absmax,
                        clip => clip,
                    }
                }
                Calibration::Mse => {
                    let mut noises = [0.0; CLIPS];
                    stream.each(inputs, wanted, |samples| {
                        for (noise, clip) in noises.iter_mut().zip(clips(absmax)) {
                            let Some(scale) = symmetric_scale(clip, INT8.max()) else { continue };
                            let rounding = Rounding::HalfEven;
                            let how = Quantization { scale, qtype: INT8, rounding };
                            *noise += kernels::error(FloatType::F32, samples.bytes, how).noise;
                        }
                    })?;
                    let best = crate::quantization::least(noises.into_iter());
                    clips(absmax).nth(best).unwrap_or(absmax)
                }
            }
        }
    };
    match symmetric_scale(clip, INT8.max()) {
        Some(scale) => Ok(Some(scale)),
        None => match &recording.source {
            Source::Inputs(inputs) => Err(stream.fault(inputs, Fault::TooLarge(clip))),
            Source::Summary(_) => Ok(None),
        },
    }
}

/// Finds the value of a rank among magnitudes in two passes: f32s are ordered as the bits
/// of their magnitudes are, so the upper half of the bits is counted first, then the lower
/// half of those that share it.
struct Ranked {
    /// Counted from 1 among what is still in question.
    rank: u64,
    upper: Option<u32>,
    counts: Vec<u64>,
    found: f32,
}

impl Ranked {
    fn new(rank: u64) -> Ranked {
        Ranked { rank, upper: None, counts: vec![0; 1 << 16], found: 0.0 }
    }

    fn count(&mut self, values: &[f32]) {
        for bits in values.iter().map(|value| value.abs().to_bits()) {
            let place = match self.upper {
                None => bits >> 16,
                Some(upper) if bits >> 16 == upper => bits & 0xffff,
                Some(_) => continue,
            };
            if let Some(count) = self.counts.get_mut(place as usize) {
                *count += 1;
            }
        }
    }

    fn narrow(&mut self) {
        let mut below = 0;
        let mut place = 0;
        for (at, &count) in (0u32..).zip(&self.counts) {
            place = at;
            if below + count >= self.rank {
                break;
            }
            below += count;
        }
        self.rank = self.rank.saturating_sub(below);
        self.counts.fill(0);
        match self.upper {
            None => self.upper = Some(place),
            Some(upper) => self.found = f32::from_bits(upper << 16 | place),
        }
    }

    fn found(&self) -> f64 {
        self.found.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_a_rank_is_found_in_two_passes() {
        let mut bits = 1u32;
        let mut next = || {
            bits = bits.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            (bits >> 8) as f32 / 1e5 - 80.0
        };
        let values: Vec<f32> = (0..5000).map(|_| next()).collect();
        let mut sorted: Vec<f32> = values.iter().map(|v| v.abs()).collect();
        sorted.sort_by(f32::total_cmp);
        for rank in [1, 2, 2500, 4995, 5000] {
            let mut ranked = Ranked::new(rank);
            for _ in 0..2 {
                values.chunks(999).for_each(|part| ranked.count(part));
                ranked.narrow();
            }
            assert_eq!(ranked.found(), f64::from(sorted[rank as usize - 1]), "{rank}");
        }
    }
}
