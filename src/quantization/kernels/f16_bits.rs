//! Operations on the bit patterns of 16-bit elements.
//!
//! Patterns are compared 32 at a time. A threshold between two levels of a scale is a threshold
//! between two patterns.

use crate::quantization::kernels::array_lanes::{
    LANES, Lanes, PAIR, map, narrow_bf16, narrow_f16, widen_f16,
};
use crate::quantization::kernels::element::{Narrow, absmax_by_value};
use crate::quantization::kernels::rounding::{Divisor, Grid, IntegersHalfEven};
use crate::quantization::kernels::simd::Simd;
use crate::quantization::statistics::Range;
use half::{bf16, f16};

/// Mask for all bits but the sign. Patterns without a sign are ordered like their magnitudes.
const MAGNITUDE: u16 = 0x7FFF;

/// A 16-bit element type.
pub(super) trait Bits16: Narrow<Raw = Lanes<[u8; 2]>> {
    /// The smallest pattern without a sign that is not finite.
    const INFINITY: u16;

    /// The patterns nearest to finite f32.
    fn nearest(values: Lanes<f32>) -> Lanes<u16>;

    /// The values of patterns.
    fn values(patterns: Lanes<u16>) -> Lanes<f32>;

    /// Compares the low eight bits of the lanes of two vectors, in the order of the elements,
    /// with `other`. A lane of the result is non-zero if they differ.
    fn differ8<S: Simd>(simd: S, pair: [S::U32; 2], other: &[u8; PAIR]) -> S::U32;
}

impl Bits16 for bf16 {
    const INFINITY: u16 = 0x7F80;

    #[inline(always)]
    fn nearest(values: Lanes<f32>) -> Lanes<u16> {
        map(narrow_bf16(values), |bits| bits as u16)
    }
    #[inline(always)]
    fn values(patterns: Lanes<u16>) -> Lanes<f32> {
        map(patterns, |pattern| f32::from_bits(u32::from(pattern) << 16))
    }
    #[inline(always)]
    fn differ8<S: Simd>(simd: S, [even, odd]: [S::U32; 2], other: &[u8; PAIR]) -> S::U32 {
        simd.differ8_alternating(even, odd, other)
    }
}

impl Bits16 for f16 {
    const INFINITY: u16 = 0x7C00;

    #[inline(always)]
    fn nearest(values: Lanes<f32>) -> Lanes<u16> {
        narrow_f16(values)
    }
    #[inline(always)]
    fn values(patterns: Lanes<u16>) -> Lanes<f32> {
        widen_f16(patterns)
    }
    #[inline(always)]
    fn differ8<S: Simd>(simd: S, pair: [S::U32; 2], other: &[u8; PAIR]) -> S::U32 {
        let mut differences = simd.u32s([0; LANES]);
        for (other, lanes) in other.as_chunks().0.iter().zip(pair) {
            differences = simd.or(differences, simd.differ8(lanes, other));
        }
        differences
    }
}

impl Narrow for f16 {
    const SIGNIFICANT_BITS: u32 = f16::MANTISSA_DIGITS;

    #[inline(always)]
    fn load<S: Simd>(simd: S, raw: &Self::Raw) -> S::F32 {
        simd.load_f16(raw)
    }
    #[inline(always)]
    fn load_pair<S: Simd>(simd: S, raw: &[Self::Raw; 2]) -> [S::F32; 2] {
        [simd.load_f16(&raw[0]), simd.load_f16(&raw[1])]
    }
    #[inline(always)]
    fn absmax_of_pairs<S: Simd>(simd: S, pairs: &[[Self::Raw; 2]]) -> S::F32 {
        absmax::<Self, S>(simd, pairs)
    }
    #[inline(always)]
    fn reciprocal_rounds_alike<S: Simd>(simd: S, by: &Divisor, qmax: f32) -> bool {
        reciprocal_rounds_alike::<Self, S>(simd, by, qmax)
    }
}

impl Narrow for bf16 {
    const SIGNIFICANT_BITS: u32 = bf16::MANTISSA_DIGITS;

    #[inline(always)]
    fn load<S: Simd>(simd: S, raw: &Self::Raw) -> S::F32 {
        simd.load_bf16(raw)
    }
    #[inline(always)]
    fn load_pair<S: Simd>(simd: S, raw: &[Self::Raw; 2]) -> [S::F32; 2] {
        simd.widen_bf16(simd.load_u16(raw))
    }
    #[inline(always)]
    fn absmax_of_pairs<S: Simd>(simd: S, pairs: &[[Self::Raw; 2]]) -> S::F32 {
        absmax::<Self, S>(simd, pairs)
    }
    #[inline(always)]
    fn reciprocal_rounds_alike<S: Simd>(simd: S, by: &Divisor, qmax: f32) -> bool {
        reciprocal_rounds_alike::<Self, S>(simd, by, qmax)
    }
}

