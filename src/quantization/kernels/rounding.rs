//! Division of elements by scales, and rounding of the quotients to levels.

use crate::quantization::kernels::array_lanes::{LANES, Lanes, ROUNDING_MAGIC, map};
use crate::quantization::kernels::params::Quantization;
use crate::quantization::kernels::simd::Simd;
use crate::quantization::quantization_type::QuantizationType;
use crate::quantization::scheme::Rounding;
use crate::tensor::FloatType;
use crate::tensor::minifloat::{Minifloat, f8e4m3_from, f8e4m3_value};

/// Scales whose squares and reciprocals are well inside the range of f32. Other scales are rare and
/// handled by scalar code.
pub(super) const ORDINARY_SCALES: std::ops::RangeInclusive<f32> = 8.881_784e-16..=1.125_9e15;

/// A scale prepared for dividing many elements by it.
#[derive(Clone, Copy)]
pub(super) struct Divisor {
    pub(super) scale: f32,
    /// The magnitude that larger elements are clamped to. It is a quarter of a level beyond the
    /// last level, so that clamped elements round to the last level and no quotient overflows.
    limit: f32,
    /// 1 / scale rounded to f32.
    pub(super) inverse: f32,
    /// The rounding error of `inverse`: 1 / scale − inverse.
    inverse_error: f32,
}

/// Returns whether a [`Divisor`] can be made from a scale.
#[inline(always)]
pub(super) fn is_ordinary(scale: f32) -> bool {
    ORDINARY_SCALES.contains(&scale)
}

impl Divisor {
    /// A divisor that turns every element into zero.
    pub(super) const ZEROING: Divisor =
        Divisor { scale: 1.0, limit: 0.0, inverse: 1.0, inverse_error: 0.0 };

    /// The divisor of an ordinary scale, for levels up to `qmax`.
    #[inline(always)]
    pub(super) fn new<S: Simd>(simd: S, scale: f32, qmax: f32) -> Divisor {
        Divisors::new(simd, simd.splat(scale), qmax).at(0)
    }

    /// The last level.
    #[inline(always)]
    pub(super) fn levels(&self) -> f32 {
        (self.limit / self.scale).floor()
    }

    /// Returns `x / scale` rounded as IEEE 754 requires, with `x` clamped to just beyond the last
    /// level.
    ///
    /// With a fused multiply-add this is Markstein's method ("Computation of elementary
    /// functions on the IBM RISC System/6000 processor", 1990): a quotient within one unit in
    /// the last place, plus its exact remainder times the correctly rounded reciprocal, is the
    /// correctly rounded quotient. The first quotient is precise enough because the reciprocal
    /// is known to twice the precision. Where the remainder may underflow, the quotient is below
    /// 2⁻⁵⁰ and every grid rounds it to zero.
    #[inline(always)]
    pub(super) fn quotient<S: Simd>(&self, simd: S, x: S::F32) -> S::F32 {
        self.quotient_within(
            simd,
            simd.max(simd.min(x, simd.splat(self.limit)), simd.splat(-self.limit)),
        )
    }

    /// [`Divisor::quotient`] for elements that do not exceed the limit.
    #[inline(always)]
    pub(super) fn quotient_within<S: Simd>(&self, simd: S, x: S::F32) -> S::F32 {
        if S::FMA {
            let near = self.near(simd, x);
            let remainder = simd.mul_add(near, simd.splat(-self.scale), x);
            simd.mul_add(remainder, simd.splat(self.inverse), near)
        } else {
            simd.div(x, simd.splat(self.scale))
        }
    }

    /// Returns the quotient. It may be off by one unit in the last place if the exact quotient lies
    /// nearly halfway between two f32.
    #[inline(always)]
    fn near<S: Simd>(&self, simd: S, x: S::F32) -> S::F32 {
        if S::FMA {
            simd.mul_add(x, simd.splat(self.inverse), simd.mul(x, simd.splat(self.inverse_error)))
        } else {
            simd.div(x, simd.splat(self.scale))
        }
    }
}

