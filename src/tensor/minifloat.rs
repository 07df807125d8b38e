//! Floats of 8 bits and fewer: decoding tables, and rounding to E4M3 and E2M1.
//!
//! Sources: "FP8 Formats for Deep Learning" (arXiv 2209.05433) for E4M3 and E5M2; the OCP
//! Microscaling specification for E8M0, E2M1 (FP4) and E2M3 (FP6). The FNUZ variants have no
//! negative zero, no infinities, one NaN (0x80), and a bias that is greater by one.

use crate::tensor::DType;
use std::sync::LazyLock;

/// The value of each code of an 8-bit type.
pub(crate) type ValueTable = [f32; 256];

/// Returns the values of the codes of an 8-bit float type; `None` for any other type.
pub(crate) fn value_table(dtype: &DType) -> Option<&'static ValueTable> {
    fn table(value: fn(u8) -> f32) -> ValueTable {
        std::array::from_fn(|code| value(code as u8))
    }
    static E4M3: LazyLock<ValueTable> = LazyLock::new(|| table(f8e4m3_value));
    static E5M2: LazyLock<ValueTable> = LazyLock::new(|| table(f8e5m2_value));
    static E4M3_FNUZ: LazyLock<ValueTable> = LazyLock::new(|| table(f8e4m3fnuz_value));
    static E5M2_FNUZ: LazyLock<ValueTable> = LazyLock::new(|| table(f8e5m2fnuz_value));
    static E8M0: LazyLock<ValueTable> = LazyLock::new(|| table(f8e8m0_value));
    match dtype {
        DType::F8E4M3 => Some(&E4M3),
        DType::F8E5M2 => Some(&E5M2),
        DType::F8E4M3Fnuz => Some(&E4M3_FNUZ),
        DType::F8E5M2Fnuz => Some(&E5M2_FNUZ),
        DType::F8E8M0 => Some(&E8M0),
        _ => None,
    }
}

/// Returns the values of the codes of E2M1 (FP4).
pub(crate) const E2M1_VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Returns the values of the codes of E2M3 (FP6).
pub(crate) const E2M3_VALUES: [f32; 64] = e2m3_values();

const fn e2m3_values() -> [f32; 64] {
    let mut values = [0.0; 64];
    let mut code = 0;
    while code < 64 {
        let (exponent, mantissa) = (code >> 3 & 3, (code & 7) as f32 / 8.0);
        let magnitude = match exponent {
            0 => mantissa,
            1 => 1.0 + mantissa,
            2 => (1.0 + mantissa) * 2.0,
            _ => (1.0 + mantissa) * 4.0,
        };
        values[code] = if code & 32 == 0 { magnitude } else { -magnitude };
        code += 1;
    }
    values
}

/// The largest finite E4M3.
pub(crate) const F8E4M3_MAX: f32 = 448.0;

/// Returns the E4M3 code nearest to `x`, ties to even, saturating at ±448; NaN becomes 448.
/// Negative numbers that round to zero get the code of positive zero.
pub(crate) fn f8e4m3_from(x: f32) -> u8 {
    let (_, code) = Minifloat::E4M3.nearest(x.abs());
    Minifloat::E4M3.with_sign(code, x) as u8
}

/// A float type of at most 8 bits without infinities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Minifloat {
    /// The largest finite value.
    pub(crate) max: f32,
    /// The exponent field of the f32 with the smallest normal magnitude.
    pub(crate) min_exponent: u32,
    pub(crate) mantissa_bits: u32,
}

impl Minifloat {
    pub(crate) const E4M3: Minifloat =
        Minifloat { max: F8E4M3_MAX, min_exponent: 121, mantissa_bits: 3 };
    pub(crate) const E2M1: Minifloat = Minifloat { max: 6.0, min_exponent: 127, mantissa_bits: 1 };

    /// Returns the value nearest to a magnitude, ties to even, and its code. NaN and larger
    /// magnitudes give the largest value.
    #[inline(always)]
    pub(crate) fn nearest(self, magnitude: f32) -> (f32, u32) {
        let magnitude = if magnitude < self.max { magnitude } else { self.max };
        // The spacing is the power of two divided by 2^mantissa_bits, and constant below the
        // smallest normal magnitude. Adding 2²³ times the spacing rounds to a multiple of it
        // and leaves the multiple in the low bits.
        let exponent = (magnitude.to_bits() >> 23).max(self.min_exponent);
        let magic = f32::from_bits((exponent + 23 - self.mantissa_bits) << 23);
        let sum = magnitude + magic;
        let units = sum.to_bits() & ((4 << self.mantissa_bits) - 1);
        (sum - magic, ((exponent - self.min_exponent) << self.mantissa_bits) + units)
    }

