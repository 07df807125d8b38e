//! From an element to the nearest level: the quotient, and what it is rounded to.

use crate::quantization::kernels::array_lanes::{LANES, Lanes, ROUNDING_MAGIC, map, narrow_bf16};
use crate::quantization::kernels::params::Quantization;
use crate::quantization::kernels::simd::Level;
use crate::quantization::scheme::{QuantizationType, Rounding};
use crate::tensor::FloatType;
use crate::tensor::minifloat::{e4m3_magnitude, f8e4m3_from, f8e4m3_value, with_sign};

/// The scales whose squares and reciprocals are far from the limits of f32. Others are
/// rare and go the scalar way.
pub(super) const ORDINARY: std::ops::RangeInclusive<f32> = 8.881_784e-16..=1.125_9e15;

/// A scale, ready to divide by.
#[derive(Clone, Copy)]
pub(super) struct Divisor {
    pub(super) scale: f32,
    /// What every larger element is clamped to: a quarter of a level beyond the last, so
    /// that it is rounded to the last, and no quotient overflows.
    limit: f32,
    /// 1 / scale, and what its rounding lost.
    pub(super) inverse: f32,
    lost: f32,
}

/// Whether a scale may be made a [`Divisor`].
#[inline(always)]
pub(super) fn is_ordinary(scale: f32) -> bool {
    ORDINARY.contains(&scale)
}

impl Divisor {
    /// By which everything becomes zero.
    pub(super) const NOTHING: Divisor = Divisor { scale: 1.0, limit: 0.0, inverse: 1.0, lost: 0.0 };

    /// For an ordinary scale, onto levels up to `qmax`.
    #[inline(always)]
    pub(super) fn new<L: Level>(level: L, scale: f32, qmax: f32) -> Divisor {
        Divisors::new(level, level.splat(scale), qmax).at(0)
    }

    /// The last level that elements are not clamped to.
    #[inline(always)]
    pub(super) fn levels(&self) -> f32 {
        (self.limit / self.scale).floor()
    }

    /// `x / scale` as IEEE 754 rounds it, `x` clamped to just beyond the last level.
    ///
    /// With a fused multiply-add, singles are divided by Markstein's method ("Computation
    /// of elementary functions on the IBM RISC System/6000 processor", 1990): a quotient
    /// within one unit in the last place, corrected by its exact remainder times the
    /// correctly rounded reciprocal, is the correctly rounded quotient. The first one is
    /// good enough as the reciprocal is known to twice the precision. Where a remainder
    /// might underflow, the quotient is below 2⁻⁵⁰ and every grid rounds it to zero.
    #[inline(always)]
    pub(super) fn quotient<L: Level>(&self, l: L, x: L::F32) -> L::F32 {
        self.quotient_within(l, l.max(l.min(x, l.splat(self.limit)), l.splat(-self.limit)))
    }

    /// The same of elements that are no larger than the limit.
    #[inline(always)]
    pub(super) fn quotient_within<L: Level>(&self, l: L, x: L::F32) -> L::F32 {
        if L::FMA {
            let near = self.near(l, x);
            let remainder = l.mul_add(near, l.splat(-self.scale), x);
            l.mul_add(remainder, l.splat(self.inverse), near)
        } else {
            l.div(x, l.splat(self.scale))
        }
    }

    /// The same but for one unit in the last place, where the quotient lies nearly in the
    /// middle between two singles.
    #[inline(always)]
    fn near<L: Level>(&self, l: L, x: L::F32) -> L::F32 {
        if L::FMA {
            l.mul_add(x, l.splat(self.inverse), l.mul(x, l.splat(self.lost)))
        } else {
            l.div(x, l.splat(self.scale))
        }
    }
}

/// A divisor for every lane: many are made at the price of one.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Divisors {
    scale: Lanes<f32>,
    limit: Lanes<f32>,
    inverse: Lanes<f32>,
    lost: Lanes<f32>,
}

impl Divisors {
    /// By which everything becomes zero.
    pub(super) const NOTHING: Divisors = Divisors {
        scale: [1.0; LANES],
        limit: [0.0; LANES],
        inverse: [1.0; LANES],
        lost: [0.0; LANES],
    };