/// Splits `bytes` into steps of [`PAIR`] elements and the bytes after the last full step.
#[inline(always)]
pub(super) fn pairs<E: Bits16>(bytes: &[u8]) -> (&[[E::Raw; 2]], &[u8]) {
    let (whole, _) = E::split(bytes);
    let (pairs, _) = whole.as_chunks::<2>();
    (pairs, bytes.get(pairs.len() * PAIR * E::SIZE..).unwrap_or_default())
}

/// Lanes whose maximum is the largest magnitude. NaN is ignored.
#[inline(always)]
pub(super) fn absmax<E, S: Simd>(simd: S, pairs: &[[E::Raw; 2]]) -> S::F32
where
    E: Narrow<Raw = Lanes<[u8; 2]>>,
{
    let mut largest = simd.splat_u16(0);
    for raw in pairs {
        largest = simd.max_u16(largest, magnitudes(simd, simd.load_u16(raw)));
    }
    let mut raw = [[[0; 2]; LANES]; 2];
    for (raw, pattern) in raw.as_flattened_mut().iter_mut().zip(simd.array_u16(largest)) {
        *raw = pattern.to_le_bytes();
    }
    let [a, b] = E::load_pair(simd, &raw);
    let is_number = |x| simd.all_within(x, 0.0, f32::INFINITY);
    if is_number(a) && is_number(b) {
        simd.max(a, b)
    } else {
        // The patterns of NaN are larger than any magnitude, so compare values instead.
        absmax_by_value::<E, S>(simd, pairs)
    }
}

/// Minimum and maximum of patterns as unsigned and as signed integers. Together they give the
/// smallest and the largest value.
#[derive(Clone, Copy)]
pub(super) struct Extremes<S: Simd> {
    simd: S,
    smallest: S::U16,
    largest: S::U16,
    /// The largest pattern as a signed integer.
    largest_signed: S::U16,
}

impl<S: Simd> Extremes<S> {
    #[inline(always)]
    pub(super) fn new(simd: S) -> Self {
        let smallest = simd.splat_u16(u16::MAX);
        let largest = simd.splat_u16(0);
        Extremes { simd, smallest, largest, largest_signed: simd.splat_u16(0x8000) }
    }

    #[inline(always)]
    pub(super) fn add(&mut self, patterns: S::U16) {
        let simd = self.simd;
        self.smallest = simd.min_u16(self.smallest, patterns);
        self.largest = simd.max_u16(self.largest, patterns);
        self.largest_signed = simd.max_i16(self.largest_signed, patterns);
    }

    /// The range of the `count` elements, at least one; `None` if an element is not finite.
    #[inline(always)]
    pub(super) fn range<E: Bits16>(&self, count: usize) -> Option<Range> {
        let simd = self.simd;
        let smallest = simd.array_u16(self.smallest).into_iter().fold(u16::MAX, u16::min);
        let largest = simd.array_u16(self.largest).into_iter().fold(0, u16::max);
        let signed = simd.array_u16(self.largest_signed).into_iter();
        let signed = signed.map(|pattern| pattern as i16).fold(i16::MIN, i16::max);
        // If any sign is set, the largest pattern is the smallest value. If no sign is set, or all
        // are, the smallest pattern is the value nearest to zero.
        let min = if largest > MAGNITUDE { largest } else { smallest };
        let max = if signed >= 0 { signed as u16 } else { smallest };
        let finite = |pattern: u16| pattern & MAGNITUDE < E::INFINITY;
        let value = |pattern: u16| E::read(&pattern.to_le_bytes()).into();
        let all_finite = finite(min) && finite(max) && finite(smallest);
        all_finite.then(|| Range {
            count: count as u64,
            min: value(min),
            max: value(max),
            ..Range::default()
        })
    }
}

/// The patterns without their signs.
#[inline(always)]
pub(super) fn magnitudes<S: Simd>(simd: S, patterns: S::U16) -> S::U16 {
    simd.and_u16(patterns, simd.splat_u16(MAGNITUDE))
}

/// Number of patterns that are zero, with either sign.
#[inline(always)]
pub(super) fn count_zeros<S: Simd>(simd: S, patterns: S::U16) -> u32 {
    count_at_most(simd, patterns, simd.splat_u16(0))
}

/// Number of patterns whose magnitude is at most `bound`, a pattern without a sign.
#[inline(always)]
pub(super) fn count_at_most<S: Simd>(simd: S, patterns: S::U16, bound: S::U16) -> u32 {
    simd.count_at_most(magnitudes(simd, patterns), bound)
}

/// The pattern of the largest magnitude that rounds to `level` or a lower level, half to even.
#[inline(always)]
pub(super) fn last_at_most<E: Bits16>(divisor: &Divisor, level: f32) -> u16 {
    let scale = divisor.scale;
    let near = E::nearest([(level + 0.5) * scale; LANES])[0].min(E::INFINITY - 1);
    let around = near.saturating_sub(2)..=(near + 2).min(E::INFINITY - 1);
    let rounds_below = |pattern: &u16| {
        let quotient = E::read(&pattern.to_le_bytes()) / scale;
        quotient.round_ties_even() <= level
    };
    around.rev().find(rounds_below).unwrap_or(0)
}

