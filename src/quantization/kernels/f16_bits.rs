//! Elements of sixteen bits: as patterns they are compared 32 at a time, and a threshold
//! among the levels of a scale is a threshold among the patterns.

use crate::quantization::kernels::array_lanes::{
    LANES, Lanes, PAIR, map, narrow_bf16, narrow_f16, widen_f16,
};
use crate::quantization::kernels::element::{Narrow, absmax_by_value};
use crate::quantization::kernels::rounding::{Divisor, Grid, IntegersHalfEven};
use crate::quantization::kernels::simd::Level;
use crate::quantization::statistics::Range;
use half::{bf16, f16};

/// Without the sign, patterns are ordered as their magnitudes are.
const MAGNITUDE: u16 = 0x7FFF;

/// An element type of sixteen bits.
pub(super) trait Half: Narrow<Raw = Lanes<[u8; 2]>> {
    /// The smallest pattern without a sign that is not finite.
    const INFINITY: u16;

    /// The patterns nearest to finite singles.
    fn nearest(singles: Lanes<f32>) -> Lanes<u16>;

    fn values(patterns: Lanes<u16>) -> Lanes<f32>;

    /// Bits are set if the low eight bits of a pair's lanes, in the order of its elements, are
    /// not `other`.
    fn unlike8<L: Level>(l: L, pair: [L::U32; 2], other: &[u8; PAIR]) -> L::U32;
}

impl Half for bf16 {
    const INFINITY: u16 = 0x7F80;

    #[inline(always)]
    fn nearest(singles: Lanes<f32>) -> Lanes<u16> {
        map(narrow_bf16(singles), |bits| bits as u16)
    }
    #[inline(always)]
    fn values(patterns: Lanes<u16>) -> Lanes<f32> {
        map(patterns, |pattern| f32::from_bits(u32::from(pattern) << 16))
    }
    #[inline(always)]
    fn unlike8<L: Level>(l: L, [even, odd]: [L::U32; 2], other: &[u8; PAIR]) -> L::U32 {
        l.unlike8_in_turn(even, odd, other)
    }
}

impl Half for f16 {
    const INFINITY: u16 = 0x7C00;

    #[inline(always)]
    fn nearest(singles: Lanes<f32>) -> Lanes<u16> {
        narrow_f16(singles)
    }
    #[inline(always)]
    fn values(patterns: Lanes<u16>) -> Lanes<f32> {
        widen_f16(patterns)
    }
    #[inline(always)]
    fn unlike8<L: Level>(l: L, pair: [L::U32; 2], other: &[u8; PAIR]) -> L::U32 {
        let mut unlike = l.u32s([0; LANES]);
        for (other, lanes) in other.as_chunks().0.iter().zip(pair) {
            unlike = l.or(unlike, l.unlike8(lanes, other));
        }
        unlike
    }
}

impl Narrow for f16 {
    const SIGNIFICANT_BITS: u32 = f16::MANTISSA_DIGITS;

    #[inline(always)]
    fn load<L: Level>(level: L, raw: &Self::Raw) -> L::F32 {
        level.load_f16(raw)
    }
    #[inline(always)]
    fn load_pair<L: Level>(level: L, raw: &[Self::Raw; 2]) -> [L::F32; 2] {
        [level.load_f16(&raw[0]), level.load_f16(&raw[1])]
    }
    #[inline(always)]
    fn absmax_of_pairs<L: Level>(level: L, pairs: &[[Self::Raw; 2]]) -> L::F32 {
        absmax::<Self, L>(level, pairs)
    }
    #[inline(always)]
    fn reciprocal_will_do<L: Level>(level: L, by: &Divisor, qmax: f32) -> bool {
        reciprocal_will_do::<Self, L>(level, by, qmax)
    }
}

impl Narrow for bf16 {
    const SIGNIFICANT_BITS: u32 = bf16::MANTISSA_DIGITS;

    #[inline(always)]
    fn load<L: Level>(level: L, raw: &Self::Raw) -> L::F32 {
        level.load_bf16(raw)
    }
    #[inline(always)]
    fn load_pair<L: Level>(level: L, raw: &[Self::Raw; 2]) -> [L::F32; 2] {
        level.singles(level.load_u16(raw))
    }
    #[inline(always)]
    fn absmax_of_pairs<L: Level>(level: L, pairs: &[[Self::Raw; 2]]) -> L::F32 {
        absmax::<Self, L>(level, pairs)
    }
    #[inline(always)]
    fn reciprocal_will_do<L: Level>(level: L, by: &Divisor, qmax: f32) -> bool {
        reciprocal_will_do::<Self, L>(level, by, qmax)
    }
}

/// [`PAIR`]s of elements, and the bytes after them.
#[inline(always)]
pub(super) fn pairs<E: Half>(bytes: &[u8]) -> (&[[E::Raw; 2]], &[u8]) {
    let (whole, _) = E::split(bytes);
    let (pairs, _) = whole.as_chunks::<2>();
    (pairs, bytes.get(pairs.len() * PAIR * E::SIZE..).unwrap_or_default())
}

/// Lanes of which the largest is the largest magnitude. NaN is ignored.
#[inline(always)]
pub(super) fn absmax<E, L: Level>(l: L, pairs: &[[E::Raw; 2]]) -> L::F32
where
    E: Narrow<Raw = Lanes<[u8; 2]>>,
{
    let mut most = l.splat_u16(0);
    for raw in pairs {
        most = l.max_u16(most, magnitudes(l, l.load_u16(raw)));
    }
    let mut raw = [[[0; 2]; LANES]; 2];
    for (raw, pattern) in raw.as_flattened_mut().iter_mut().zip(l.array_u16(most)) {
        *raw = pattern.to_le_bytes();
    }
    let [a, b] = E::load_pair(l, &raw);
    let is_number = |x| l.all_within(x, 0.0, f32::INFINITY);
    match is_number(a) && is_number(b) {
        true => l.max(a, b),
        // Those of NaN are the largest patterns, whatever they hide.
        false => absmax_by_value::<E, L>(l, pairs),
    }
}