    /// For ordinary scales, onto levels up to `qmax`.
    #[inline(always)]
    pub(super) fn new<L: Level>(l: L, scales: L::F32, qmax: f32) -> Divisors {
        let one = l.splat(1.0);
        let inverse = l.div(one, scales);
        let lost = if L::FMA {
            // What is left of 1 is exact, and a rounded 1 / scale near enough to divide it.
            l.mul(l.mul_add(l.sub(l.splat(0.0), scales), inverse, one), inverse)
        } else {
            l.splat(0.0)
        };
        Divisors {
            scale: l.array(scales),
            limit: l.array(l.mul(scales, l.splat(qmax + 0.25))),
            inverse: l.array(inverse),
            lost: l.array(lost),
        }
    }

    /// For ordinary scales that are `absmax / qmax`, to multiply by: see [`ByReciprocal`].
    #[inline(always)]
    fn reciprocals<L: Level>(l: L, scales: L::F32, absmax: L::F32, qmax: f32) -> Divisors {
        let inverse = l.div(l.splat(1.0), scales);
        // Half the absmax is about a half between two levels, the upper of which is even.
        let half = l.mul(absmax, l.splat(0.5));
        let between = 0.5 * qmax;
        let multiplied = l.at_least(l.mul(half, inverse), l.splat(between));
        // Divided, it is rounded to that half from half a unit in the last place below. Both
        // sides are exact.
        let remainder = l.mul_add(scales, l.splat(-between), half);
        let unit = between - between.next_down();
        let divided = l.at_least(remainder, l.mul(scales, l.splat(-0.5 * unit)));
        // One unit in the last place up or down, whichever way it went wrong.
        let bits = l.sub_u32(l.add_u32(l.bits(inverse), multiplied), divided);
        Divisors {
            scale: l.array(scales),
            inverse: l.array(l.with_bits(bits)),
            ..Divisors::NOTHING
        }
    }

    #[inline(always)]
    pub(super) fn at(&self, lane: usize) -> Divisor {
        Divisor {
            scale: self.scale[lane],
            limit: self.limit[lane],
            inverse: self.inverse[lane],
            lost: self.lost[lane],
        }
    }
}

/// How the elements of groups are divided by the scales of those.
pub(super) trait Division {
    /// The scales as they are used, from those in full precision.
    #[inline(always)]
    fn stored<L: Level>(_l: L, scales: L::F32, _scale_type: FloatType) -> L::F32 {
        scales
    }

    /// Of ordinary scales that were made of these absmaxes.
    #[inline(always)]
    fn divisors<L: Level>(l: L, scales: L::F32, _absmax: L::F32, qmax: f32) -> Divisors {
        Divisors::new(l, scales, qmax)
    }

    /// What rounds to the same level as `x / scale` rounded by IEEE 754.
    fn quotient<L: Level>(l: L, x: L::F32, divisor: &Divisor) -> L::F32;
}

/// Scales may be rounded to fewer bits, and so elements be beyond the last level.
pub(super) struct Clamped;

/// No element is beyond the last level, as scales are not rounded.
pub(super) struct Within;

/// The same for elements of sixteen bits, by a reciprocal of twice their singles' precision.
///
/// Its products may be rounded otherwise than quotients only where those are as near to the
/// middle between two singles as none of elements with so few bits is. A test goes through
/// all of them.
pub(super) struct ByReciprocalInTwo;

/// The same for BF16 onto the levels of int8, by one multiplication.
///
/// With a scale s that is the absmax a of the group divided by 127 and rounded, x/s and
/// x·(1/s) are rounded to different integers only where x·127/a is nearly a half, n/2 with
/// an odd n: where 254·x is nearly n·a. In units of the last place x and a are integers of
/// eight bits times powers of two, so nearly is exactly. As n is odd, 254·x then has one
/// factor of two for each that a has, and every odd factor of a: either x is an odd multiple
/// of a/2, and at most a, so it is a/2; or 127 divides a, whose eight bits leave it no other
/// odd factor, and s is a power of two, by which one may multiply as well. So the one element
/// that may go wrong is half the absmax, and a reciprocal that is right for that is right for
/// all. A test goes through all of them.
pub(super) struct ByReciprocal;

/// One scale for elements that may be beyond the last level, by multiplying: where
/// `reciprocal_will_do` for it.
pub(super) struct ClampedByReciprocal;

impl Division for Clamped {
    #[inline(always)]
    fn stored<L: Level>(l: L, scales: L::F32, scale_type: FloatType) -> L::F32 {
        match scale_type {
            FloatType::F64 | FloatType::F32 => scales,
            FloatType::F16 => l.f32s(l.widen_f16(l.narrow_f16(l.array(scales)))),
            FloatType::BF16 => {
                l.f32s(map(narrow_bf16(l.array(scales)), |bits| f32::from_bits(bits << 16)))
            }
        }
    }
    #[inline(always)]
    fn quotient<L: Level>(l: L, x: L::F32, divisor: &Divisor) -> L::F32 {
        divisor.quotient(l, x)
    }
}