/// Whether multiplying by the reciprocal of the scale rounds every pattern to the same level as
/// dividing by the scale, half to even, up to level `qmax`.
///
/// Both roundings are monotonic, and both step to the next level within two f32 units in the
/// last place of the middle between two levels. If they agree on the patterns around every
/// middle, they agree on all patterns.
#[inline(always)]
pub(super) fn reciprocal_rounds_alike<E: Bits16, S: Simd>(
    simd: S,
    divisor: &Divisor,
    qmax: f32,
) -> bool {
    let (scale, inverse) = (simd.splat(divisor.scale), simd.splat(divisor.inverse));
    let mut levels: Lanes<f32> = std::array::from_fn(|i| i as f32 + 0.5);
    while levels[0] < qmax {
        let near = E::nearest(map(levels, |level| level * divisor.scale));
        for step in [-1i16, 0, 1] {
            let last = E::INFINITY - 1;
            let patterns = map(near, |near| near.saturating_add_signed(step).min(last));
            let x = simd.f32s(E::values(patterns));
            let (divided, _) = IntegersHalfEven.round(simd, simd.div(x, scale));
            let (multiplied, _) = IntegersHalfEven.round(simd, simd.mul(x, inverse));
            if simd.array(divided) != simd.array(multiplied) {
                return false;
            }
        }
        levels = map(levels, |level| level + LANES as f32);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::kernels::simd::Baseline;

    fn scales() -> impl Iterator<Item = f32> {
        let mut state = 9u64;
        (0..3000).map(move |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let mantissa = (state >> 41) as f32 / (1 << 23) as f32;
            (1.0 + mantissa) * ((state >> 33 & 15) as f32 - 14.0).exp2()
        })
    }

    fn quotient<E: Bits16>(pattern: u16, scale: f32) -> f32 {
        E::read(&pattern.to_le_bytes()) / scale
    }

    fn assert_thresholds_separate_levels<E: Bits16>() {
        for scale in scales().take(50) {
            let divisor = Divisor::new(Baseline, scale, 127.0);
            for level in 0..=127 {
                let level = level as f32;
                let last = last_at_most::<E>(&divisor, level);
                assert!(quotient::<E>(last, scale).round_ties_even() <= level, "{scale} {level}");
                if last + 1 < E::INFINITY {
                    let next = quotient::<E>(last + 1, scale).round_ties_even();
                    assert!(next > level, "{scale} {level}");
                }
            }
        }
    }

    #[test]
    fn thresholds_separate_levels() {
        assert_thresholds_separate_levels::<bf16>();
        assert_thresholds_separate_levels::<f16>();
    }

    /// Checks every pattern, and that some reciprocals are refused.
    #[test]
    fn accepted_reciprocals_round_every_pattern_as_division_does() {
        let mut refused = 0;
        for scale in scales() {
            let divisor = Divisor::new(Baseline, scale, 127.0);
            let will_do = reciprocal_rounds_alike::<f16, _>(Baseline, &divisor, 127.0);
            let last = last_at_most::<f16>(&divisor, 127.0);
            let agree = (0..=last).all(|pattern| {
                let x = f16::from_bits(pattern).to_f32();
                (x / scale).round_ties_even() == (x * divisor.inverse).round_ties_even()
            });
            assert!(agree || !will_do, "{scale}");
            refused += usize::from(!will_do);
        }
        assert!((1..1000).contains(&refused), "{refused} of 3000");
    }

    #[test]
    fn extremes_of_one_sign_and_of_both_are_found() {
        for (values, expected) in [
            (vec![1.5f32, 0.25, 3.0], (0.25, 3.0)),
            (vec![-1.5, -0.25, -3.0], (-3.0, -0.25)),
            (vec![-1.5, 0.25, 3.0], (-1.5, 3.0)),
            (vec![-0.0, 0.0], (-0.0, 0.0)),
        ] {
            let mut raw = [[[0; 2]; LANES]; 2];
            for (i, raw) in raw.as_flattened_mut().iter_mut().enumerate() {
                *raw = bf16::from_f32(values[i % values.len()]).to_le_bytes();
            }
            let mut extremes = Extremes::new(Baseline);
            extremes.add(Baseline.load_u16(&raw));
            let range = extremes.range::<bf16>(PAIR).expect("finite");
            assert_eq!((range.min, range.max), expected, "{values:?}");
        }
        let mut extremes = Extremes::new(Baseline);
        extremes.add(Baseline.splat_u16(0xFF80));
        assert_eq!(extremes.range::<bf16>(PAIR), None);
    }
}