/// One divisor per lane.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Divisors {
    scale: Lanes<f32>,
    limit: Lanes<f32>,
    inverse: Lanes<f32>,
    inverse_error: Lanes<f32>,
}

impl Divisors {
    /// A divisor that turns every element into zero.
    pub(super) const ZEROING: Divisors = Divisors {
        scale: [1.0; LANES],
        limit: [0.0; LANES],
        inverse: [1.0; LANES],
        inverse_error: [0.0; LANES],
    };

    /// The divisors of ordinary scales, for levels up to `qmax`.
    #[inline(always)]
    pub(super) fn new<S: Simd>(simd: S, scales: S::F32, qmax: f32) -> Divisors {
        let one = simd.splat(1.0);
        let inverse = simd.div(one, scales);
        let inverse_error = if S::FMA {
            // The remainder 1 − scale · inverse is exact, and dividing it by the scale needs
            // no more precision than `inverse` has.
            simd.mul(simd.mul_add(simd.sub(simd.splat(0.0), scales), inverse, one), inverse)
        } else {
            simd.splat(0.0)
        };
        Divisors {
            scale: simd.array(scales),
            limit: simd.array(simd.mul(scales, simd.splat(qmax + 0.25))),
            inverse: simd.array(inverse),
            inverse_error: simd.array(inverse_error),
        }
    }

    /// Reciprocals of the ordinary scales `absmax / qmax`, adjusted for [`ByReciprocal`].
    #[inline(always)]
    fn reciprocals<S: Simd>(simd: S, scales: S::F32, absmax: S::F32, qmax: f32) -> Divisors {
        let inverse = simd.div(simd.splat(1.0), scales);
        // Half of absmax lies about half-way between two levels; the upper one is even.
        let half = simd.mul(absmax, simd.splat(0.5));
        let middle = 0.5 * qmax;
        let multiplied = simd.at_least(simd.mul(half, inverse), simd.splat(middle));
        // Division rounds to `middle` from half a unit in the last place below it. Both sides of
        // the comparison are exact.
        let remainder = simd.mul_add(scales, simd.splat(-middle), half);
        let unit = middle - middle.next_down();
        let divided = simd.at_least(remainder, simd.mul(scales, simd.splat(-0.5 * unit)));
        // If the product is on the wrong side, move the reciprocal by one unit in the last
        // place.
        let bits = simd.sub_u32(simd.add_u32(simd.bits(inverse), multiplied), divided);
        Divisors {
            scale: simd.array(scales),
            inverse: simd.array(simd.with_bits(bits)),
            ..Divisors::ZEROING
        }
    }

    #[inline(always)]
    pub(super) fn at(&self, lane: usize) -> Divisor {
        Divisor {
            scale: self.scale[lane],
            limit: self.limit[lane],
            inverse: self.inverse[lane],
            inverse_error: self.inverse_error[lane],
        }
    }
}

/// Rounds to F16, to nearest even.
#[inline(always)]
pub(super) fn round_to_f16<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    simd.f32s(simd.widen_f16(simd.narrow_f16(simd.array(x))))
}

/// Rounds to BF16, to nearest even. No lane may be NaN.
#[inline(always)]
pub(super) fn round_to_bf16<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let bits = simd.bits(x);
    let odd = simd.and(simd.shift_right(bits, 16), simd.u32s([1; LANES]));
    let half = simd.add_u32(simd.u32s([0x7FFF; LANES]), odd);
    let kept = simd.u32s([0xFFFF_0000; LANES]);
    simd.with_bits(simd.and(simd.add_u32(bits, half), kept))
}

/// A method to divide elements by the scales of their groups.
pub(super) trait Division {
    /// The scales rounded to the type they are stored in.
    #[inline(always)]
    fn stored<S: Simd>(_l: S, scales: S::F32, _scale_type: FloatType) -> S::F32 {
        scales
    }

