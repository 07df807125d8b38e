//! From an element to the nearest level: the quotient, and what it is rounded to.

use super::f8::{e4m3_magnitude, f8e4m3_from, f8e4m3_value, with_sign};
use super::lanes::{LANES, Lanes, map, zip};
use super::level::Level;
use super::{Quantization, QuantizationType, Rounding};

/// The scales whose squares and reciprocals are far from the limits of f32. Others are
/// rare and go the careful way.
const ORDINARY: std::ops::RangeInclusive<f32> = 8.881_784e-16..=1.125_9e15;

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
        Divisors::new(level, [scale; LANES], qmax).at(0)
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
        let scale = l.splat(self.scale);
        if L::FMA {
            let inverse = l.splat(self.inverse);
            let near = l.mul_add(x, inverse, l.mul(x, l.splat(self.lost)));
            let remainder = l.mul_add(near, l.splat(-self.scale), x);
            l.mul_add(remainder, inverse, near)
        } else {
            l.div(x, scale)
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
    pub(super) fn new<L: Level>(_: L, scales: Lanes<f32>, qmax: f32) -> Divisors {
        let inverse = map(scales, |scale| 1.0 / scale);
        let lost = if L::FMA {
            // What is left of 1 is exact, and a rounded 1 / scale near enough to divide it.
            zip(scales, inverse, |scale, inverse| (-scale).mul_add(inverse, 1.0) * inverse)
        } else {
            [0.0; LANES]
        };
        Divisors { scale: scales, limit: map(scales, |scale| scale * (qmax + 0.25)), inverse, lost }
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

/// 1.5 · 2²³, whose unit in the last place is 1: adding it to a small number rounds that
/// to an integer, half to even, and leaves it in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// The values a quotient can be rounded to.
pub(super) trait Grid: Copy {
    /// Seldom asked for.
    const RARE: bool;
    /// The integers, halves to the even.
    const IS_HALF_EVEN: bool = false;

    /// The nearest levels and, in the low eight bits, their codes.
    fn round<L: Level>(self, l: L, quotients: L::F32) -> (L::F32, L::U32);

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
        let magic = l.splat(MAGIC);
        let sum = l.add(quotients, magic);
        (l.sub(sum, magic), l.bits(sum))
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
            let even = (t.abs() + MAGIC) - MAGIC;
            // The difference is exact; one half means that the even one was below.
            let away = if t.abs() - even == 0.5 { even + 1.0 } else { even };
            away.copysign(t)
        });
        let q = l.f32s(q);
        (q, l.bits(l.add(q, l.splat(MAGIC))))
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

/// The level nearest to any one quotient, and its code: the careful way.
pub fn round_one(quotient: f64, how: &Quantization) -> (f32, u8) {
    match how.qtype {
        QuantizationType::QInt8 | QuantizationType::QInt4 => {
            let max = f64::from(how.qtype.max());
            let quotient = quotient.clamp(-max, max);
            let q = match how.rounding {
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