impl Division for Within {
    #[inline(always)]
    fn quotient<L: Level>(l: L, x: L::F32, divisor: &Divisor) -> L::F32 {
        divisor.quotient_within(l, x)
    }
}

impl Division for ByReciprocalInTwo {
    #[inline(always)]
    fn quotient<L: Level>(l: L, x: L::F32, divisor: &Divisor) -> L::F32 {
        divisor.near(l, x)
    }
}

impl Division for ByReciprocal {
    #[inline(always)]
    fn divisors<L: Level>(l: L, scales: L::F32, absmax: L::F32, qmax: f32) -> Divisors {
        Divisors::reciprocals(l, scales, absmax, qmax)
    }
    #[inline(always)]
    fn quotient<L: Level>(l: L, x: L::F32, divisor: &Divisor) -> L::F32 {
        l.mul(x, l.splat(divisor.inverse))
    }
}

impl Division for ClampedByReciprocal {
    #[inline(always)]
    fn quotient<L: Level>(l: L, x: L::F32, divisor: &Divisor) -> L::F32 {
        let x = l.max(l.min(x, l.splat(divisor.limit)), l.splat(-divisor.limit));
        l.mul(x, l.splat(divisor.inverse))
    }
}

/// The values a quotient can be rounded to.
pub(super) trait Grid: Copy {
    /// Seldom asked for.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    const RARE: bool;
    /// The integers, halves to the even.
    const IS_HALF_EVEN: bool = false;

    /// The nearest levels and, in the low eight bits, their codes.
    fn round<L: Level>(self, l: L, quotients: L::F32) -> (L::F32, L::U32);

    /// The nearest levels alone.
    #[inline(always)]
    fn nearest<L: Level>(self, l: L, quotients: L::F32) -> L::F32 {
        self.round(l, quotients).0
    }

    /// The `i`-th magnitude from zero, and the codes of it and its negative.
    fn level(self, i: u8) -> (f32, [u8; 2]);
}

/// The integers, as the divisor clamps to the last; halves go to the even one.
#[derive(Clone, Copy)]
pub(super) struct IntegersHalfEven;

impl Grid for IntegersHalfEven {
    const RARE: bool = false;
    const IS_HALF_EVEN: bool = true;

    #[inline(always)]
    fn round<L: Level>(self, l: L, quotients: L::F32) -> (L::F32, L::U32) {
        let magic = l.splat(ROUNDING_MAGIC);
        let sum = l.add(quotients, magic);
        (l.sub(sum, magic), l.bits(sum))
    }

    #[inline(always)]
    fn nearest<L: Level>(self, l: L, quotients: L::F32) -> L::F32 {
        l.round_even(quotients)
    }

    fn level(self, i: u8) -> (f32, [u8; 2]) {
        (f32::from(i), [i, i.wrapping_neg()])
    }
}

/// The integers, as the divisor clamps to the last; halves go away from zero.
#[derive(Clone, Copy)]
pub(super) struct IntegersHalfAway;

impl Grid for IntegersHalfAway {
    const RARE: bool = true;

    #[inline(always)]
    fn round<L: Level>(self, l: L, quotients: L::F32) -> (L::F32, L::U32) {
        let q = map(l.array(quotients), |t| {
            let even = (t.abs() + ROUNDING_MAGIC) - ROUNDING_MAGIC;
            // The difference is exact; one half means that the even one was below.
            let away = if t.abs() - even == 0.5 { even + 1.0 } else { even };
            away.copysign(t)
        });
        let q = l.f32s(q);
        (q, l.bits(l.add(q, l.splat(ROUNDING_MAGIC))))
    }

    fn level(self, i: u8) -> (f32, [u8; 2]) {
        IntegersHalfEven.level(i)
    }
}

/// The finite values of [`f8e4m3_value`].
#[derive(Clone, Copy)]
pub(super) struct E4M3;

impl Grid for E4M3 {
    const RARE: bool = true;

    #[inline(always)]
    fn round<L: Level>(self, l: L, quotients: L::F32) -> (L::F32, L::U32) {
        let t = l.array(quotients);
        let q = map(t, |t| e4m3_magnitude(t.abs()).0.copysign(t));
        (l.f32s(q), l.u32s(map(t, |t| with_sign(e4m3_magnitude(t.abs()).1, t))))
    }