    /// Returns the value of a code returned by [`Minifloat::nearest`].
    pub(crate) fn value(self, code: u8) -> f32 {
        match self.mantissa_bits {
            1 => E2M1_VALUES[usize::from(code & 7)],
            _ => f8e4m3_value(code & 0x7F),
        }
    }

    /// Returns the sign bit of a code.
    #[inline(always)]
    pub(crate) fn sign_bit(self) -> u32 {
        if self.mantissa_bits == 1 { 8 } else { 0x80 }
    }

    /// Returns `code` with the sign of `x`; zero stays positive.
    #[inline(always)]
    pub(crate) fn with_sign(self, code: u32, x: f32) -> u32 {
        if code == 0 { 0 } else { self.signed(code, x) }
    }

    /// Returns `code` with the sign of `x`, also for zero.
    #[inline(always)]
    pub(crate) fn signed(self, code: u32, x: f32) -> u32 {
        if x.is_sign_negative() { code | self.sign_bit() } else { code }
    }
}

/// Returns the value of an E4M3 code; NaN for 0x7F and 0xFF.
pub(crate) fn f8e4m3_value(code: u8) -> f32 {
    if code & 0x7F == 0x7F { f32::NAN } else { value(code, 3, 7) }
}

/// Returns the value of an E5M2 code: the upper byte of an IEEE half.
pub(crate) fn f8e5m2_value(code: u8) -> f32 {
    half::f16::from_bits(u16::from(code) << 8).into()
}