    /// The divisors of ordinary scales `absmax / qmax`.
    #[inline(always)]
    fn divisors<S: Simd>(simd: S, scales: S::F32, _absmax: S::F32, qmax: f32) -> Divisors {
        Divisors::new(simd, scales, qmax)
    }

    /// A number that rounds to the same level as the IEEE 754 quotient `x / scale`.
    fn quotient<S: Simd>(simd: S, x: S::F32, divisor: &Divisor) -> S::F32;
}

/// Division with clamping, for elements that may exceed the last level because their scale was
/// rounded.
pub(super) struct Clamped;

/// Division without clamping, for elements that do not lie beyond the last level.
pub(super) struct Unclamped;

/// Multiplication by a reciprocal of double f32 precision, for 16-bit elements that do not lie
/// beyond the last level.
///
/// Product and quotient can only differ if the quotient lies very near the middle between two f32.
/// No 16-bit element has such a quotient; a test checks all of them.
pub(super) struct ByDoubleReciprocal;

/// Multiplication by one reciprocal, for BF16 elements and the levels of int8. No element may
/// lie beyond the last level.
///
/// Let a be the largest magnitude of the group and s = a/127 the rounded scale. Then x/s and
/// x·(1/s) round to different integers only if x·127/a is nearly n/2 with an odd n, that is,
/// if 254·x is nearly n·a. BF16 numbers are 8-bit integers times powers of two, so "nearly"
/// means "exactly". Since n is odd, 254·x has the factors of two of a and every odd factor of
/// a. Either x is an odd multiple of a/2 and at most a, so x = a/2. Or 127 divides a; then a
/// has no other odd factor and s is a power of two, so that multiplying is exact. Hence only
/// the element a/2 can be rounded differently, and a reciprocal that rounds it correctly is
/// right for all elements. A test checks all of them.
pub(super) struct ByReciprocal;

/// Multiplication by a reciprocal with clamping, for scales that
/// [`reciprocal_rounds_alike`](crate::quantization::kernels::f16_bits::reciprocal_rounds_alike) accepts.
pub(super) struct ClampedByReciprocal;

impl Division for Clamped {
    #[inline(always)]
    fn stored<S: Simd>(simd: S, scales: S::F32, scale_type: FloatType) -> S::F32 {
        match scale_type {
            FloatType::F64 | FloatType::F32 => scales,
            FloatType::F16 => round_to_f16(simd, scales),
            FloatType::BF16 => round_to_bf16(simd, scales),
        }
    }
    #[inline(always)]
    fn quotient<S: Simd>(simd: S, x: S::F32, divisor: &Divisor) -> S::F32 {
        divisor.quotient(simd, x)
    }
}

impl Division for Unclamped {
    #[inline(always)]
    fn quotient<S: Simd>(simd: S, x: S::F32, divisor: &Divisor) -> S::F32 {
        divisor.quotient_within(simd, x)
    }
}

impl Division for ByDoubleReciprocal {
    #[inline(always)]
    fn quotient<S: Simd>(simd: S, x: S::F32, divisor: &Divisor) -> S::F32 {
        divisor.near(simd, x)
    }
}

impl Division for ByReciprocal {
    #[inline(always)]
    fn divisors<S: Simd>(simd: S, scales: S::F32, absmax: S::F32, qmax: f32) -> Divisors {
        Divisors::reciprocals(simd, scales, absmax, qmax)
    }
    #[inline(always)]
    fn quotient<S: Simd>(simd: S, x: S::F32, divisor: &Divisor) -> S::F32 {
        simd.mul(x, simd.splat(divisor.inverse))
    }
}

impl Division for ClampedByReciprocal {
    #[inline(always)]
    fn quotient<S: Simd>(simd: S, x: S::F32, divisor: &Divisor) -> S::F32 {
        let x = simd.max(simd.min(x, simd.splat(divisor.limit)), simd.splat(-divisor.limit));
        simd.mul(x, simd.splat(divisor.inverse))
    }
}

