//! Arithmetic in the weight's own type: f32 values that are rounded to the type after every step.

/// A float type that intermediate results are rounded to.
pub(super) trait WorkingType: Copy {
    /// The spacing of values above 1, which compressed-tensors substitutes for a scale of zero.
    const EPSILON: f32;
    /// The smallest positive normal value.
    const TINY: f32;

    /// Returns `x` rounded to the type, to nearest even.
    fn round(x: f32) -> f32;

    /// Returns the biased f32 exponent of a magnitude rounded to a power of two: up from 1.75 times
    /// a power, otherwise down. 0 if it is subnormal or zero.
    fn power_of_two(magnitude: f32) -> u32;
}

#[derive(Clone, Copy)]
pub(super) struct Bf16;

#[derive(Clone, Copy)]
pub(super) struct F16;

#[derive(Clone, Copy)]
pub(super) struct F32;

/// Returns the exponent field of a magnitude plus a quarter of a power of two.
#[inline(always)]
fn exponent_up_from_1_75(magnitude: f32) -> u32 {
    (magnitude.to_bits() + (1 << 21)) >> 23
}

impl WorkingType for Bf16 {
    const EPSILON: f32 = 0.0078125;
    const TINY: f32 = f32::MIN_POSITIVE;

    #[inline(always)]
    fn round(x: f32) -> f32 {
        let bits = x.to_bits();
        f32::from_bits(bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000)
    }

    #[inline(always)]
    fn power_of_two(magnitude: f32) -> u32 {
        exponent_up_from_1_75(magnitude)
    }
}

impl WorkingType for F32 {
    const EPSILON: f32 = f32::EPSILON;
    const TINY: f32 = f32::MIN_POSITIVE;

    #[inline(always)]
    fn round(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn power_of_two(magnitude: f32) -> u32 {
        Bf16::power_of_two(magnitude)
    }
}

/// The smallest positive normal F16.
const F16_MIN_NORMAL: f32 = 6.103_515_6e-5;

impl WorkingType for F16 {
    const EPSILON: f32 = 0.0009765625;
    const TINY: f32 = F16_MIN_NORMAL;

    #[inline(always)]
    fn round(x: f32) -> f32 {
        let (magnitude, bits) = (x.abs(), x.to_bits());
        let normal = bits.wrapping_add(0xFFF + (bits >> 13 & 1)) & 0xFFFF_E000;
        // Subnormal F16 are multiples of 2⁻²⁴, the spacing of f32 from 0.5 to 1.
        let subnormal = ((magnitude + 0.5) - 0.5).copysign(x);
        let infinite = f32::INFINITY.copysign(x);
        let rounded = if magnitude < F16_MIN_NORMAL { subnormal } else { f32::from_bits(normal) };
        if magnitude >= 65520.0 { infinite } else { rounded }
    }

    #[inline(always)]
    fn power_of_two(magnitude: f32) -> u32 {
        let exponent = exponent_up_from_1_75(magnitude).max(127 - 14);
        // Magnitudes of at least 1.5 times half the smallest normal are rounded up to it.
        if magnitude >= 0.75 * F16_MIN_NORMAL { exponent } else { 0 }
    }
}

/// Evaluates an expression with `$w` as the [`WorkingType`] of a float type. F64 weights use F32,
/// because no loader supports F64 scales.
macro_rules! by_working_type {
    ($dtype:expr, $w:ident => $body:expr) => {{
        use $crate::quantization::presets::working_type::{Bf16, F16, F32};
        match $dtype {
            $crate::tensor::FloatType::BF16 => {
                type $w = Bf16;
                $body
            }
            $crate::tensor::FloatType::F16 => {
                type $w = F16;
                $body
            }
            $crate::tensor::FloatType::F32 | $crate::tensor::FloatType::F64 => {
                type $w = F32;
                $body
            }
        }
    }};
}
pub(super) use by_working_type;

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn rounding_is_that_of_the_type() {
        let mut bits = 1u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = f32::from_bits(bits);
            if x.is_finite() {
                let expected = [bf16::from_f32(x).to_f32(), f16::from_f32(x).to_f32()];
                let found = [Bf16::round(x), F16::round(x)];
                assert_eq!(found.map(f32::to_bits), expected.map(f32::to_bits), "{x:e}");
            }
        }
        for x in [6.1e-5, -6.1e-5, 2.98e-8, -2.98e-8, 2.99e-8, 65519.9, -65520.0, 1e-30, -0.0] {
            assert_eq!(F16::round(x).to_bits(), f16::from_f32(x).to_f32().to_bits(), "{x:e}");
        }
    }

    #[test]
    fn powers_of_two_are_rounded_up_from_seven_quarters() {
        for (x, exponent) in [(1.0, 127), (1.74, 127), (1.75, 128), (3.49, 128), (0.5, 126)] {
            assert_eq!(Bf16::power_of_two(x), exponent, "{x}");
            assert_eq!(F16::power_of_two(x), exponent, "{x}");
        }
        assert_eq!(Bf16::power_of_two(0.0), 0);
        assert_eq!(F16::power_of_two(f16::from_bits(0x2FF).to_f32()), 0);
        assert_eq!(F16::power_of_two(f16::from_bits(0x300).to_f32()), 113);
    }
}
