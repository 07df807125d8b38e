//! Vectors as arrays, compiled for the instruction set that every processor of the target has: SSE2
//! on x86-64, NEON on AArch64.

use crate::quantization::kernels::array_lanes::{
    LANES, Lanes, PAIR, ROUNDING_MAGIC, fold, map, narrow_f16, widen_f16, zip,
};
use crate::quantization::kernels::level_tracker::LevelTracker;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
use crate::quantization::kernels::simd::neon as patterns;
use crate::quantization::kernels::simd::operations::Simd;

/// The instruction set that every processor of the target has.
#[derive(Clone, Copy)]
pub(in crate::quantization::kernels) struct Baseline;

/// Defines inlined methods that are one expression each.
macro_rules! methods {
    ($(fn $name:ident($($arg:ident: $t:ty),*) -> $r:ty { $body:expr })*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $t),*) -> $r {
            $body
        }
    )*};
}

impl Simd for Baseline {
    const FMA: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
    type F32 = Lanes<f32>;
    type U32 = Lanes<u32>;
    type F64 = Lanes<f64>;
    type U16 = patterns::U16;

    methods! {
        fn load_f32(raw: &Lanes<[u8; 4]>) -> Lanes<f32> { map(*raw, f32::from_le_bytes) }
        fn load_bf16(raw: &Lanes<[u8; 2]>) -> Lanes<f32> {
            map(*raw, |w| f32::from_bits(u32::from(u16::from_le_bytes(w)) << 16))
        }
        fn load_f16(raw: &Lanes<[u8; 2]>) -> Lanes<f32> {
            widen_f16_lanes(map(*raw, u16::from_le_bytes))
        }
        fn f32s(array: Lanes<f32>) -> Lanes<f32> { array }
        fn u32s(array: Lanes<u32>) -> Lanes<u32> { array }
        fn splat(x: f32) -> Lanes<f32> { [x; LANES] }
        fn array(a: Lanes<f32>) -> Lanes<f32> { a }
        fn array_u32(a: Lanes<u32>) -> Lanes<u32> { a }
        fn array_f64(a: Lanes<f64>) -> Lanes<f64> { a }
        fn low8(a: Lanes<u32>) -> Lanes<u8> { map(a, |a| a as u8) }
        fn differ8(a: Lanes<u32>, other: &Lanes<u8>) -> Lanes<u32> {
            zip(a, *other, |a, other| (a ^ u32::from(other)) & 0xFF)
        }
        fn differ8_alternating(a: Lanes<u32>, b: Lanes<u32>, other: &[u8; PAIR]) -> Lanes<u32> {
            std::array::from_fn(|i| {
                let (a, b) = (a[i] ^ u32::from(other[2 * i]), b[i] ^ u32::from(other[2 * i + 1]));
                (a | b) & 0xFF
            })
        }
        fn add(a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> { zip(a, b, |a, b| a + b) }
        fn sub(a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> { zip(a, b, |a, b| a - b) }
        fn mul(a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> { zip(a, b, |a, b| a * b) }
        fn div(a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> { zip(a, b, |a, b| a / b) }
        fn mul_add(a: Lanes<f32>, b: Lanes<f32>, c: Lanes<f32>) -> Lanes<f32> {
            if Baseline::FMA {
                std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
            } else {
                mul_add_lanes(a, b, c)
            }
        }
        fn min(a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> {
            zip(a, b, |a, b| if a < b { a } else { b })
        }
        fn max(a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> {
            zip(a, b, |a, b| if a > b { a } else { b })
        }
        fn abs(a: Lanes<f32>) -> Lanes<f32> { map(a, f32::abs) }
        fn max_abs(a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> {
            zip(a, b, |a, b| if a.abs() > b { a.abs() } else { b })
        }
        fn round_even(a: Lanes<f32>) -> Lanes<f32> { map(a, |a| (a + ROUNDING_MAGIC) - ROUNDING_MAGIC) }
        fn bits(a: Lanes<f32>) -> Lanes<u32> { map(a, f32::to_bits) }
        fn with_bits(a: Lanes<u32>) -> Lanes<f32> { map(a, f32::from_bits) }
        fn add_u32(a: Lanes<u32>, b: Lanes<u32>) -> Lanes<u32> { zip(a, b, u32::wrapping_add) }
        fn sub_u32(a: Lanes<u32>, b: Lanes<u32>) -> Lanes<u32> { zip(a, b, u32::wrapping_sub) }
        fn at_least(a: Lanes<f32>, b: Lanes<f32>) -> Lanes<u32> {
            zip(a, b, |a, b| u32::from(a >= b).wrapping_neg())
        }
        fn or(a: Lanes<u32>, b: Lanes<u32>) -> Lanes<u32> { zip(a, b, |a, b| a | b) }
        fn and(a: Lanes<u32>, b: Lanes<u32>) -> Lanes<u32> { zip(a, b, |a, b| a & b) }
        fn shift_right(a: Lanes<u32>, by: u32) -> Lanes<u32> { map(a, |a| a >> (by & 31)) }
        fn count_zeros(counts: Lanes<u32>, a: Lanes<f32>) -> Lanes<u32> {
            zip(counts, a, |n, a| n.wrapping_add(u32::from(a == 0.0)))
        }
        fn zero_f64() -> Lanes<f64> { [0.0; LANES] }
        fn widen(a: Lanes<f32>) -> Lanes<f64> { map(a, f64::from) }
        fn add_f64(a: Lanes<f64>, b: Lanes<f64>) -> Lanes<f64> { zip(a, b, |a, b| a + b) }
        fn add_square(sum: Lanes<f64>, a: Lanes<f64>) -> Lanes<f64> {
            zip(sum, a, |sum, a| sum + a * a)
        }
        fn sub_f64(a: Lanes<f64>, b: Lanes<f64>) -> Lanes<f64> { zip(a, b, |a, b| a - b) }
        fn mul_f64(a: Lanes<f64>, b: Lanes<f64>) -> Lanes<f64> { zip(a, b, |a, b| a * b) }
        fn max_abs_f64(a: Lanes<f64>, b: Lanes<f64>) -> Lanes<f64> {
            zip(a, b, |a, b| if a.abs() > b { a.abs() } else { b })
        }
        fn f64s(array: Lanes<u32>) -> Lanes<f64> { map(array, f64::from) }
        fn where_zero(a: Lanes<f64>, of: Lanes<f64>) -> Lanes<f64> {
            zip(a, of, |a, of| if of == 0.0 { a } else { 0.0 })
        }
        fn largest(a: Lanes<f32>) -> f32 { fold(a, |a, b| if b > a { b } else { a }) }
        fn largest_of_each(of: Lanes<Lanes<f32>>) -> Lanes<f32> {
            std::array::from_fn(|i| Baseline.largest(of[i]))
        }
        fn swap_ones(a: Lanes<f32>) -> Lanes<f32> { std::array::from_fn(|i| a[i ^ 1]) }
        fn swap_twos(a: Lanes<f32>) -> Lanes<f32> { std::array::from_fn(|i| a[i ^ 2]) }
        fn all_within(a: Lanes<f32>, low: f32, high: f32) -> bool {
            fold(map(a, |a| low <= a && a <= high), |a, b| a & b)
        }
        fn load_u16(raw: &[Lanes<[u8; 2]>; 2]) -> patterns::U16 { patterns::load(raw) }
        fn splat_u16(a: u16) -> patterns::U16 { patterns::splat(a) }
        fn array_u16(a: patterns::U16) -> [u16; PAIR] { patterns::array(a) }
        fn and_u16(a: patterns::U16, b: patterns::U16) -> patterns::U16 { patterns::and(a, b) }
        fn min_u16(a: patterns::U16, b: patterns::U16) -> patterns::U16 { patterns::min(a, b) }
        fn max_u16(a: patterns::U16, b: patterns::U16) -> patterns::U16 { patterns::max(a, b) }
        fn max_i16(a: patterns::U16, b: patterns::U16) -> patterns::U16 {
            patterns::max_signed(a, b)
        }
        fn count_at_most(a: patterns::U16, b: patterns::U16) -> u32 {
            patterns::count_at_most(a, b)
        }
        fn widen_bf16(a: patterns::U16) -> [Lanes<f32>; 2] { patterns::widen_bf16(a) }
        fn any_bit0(a: Lanes<u32>) -> bool { fold(a, |a, b| a | b) & 1 != 0 }
        fn unseen(seen: &LevelTracker, _codes: Lanes<u32>, q: Lanes<f32>) -> Lanes<u32> {
            seen.beyond(q)
        }
        fn narrow_f16(a: Lanes<f32>) -> Lanes<u16> { narrow_f16_lanes(a) }
        fn widen_f16(a: Lanes<u16>) -> Lanes<f32> { widen_f16_lanes(a) }
        fn low16(a: Lanes<u32>) -> Lanes<u16> { map(a, |a| a as u16) }
    }
}

/// Bit patterns as arrays.
#[cfg(not(all(target_arch = "aarch64", target_endian = "little")))]
mod patterns {
    use super::{LANES, Lanes, PAIR};
    use std::array::from_fn;

    pub(super) type U16 = [u16; PAIR];

    #[inline(always)]
    pub(super) fn load(raw: &[Lanes<[u8; 2]>; 2]) -> U16 {
        from_fn(|i| u16::from_le_bytes(raw[i / LANES][i % LANES]))
    }
    #[inline(always)]
    pub(super) fn splat(a: u16) -> U16 {
        [a; PAIR]
    }
    #[inline(always)]
    pub(super) fn array(a: U16) -> [u16; PAIR] {
        a
    }
    #[inline(always)]
    pub(super) fn and(a: U16, b: U16) -> U16 {
        from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    pub(super) fn min(a: U16, b: U16) -> U16 {
        from_fn(|i| a[i].min(b[i]))
    }
    #[inline(always)]
    pub(super) fn max(a: U16, b: U16) -> U16 {
        from_fn(|i| a[i].max(b[i]))
    }
    #[inline(always)]
    pub(super) fn max_signed(a: U16, b: U16) -> U16 {
        from_fn(|i| (a[i] as i16).max(b[i] as i16) as u16)
    }
    #[inline(always)]
    pub(super) fn count_at_most(a: U16, b: U16) -> u32 {
        let mut count = 0u16;
        for i in 0..PAIR {
            count += u16::from(a[i] <= b[i]);
        }
        count.into()
    }
    #[inline(always)]
    pub(super) fn widen_bf16(a: U16) -> [Lanes<f32>; 2] {
        [0, 1].map(|odd| from_fn(|i| f32::from_bits(u32::from(a[2 * i + odd]) << 16)))
    }
}

// These three are long, and kernels use them in many places. On x86-64 only processors without
// AVX2 run them, so they are not inlined there.

#[cfg_attr(target_arch = "x86_64", inline(never))]
#[cfg_attr(not(target_arch = "x86_64"), inline(always))]
fn narrow_f16_lanes(a: Lanes<f32>) -> Lanes<u16> {
    narrow_f16(a)
}

#[cfg_attr(target_arch = "x86_64", inline(never))]
#[cfg_attr(not(target_arch = "x86_64"), inline(always))]
fn widen_f16_lanes(a: Lanes<u16>) -> Lanes<f32> {
    widen_f16(a)
}

#[cfg_attr(target_arch = "x86_64", inline(never))]
#[cfg_attr(not(target_arch = "x86_64"), inline(always))]
fn mul_add_lanes(a: Lanes<f32>, b: Lanes<f32>, c: Lanes<f32>) -> Lanes<f32> {
    std::array::from_fn(|i| mul_add(a[i], b[i], c[i]))
}

/// `a * b + c` rounded once; the function of the standard library is a call for every lane.
///
/// The product of two f32 is exact in f64. The f64 sum is rounded to odd (Boldo and Melquiond,
/// "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd",
/// 2008), so that rounding it to f32 gives the correctly rounded result.
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    // The exact rounding error of the sum (Knuth's TwoSum); NaN if the sum is not finite.
    let of_c = sum - product;
    let lost = (product - (sum - of_c)) + (c - of_c);
    let is_off = (lost > 0.0) | (lost < 0.0);
    let bits = sum.to_bits();
    // An even sum moves to its odd neighbour on the side of the exact sum.
    let is_larger = (lost > 0.0) == (sum > 0.0);
    let odd = if is_larger { bits | 1 } else { bits.wrapping_sub(1) | 1 };
    let is_even = bits & 1 == 0;
    f64::from_bits(if is_off & is_even { odd } else { bits }) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_sums_are_rounded_once() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 32) as u32
        };
        let same = |a: f32, b: f32, c: f32| {
            let (expected, found) = (a.mul_add(b, c), mul_add(a, b, c));
            let both_nan = expected.is_nan() && found.is_nan();
            assert!(both_nan || expected.to_bits() == found.to_bits(), "{a:e} * {b:e} + {c:e}");
        };
        let special = [0.0, -0.0, 1.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::INFINITY, f32::NAN];
        for a in special {
            for b in special {
                for c in special {
                    same(a, b, c);
                    same(a, -b, c);
                    same(a, b, -c);
                }
            }
        }
        for _ in 0..2_000_000 {
            let [a, b, c] = [next(), next(), next()];
            same(f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
            // Of similar size, where the sum lies nearly in the middle between two f32.
            let near = |x: u32, low: u32| f32::from_bits(x & 0x81FF_FFFF & low | 0x3F00_0000);
            same(near(a, u32::MAX << 8), near(b, u32::MAX << 8), near(c, u32::MAX));
            same(near(a, u32::MAX), near(b, u32::MAX), near(c, u32::MAX) * 3e-8);
        }
    }
}