/// Returns the value of an E8M0 code, a power of two: 2^(code − 127); NaN for 0xFF.
pub(crate) fn f8e8m0_value(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

/// Returns the value of an E4M3FNUZ code; NaN for 0x80.
pub(crate) fn f8e4m3fnuz_value(code: u8) -> f32 {
    if code == 0x80 { f32::NAN } else { value(code, 3, 8) }
}

/// Returns the value of an E5M2FNUZ code; NaN for 0x80.
pub(crate) fn f8e5m2fnuz_value(code: u8) -> f32 {
    if code == 0x80 { f32::NAN } else { value(code, 2, 16) }
}

/// Returns the finite value of an 8-bit code with `mantissa_bits` and the given exponent bias.
fn value(code: u8, mantissa_bits: u32, bias: i32) -> f32 {
    let mantissa = i32::from(code) & ((1 << mantissa_bits) - 1);
    let exponent = i32::from(code & 0x7F) >> mantissa_bits;
    let implicit = if exponent == 0 { 0 } else { 1 << mantissa_bits };
    let power = exponent.max(1) - bias - mantissa_bits as i32;
    let magnitude = (mantissa + implicit) as f32 * f32::from_bits(((power + 127) as u32) << 23);
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_values_of_their_specification() {
        assert_eq!(
            [0x7E, 0x08, 0x01, 0x38, 0xB8].map(f8e4m3_value),
            [448.0, 0.015625, 2f32.powi(-9), 1.0, -1.0]
        );
        assert_eq!(
            [0x7B, 0x04, 0x01, 0x7C].map(f8e5m2_value),
            [57344.0, 2f32.powi(-14), 2f32.powi(-16), f32::INFINITY]
        );
        assert_eq!([127, 0, 254].map(f8e8m0_value), [1.0, 2f32.powi(-127), 2f32.powi(127)]);
        assert_eq!(
            [0x7F, 0x08, 0x01, 0x40].map(f8e4m3fnuz_value),
            [240.0, 2f32.powi(-7), 2f32.powi(-10), 1.0]
        );
        assert_eq!(
            [0x7F, 0x04, 0x01, 0x40].map(f8e5m2fnuz_value),
            [57344.0, 2f32.powi(-15), 2f32.powi(-17), 1.0]
        );
        for nan in [f8e4m3_value(0x7F), f8e4m3_value(0xFF), f8e5m2_value(0xFE)] {
            assert!(nan.is_nan());
        }
        for nan in [f8e8m0_value(0xFF), f8e4m3fnuz_value(0x80), f8e5m2fnuz_value(0x80)] {
            assert!(nan.is_nan());
        }
    }

    #[test]
    fn encoding_a_value_returns_its_code() {
        for code in (0..=u8::MAX).filter(|c| c & 0x7F != 0x7F && *c != 0x80) {
            assert_eq!(f8e4m3_from(f8e4m3_value(code)), code);
        }
        assert_eq!(f8e4m3_from(-0.0), 0);
    }

    #[test]
    fn encoding_rounds_to_nearest_with_ties_to_even() {
        for low in 0..0x7Eu8 {
            let (a, b) = (f8e4m3_value(low), f8e4m3_value(low + 1));
            let middle = (a + b) / 2.0;
            let even = low + (low & 1);
            assert_eq!(f8e4m3_from(middle), even, "{middle}");
            assert_eq!(f8e4m3_from(middle.next_down()), low, "{middle}");
            assert_eq!(f8e4m3_from(middle.next_up()), low + 1, "{middle}");
            if low > 0 {
                assert_eq!(f8e4m3_from(-middle.next_down()), low | 0x80, "{middle}");
            }
        }
        for large in [448.0, 449.0, 1e30, f32::INFINITY, f32::NAN] {
            assert_eq!(f8e4m3_from(large), 0x7E);
        }
        assert_eq!(f8e4m3_from(f32::NEG_INFINITY), 0xFE);
        assert_eq!(f8e4m3_from(f32::from_bits(1)), 0);
    }

    #[test]
    fn the_nearest_e2m1_is_that_of_compressed_tensors() {
        let bounds = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
        for (low, bound) in (0u32..).zip(bounds) {
            let even = low + (low & 1);
            assert_eq!(Minifloat::E2M1.nearest(bound).1, even, "{bound}");
            assert_eq!(Minifloat::E2M1.nearest(bound.next_down()).1, low, "{bound}");
            assert_eq!(Minifloat::E2M1.nearest(bound.next_up()).1, low + 1, "{bound}");
        }
        for (code, value) in (0u32..8).zip(E2M1_VALUES) {
            assert_eq!(Minifloat::E2M1.nearest(value), (value, code));
        }
        assert_eq!(Minifloat::E2M1.nearest(f32::INFINITY), (6.0, 7));
    }

    #[test]
    fn every_table_has_the_values_of_its_type() {
        let value = |dtype, code: usize| value_table(&dtype).expect("a table")[code];
        assert_eq!(value(DType::F8E4M3, 0x7E), 448.0);
        assert_eq!(value(DType::F8E4M3, 0x01), 2f32.powi(-9));
        assert_eq!(value(DType::F8E4M3, 0xB8), -1.0);
        assert!(value(DType::F8E4M3, 0xFF).is_nan());
        assert_eq!(value(DType::F8E5M2, 0x7B), 57344.0);
        assert_eq!(value(DType::F8E5M2, 0xFC), f32::NEG_INFINITY);
        assert_eq!(value(DType::F8E5M2, 0x01), 2f32.powi(-16));
        assert_eq!(value(DType::F8E4M3Fnuz, 0x7F), 240.0);
        assert!(value(DType::F8E4M3Fnuz, 0x80).is_nan());
        assert_eq!(value(DType::F8E5M2Fnuz, 0x7F), 57344.0);
        assert_eq!(value(DType::F8E8M0, 127), 1.0);
        assert_eq!(value(DType::F8E8M0, 0), 2f32.powi(-127));
        assert!(value_table(&DType::I8).is_none());
    }

    #[test]
    fn codes_are_ordered_by_value() {
        for (name, value) in [
            ("E4M3", f8e4m3_value as fn(u8) -> f32),
            ("E5M2", f8e5m2_value),
            ("E4M3FNUZ", f8e4m3fnuz_value),
            ("E5M2FNUZ", f8e5m2fnuz_value),
        ] {
            for code in 0..0x7Eu8 {
                let (a, b) = (value(code), value(code + 1));
                assert!(a < b || b.is_nan(), "{name} {code}: {a} {b}");
                assert!(code == 0 || value(code | 0x80) == -a || a.is_nan(), "{name} {code}");
            }
        }
    }
}