    fn level(self, i: u8) -> (f32, [u8; 2]) {
        // Zero has one code.
        (f8e4m3_value(i), [i, if i == 0 { 0 } else { i | 0x80 }])
    }
}

/// Calls a body generic over [`Grid`] with the one that is asked for.
macro_rules! by_grid {
    ($qtype:expr, $rounding:expr, |$grid:ident| $body:expr) => {{
        use $crate::quantization::kernels::rounding::{E4M3, IntegersHalfAway, IntegersHalfEven};
        use $crate::quantization::{QuantizationType, Rounding};
        match ($qtype, $rounding) {
            (QuantizationType::F8E4M3, _) => {
                let $grid = E4M3;
                $body
            }
            (QuantizationType::QInt8 | QuantizationType::QInt4, Rounding::HalfEven) => {
                let $grid = IntegersHalfEven;
                $body
            }
            (QuantizationType::QInt8 | QuantizationType::QInt4, Rounding::HalfAway) => {
                let $grid = IntegersHalfAway;
                $body
            }
        }
    }};
}
pub(super) use by_grid;

/// The level nearest to any one quotient, and its code: the scalar way.
pub fn round_one(quotient: f64, params: &Quantization) -> (f32, u8) {
    match params.qtype {
        QuantizationType::QInt8 | QuantizationType::QInt4 => {
            let max = f64::from(params.qtype.max());
            let quotient = quotient.clamp(-max, max);
            let q = match params.rounding {
                Rounding::HalfEven => quotient.round_ties_even(),
                Rounding::HalfAway => quotient.round(),
            };
            (q as f32, q as i8 as u8)
        }
        QuantizationType::F8E4M3 => {
            let code = f8e4m3_from(quotient as f32);
            (f8e4m3_value(code), code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::kernels::f16_bits::Half;
    use crate::quantization::kernels::simd::Baseline;
    use half::{bf16, f16};

    fn value<E: Half>(pattern: u16) -> f32 {
        E::read(&pattern.to_le_bytes())
    }

    /// Of every element up to an absmax, for each of these.
    fn assert_every_element_is_rounded_as_dividing_does<E: Half>(
        absmaxes: impl Iterator<Item = u16>,
        qmax: f32,
        quotient: impl Fn(f32, f32) -> f32,
    ) {
        for absmax in absmaxes {
            let of = value::<E>(absmax);
            let scale = of / qmax;
            assert!(is_ordinary(scale), "{of}");
            for pattern in 0..=absmax {
                let x = value::<E>(pattern);
                let exact = (x / scale).round_ties_even();
                let q = quotient(x, scale).round_ties_even();
                assert_eq!(q, exact, "{x} of {of}, {qmax}");
            }
        }
    }

    #[test]
    fn one_right_half_makes_a_reciprocal_right() {
        let mut nudged = 0;
        for m in 0..1 << 7 {
            let of = value::<bf16>(0x3f80 | m);
            let scale = of / 127.0;
            let divisors =
                ByReciprocal::divisors(Baseline, [scale; LANES], [of; LANES], 127.0).at(0);
            nudged += u32::from(divisors.inverse != 1.0 / scale);
            assert_every_element_is_rounded_as_dividing_does::<bf16>(
                std::iter::once(0x3f80 | m),
                127.0,
                |x, _| ByReciprocal::quotient(Baseline, [x; LANES], &divisors)[0],
            );
        }
        assert!((1..128).contains(&nudged), "{nudged} of 128");
    }

    /// The numerics of `near` with a fused multiply-add, whatever the level.
    fn near(x: f32, scale: f32) -> f32 {
        let inverse = 1.0 / scale;
        let lost = (-scale).mul_add(inverse, 1.0) * inverse;
        x.mul_add(inverse, x * lost)
    }

    #[test]
    fn a_reciprocal_in_two_is_right_for_every_half() {
        for qmax in [7.0, 127.0] {
            let mantissas = 0..1 << 7;
            assert_every_element_is_rounded_as_dividing_does::<bf16>(
                mantissas.map(|m| 0x3f80 | m),
                qmax,
                near,
            );
            // Every normal mantissa, and the subnormal ones.
            let (mantissas, subnormal) = (0..1u16 << 10, 1..1u16 << 10);
            assert_every_element_is_rounded_as_dividing_does::<f16>(
                mantissas.map(|m| 0x3c00 | m).chain(subnormal),
                qmax,
                near,
            );
        }
    }
}