/// The least and the most of patterns, in the ways that tell those of the values.
#[derive(Clone, Copy)]
pub(super) struct Extremes<L: Level> {
    level: L,
    least: L::U16,
    most: L::U16,
    /// Of the patterns as signed integers.
    most_signed: L::U16,
}

impl<L: Level> Extremes<L> {
    #[inline(always)]
    pub(super) fn new(level: L) -> Self {
        let least = level.splat_u16(u16::MAX);
        let most = level.splat_u16(0);
        Extremes { level, least, most, most_signed: level.splat_u16(0x8000) }
    }

    #[inline(always)]
    pub(super) fn add(&mut self, patterns: L::U16) {
        let l = self.level;
        self.least = l.min_u16(self.least, patterns);
        self.most = l.max_u16(self.most, patterns);
        self.most_signed = l.max_i16(self.most_signed, patterns);
    }

    /// The range of `count` elements, at least one; `None` if one is not finite.
    #[inline(always)]
    pub(super) fn range<E: Half>(&self, count: usize) -> Option<Range> {
        let l = self.level;
        let least = l.array_u16(self.least).into_iter().fold(u16::MAX, u16::min);
        let most = l.array_u16(self.most).into_iter().fold(0, u16::max);
        let signed = l.array_u16(self.most_signed).into_iter();
        let signed = signed.map(|pattern| pattern as i16).fold(i16::MIN, i16::max);
        // With the sign set the most is the least value; where none has it, or all have, the
        // least pattern is the value nearest to zero.
        let min = if most > MAGNITUDE { most } else { least };
        let max = if signed >= 0 { signed as u16 } else { least };
        let finite = |pattern: u16| pattern & MAGNITUDE < E::INFINITY;
        let value = |pattern: u16| E::read(&pattern.to_le_bytes()).into();
        let all_finite = finite(min) && finite(max) && finite(least);
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
pub(super) fn magnitudes<L: Level>(l: L, patterns: L::U16) -> L::U16 {
    l.and_u16(patterns, l.splat_u16(MAGNITUDE))
}

/// How many of the patterns are zeros of either sign.
#[inline(always)]
pub(super) fn count_zeros<L: Level>(l: L, patterns: L::U16) -> u32 {
    count_at_most(l, patterns, l.splat_u16(0))
}

/// How many of the patterns have a magnitude of at most that of `bound`.
#[inline(always)]
pub(super) fn count_at_most<L: Level>(l: L, patterns: L::U16, bound: L::U16) -> u32 {
    l.count_at_most(magnitudes(l, patterns), bound)
}

/// The pattern of the largest magnitude that is rounded to `level` or below it, halves to
/// the even.
#[inline(always)]
pub(super) fn last_at_most<E: Half>(divisor: &Divisor, level: f32) -> u16 {
    let scale = divisor.scale;
    let near = E::nearest([(level + 0.5) * scale; LANES])[0].min(E::INFINITY - 1);
    let around = near.saturating_sub(2)..=(near + 2).min(E::INFINITY - 1);
    let rounds_below = |pattern: &u16| {
        let quotient = E::read(&pattern.to_le_bytes()) / scale;
        quotient.round_ties_even() <= level
    };
    around.rev().find(rounds_below).unwrap_or(0)
}

/// Whether multiplying by the reciprocal rounds every pattern to the level that dividing
/// does, halves to the even, up to the level `qmax`.
///
/// Both go up with the magnitude, and the places where they do lie within two units in the
/// last place of a single from half a level. If they agree on the patterns around there,
/// they agree on all.
#[inline(always)]
pub(super) fn reciprocal_will_do<E: Half, L: Level>(l: L, divisor: &Divisor, qmax: f32) -> bool {
    let (scale, inverse) = (l.splat(divisor.scale), l.splat(divisor.inverse));
    let mut levels: Lanes<f32> = std::array::from_fn(|i| i as f32 + 0.5);
    while levels[0] < qmax {
        let near = E::nearest(map(levels, |level| level * divisor.scale));
        for step in [-1i16, 0, 1] {
            let last = E::INFINITY - 1;
            let patterns = map(near, |near| near.saturating_add_signed(step).min(last));
            let x = l.f32s(E::values(patterns));
            let (divided, _) = IntegersHalfEven.round(l, l.div(x, scale));
            let (multiplied, _) = IntegersHalfEven.round(l, l.mul(x, inverse));
            if l.array(divided) != l.array(multiplied) {
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

    fn quotient<E: Half>(pattern: u16, scale: f32) -> f32 {
        E::read(&pattern.to_le_bytes()) / scale
    }

    fn assert_thresholds_stand_between_levels<E: Half>() {
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
    fn thresholds_stand_between_levels() {
        assert_thresholds_stand_between_levels::<bf16>();
        assert_thresholds_stand_between_levels::<f16>();
    }

    /// Every pattern, and that there are scales whose reciprocal will not do.
    #[test]
    fn a_reciprocal_will_do_where_it_rounds_every_pattern_as_dividing_does() {
        let mut refused = 0;
        for scale in scales() {
            let divisor = Divisor::new(Baseline, scale, 127.0);
            let will_do = reciprocal_will_do::<f16, _>(Baseline, &divisor, 127.0);
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
    fn extremes_of_one_sign_and_of_both_are_told() {
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
