//! From an element to the nearest level: the quotient, and what it is rounded to.

use super::dispatch::Level;
use super::f8::{e4m3_magnitude, f8e4m3_from, f8e4m3_value, with_sign};
use super::lanes::{Float, Lanes, map, zip};
use super::{Quantization, QuantizationType, Rounding};

/// The scales whose squares and reciprocals are far from the limits of f32. Others are
/// rare and go the careful way.
const ORDINARY: std::ops::RangeInclusive<f32> = 8.881_784e-16..=1.125_9e15;

/// A scale, ready to divide by.
#[derive(Clone, Copy)]
pub(super) struct Divisor<W> {
    pub(super) scale: W,
    /// What every larger element is clamped to: a quarter of a level beyond the last, so
    /// that it is rounded to the last, and no quotient overflows.
    limit: W,
    /// 1 / scale, and what its rounding lost.
    inverse: W,
    lost: W,
}

impl<W: Float> Divisor<W> {
    /// `None` for a scale that is not ordinary.
    #[inline(always)]
    pub(super) fn new(scale: f32, qmax: f32) -> Option<Divisor<W>> {
        ORDINARY.contains(&scale).then(|| Divisor::of_ordinary(scale, qmax))
    }

    #[inline(always)]
    pub(super) fn of_ordinary(scale: f32, qmax: f32) -> Divisor<W> {
        let inverse = 1.0 / scale;
        // 1 − scale · inverse is exact in f64.
        let lost = (1.0 - f64::from(scale) * f64::from(inverse)) as f32 * inverse;
        Divisor {
            scale: W::from_f32(scale),
            limit: W::from_f32(scale * (qmax + 0.25)),
            inverse: W::from_f32(inverse),
            lost: W::from_f32(lost),
        }
    }

    /// `x / scale` as IEEE 754 rounds it, `x` clamped to just beyond the last level.
    ///
    /// With a fused multiply-add, singles are divided by Markstein's method ("Computation
    /// of elementary functions on the IBM RISC System/6000 processor", 1990): a quotient
    /// within one unit in the last place, corrected by its exact remainder times the
    /// correctly rounded reciprocal, is the correctly rounded quotient. The first one is
    /// good enough as the reciprocal is known to twice the precision. Where a remainder
    /// might underflow, the quotient is below 2⁻²⁰ and every grid rounds it to zero.
    #[inline(always)]
    pub(super) fn quotient<L: Level>(&self, _: L, x: Lanes<W>) -> Lanes<W> {
        let x = map(x, |x| {
            let below = if x < self.limit { x } else { self.limit };
            let lowest = W::default() - self.limit;
            if below > lowest { below } else { lowest }
        });
        if L::FMA && W::IS_SINGLE {
            let near = map(x, |x| x.mul_add(self.inverse, x * self.lost));
            let negated = W::default() - self.scale;
            let remainder = zip(near, x, |near, x| near.mul_add(negated, x));
            zip(near, remainder, |near, r| r.mul_add(self.inverse, near))
        } else {
            map(x, |x| x / self.scale)
        }
    }
}

/// The values a quotient can be rounded to.
pub(super) trait Grid: Copy {
    /// The nearest levels and, in the low eight bits, their codes.
    fn round<W: Float>(self, quotients: Lanes<W>) -> (Lanes<W>, Lanes<u32>);

    /// The `i`-th magnitude from zero, and the codes of it and its negative.
    fn level(self, i: u8) -> (f32, [u8; 2]);
}

/// The integers, as the divisor clamps to the last; halves go away from zero, or to the
/// even one.
#[derive(Clone, Copy)]
pub(super) struct Integers<const AWAY: bool>;

impl<const AWAY: bool> Grid for Integers<AWAY> {
    #[inline(always)]
    fn round<W: Float>(self, quotients: Lanes<W>) -> (Lanes<W>, Lanes<u32>) {
        if AWAY {
            let q = map(quotients, |t| {
                let magnitude = t.abs();
                let even = (magnitude + W::MAGIC) - W::MAGIC;
                // The difference is exact; one half means that even was below.
                let away = if magnitude - even == W::HALF { even + W::ONE } else { even };
                away.copysign(t)
            });
            (q, map(q, |q| (q + W::MAGIC).low_bits()))
        } else {
            let sum = map(quotients, |t| t + W::MAGIC);
            (map(sum, |s| s - W::MAGIC), map(sum, W::low_bits))
        }
    }

    fn level(self, i: u8) -> (f32, [u8; 2]) {
        (f32::from(i), [i, i.wrapping_neg()])
    }
}

/// The finite values of [`f8e4m3_value`].
#[derive(Clone, Copy)]
pub(super) struct E4M3;

impl Grid for E4M3 {
    #[inline(always)]
    fn round<W: Float>(self, quotients: Lanes<W>) -> (Lanes<W>, Lanes<u32>) {
        let t = map(quotients, W::f32);
        let q = map(t, |t| W::from_f32(e4m3_magnitude(t.abs()).0.copysign(t)));
        (q, map(t, |t| with_sign(e4m3_magnitude(t.abs()).1, t)))
    }

    fn level(self, i: u8) -> (f32, [u8; 2]) {
        // Zero has one code.
        (f8e4m3_value(i), [i, if i == 0 { 0 } else { i | 0x80 }])
    }
}

/// Calls a body generic over [`Grid`] with the one that is asked for.
macro_rules! by_grid {
    ($qtype:expr, $rounding:expr, |$grid:ident| $body:expr) => {{
        use $crate::quantization::kernels::rounding::{E4M3, Integers};
        use $crate::quantization::{QuantizationType, Rounding};
        match ($qtype, $rounding) {
            (QuantizationType::F8E4M3, _) => {
                let $grid = E4M3;
                $body
            }
            (_, Rounding::HalfEven) => {
                let $grid = Integers::<false>;
                $body
            }
            (_, Rounding::HalfAway) => {
                let $grid = Integers::<true>;
                $body
            }
        }
    }};
}
pub(super) use by_grid;

/// The level nearest to any one quotient, and its code: the careful way.
pub(super) fn round_one(quotient: f64, how: &Quantization) -> (f32, u8) {
    match how.qtype {
        QuantizationType::QInt8 | QuantizationType::QInt4 => {
            let max = f64::from(how.qtype.max());
            let rounded = match how.rounding {
                Rounding::HalfEven => quotient.round_ties_even(),
                Rounding::HalfAway => quotient.round(),
            };
            let q = rounded.clamp(-max, max);
            (q as f32, q as i8 as u8)
        }
        QuantizationType::F8E4M3 => {
            let code = f8e4m3_from(quotient as f32);
            (f8e4m3_value(code), code)
        }
    }
}