/// The set of levels that quotients are rounded to.
pub(super) trait Grid: Copy {
    /// Whether the grid is used too rarely to be compiled for AVX-512.
    const IS_RARELY_USED: bool;
    /// Whether the levels are integers, rounded half to even.
    const IS_HALF_EVEN: bool = false;

    /// The nearest levels, and vectors with their codes in the low eight bits.
    fn round<S: Simd>(self, simd: S, quotients: S::F32) -> (S::F32, S::U32);

    /// The nearest levels.
    #[inline(always)]
    fn nearest<S: Simd>(self, simd: S, quotients: S::F32) -> S::F32 {
        self.round(simd, quotients).0
    }

    /// The `i`-th magnitude from zero, with the codes of it and its negative.
    fn level(self, i: u8) -> (f32, [u8; 2]);
}

/// The integers, rounded half to even. Quotients are clamped to the last level already.
#[derive(Clone, Copy)]
pub(super) struct IntegersHalfEven;

impl Grid for IntegersHalfEven {
    const IS_RARELY_USED: bool = false;
    const IS_HALF_EVEN: bool = true;

    #[inline(always)]
    fn round<S: Simd>(self, simd: S, quotients: S::F32) -> (S::F32, S::U32) {
        let magic = simd.splat(ROUNDING_MAGIC);
        let sum = simd.add(quotients, magic);
        (simd.sub(sum, magic), simd.bits(sum))
    }

    #[inline(always)]
    fn nearest<S: Simd>(self, simd: S, quotients: S::F32) -> S::F32 {
        simd.round_even(quotients)
    }

    fn level(self, i: u8) -> (f32, [u8; 2]) {
        (f32::from(i), [i, i.wrapping_neg()])
    }
}

/// The integers, rounded half away from zero. Quotients are clamped to the last level already.
#[derive(Clone, Copy)]
pub(super) struct IntegersHalfAway;

impl Grid for IntegersHalfAway {
    const IS_RARELY_USED: bool = true;

    #[inline(always)]
    fn round<S: Simd>(self, simd: S, quotients: S::F32) -> (S::F32, S::U32) {
        let q = map(simd.array(quotients), |t| {
            let even = (t.abs() + ROUNDING_MAGIC) - ROUNDING_MAGIC;
            // The difference is exact. It is one half if the even integer is the lower one.
            let away = if t.abs() - even == 0.5 { even + 1.0 } else { even };
            away.copysign(t)
        });
        let q = simd.f32s(q);
        (q, simd.bits(simd.add(q, simd.splat(ROUNDING_MAGIC))))
    }

    fn level(self, i: u8) -> (f32, [u8; 2]) {
        IntegersHalfEven.level(i)
    }
}

/// Returns the nearest values of a small float type, as [`Minifloat::nearest`] does, and their
/// codes. Negative zero has a code of its own.
#[inline(always)]
pub(super) fn nearest_minifloats<S: Simd>(
    simd: S,
    format: Minifloat,
    quotients: S::F32,
) -> (S::F32, S::U32) {
    let Minifloat { max, min_exponent, mantissa_bits } = format;
    let all = |bits: u32| simd.u32s([bits; LANES]);
    let sign = simd.and(simd.bits(quotients), all(1 << 31));
    let magnitude = simd.min(simd.abs(quotients), simd.splat(max));
    let power = simd.with_bits(simd.and(simd.bits(magnitude), all(0x7F80_0000)));
    let power = simd.max(power, simd.splat(f32::from_bits(min_exponent << 23)));
    let magic = simd.mul(power, simd.splat(f32::from_bits((127 + 23 - mantissa_bits) << 23)));
    let sum = simd.add(magnitude, magic);
    let levels = simd.or(simd.bits(simd.sub(sum, magic)), sign);
    let units = simd.and(simd.bits(sum), all((4 << mantissa_bits) - 1));
    let exponents = simd.shift_right(simd.bits(power), 23 - mantissa_bits);
    let exponents = simd.sub_u32(exponents, all(min_exponent << mantissa_bits));
    let sign = simd.shift_right(sign, 31 - format.sign_bit().ilog2());
    (simd.with_bits(levels), simd.or(simd.add_u32(exponents, units), sign))
}

/// The finite values of a small float type.
#[derive(Clone, Copy)]
pub(super) struct Minifloats(pub Minifloat);

impl Grid for Minifloats {
    const IS_RARELY_USED: bool = true;

    #[inline(always)]
    fn round<S: Simd>(self, simd: S, quotients: S::F32) -> (S::F32, S::U32) {
        let (levels, codes) = nearest_minifloats(simd, self.0, quotients);
        let is_not_zero = simd.at_least(simd.abs(levels), simd.splat(f32::MIN_POSITIVE));
        (levels, simd.and(codes, is_not_zero))
    }

    fn level(self, i: u8) -> (f32, [u8; 2]) {
        // Zero has one code.
        (self.0.value(i), [i, if i == 0 { 0 } else { i | self.0.sign_bit() as u8 }])
    }
}

/// Evaluates an expression with `$grid` as the [`Grid`] of a quantized type and a rounding.
macro_rules! by_grid {
    ($qtype:expr, $rounding:expr, |$grid:ident| $body:expr) => {{
        use $crate::quantization::kernels::rounding::{
            IntegersHalfAway, IntegersHalfEven, Minifloats,
        };
        use $crate::quantization::{QuantizationType, Rounding};
        use $crate::tensor::minifloat::Minifloat;
        match ($qtype, $rounding) {
            (QuantizationType::F8E4M3 | QuantizationType::F4E2M1, _) => {
                let $grid = Minifloats(match $qtype {
                    QuantizationType::F4E2M1 => Minifloat::E2M1,
                    _ => Minifloat::E4M3,
                });
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

/// Returns the level nearest to a quotient, and its code.
pub(crate) fn round_one(quotient: f64, params: &Quantization) -> (f32, u8) {
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
        QuantizationType::F4E2M1 => {
            let quotient = quotient as f32;
            let (level, code) = Minifloat::E2M1.nearest(quotient.abs());
            (level.copysign(quotient), Minifloat::E2M1.with_sign(code, quotient) as u8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::kernels::f16_bits::Bits16;
    use crate::quantization::kernels::simd::Baseline;
    use half::{bf16, f16};

    fn value<E: Bits16>(pattern: u16) -> f32 {
        E::read(&pattern.to_le_bytes())
    }

    /// Checks every element up to the largest magnitude, for each of several magnitudes.
    fn assert_every_element_is_rounded_as_dividing_does<E: Bits16>(
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
    fn adjusted_reciprocals_round_every_bf16_as_division_does() {
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

    /// `Divisor::near` with a fused multiply-add, on every instruction set.
    fn near(x: f32, scale: f32) -> f32 {
        let inverse = 1.0 / scale;
        let inverse_error = (-scale).mul_add(inverse, 1.0) * inverse;
        x.mul_add(inverse, x * inverse_error)
    }

    #[test]
    fn double_precision_reciprocals_round_every_16_bit_element_as_division_does() {
        for qmax in [7.0, 127.0] {
            let mantissas = 0..1 << 7;
            assert_every_element_is_rounded_as_dividing_does::<bf16>(
                mantissas.map(|m| 0x3f80 | m),
                qmax,
                near,
            );
            // Every significand of normal and of subnormal numbers.
            let (mantissas, subnormal) = (0..1u16 << 10, 1..1u16 << 10);
            assert_every_element_is_rounded_as_dividing_does::<f16>(
                mantissas.map(|m| 0x3c00 | m).chain(subnormal),
                qmax,
                near,
            );
        }
    }
}
