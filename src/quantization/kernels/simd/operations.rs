//! The vector operations used by kernels.
//!
//! A vector holds [`LANES`](crate::quantization::kernels::array_lanes::LANES) elements on every
//! instruction set: one register of AVX-512, two of AVX2, or an array. Every operation is exact as
//! defined by IEEE 754, so results do not depend on the instruction set. Plain arrays would suffice
//! if the compiler vectorized them reliably, but in longer loops it does not.

use crate::quantization::kernels::array_lanes::{Lanes, PAIR};
use crate::quantization::kernels::level_tracker::LevelTracker;

/// An instruction set. A value of the type proves that the processor supports it; see
/// `dispatch`.
///
/// Every method must be `#[inline(always)]`, so that it is compiled with the instructions of
/// the caller.
pub(in crate::quantization::kernels) trait Simd: Copy {
    /// Whether a fused multiply-add is one instruction.
    const FMA: bool;
    /// A vector of f32.
    type F32: Copy;
    /// A vector of u32.
    type U32: Copy;
    /// A vector of f64.
    type F64: Copy;
    /// The bit patterns of [`PAIR`] 16-bit elements.
    type U16: Copy;

    fn load_f32(self, raw: &Lanes<[u8; 4]>) -> Self::F32;
    fn load_bf16(self, raw: &Lanes<[u8; 2]>) -> Self::F32;
    fn load_f16(self, raw: &Lanes<[u8; 2]>) -> Self::F32;
    fn f32s(self, array: Lanes<f32>) -> Self::F32;
    fn u32s(self, array: Lanes<u32>) -> Self::U32;
    fn splat(self, x: f32) -> Self::F32;

    fn array(self, a: Self::F32) -> Lanes<f32>;
    fn array_u32(self, a: Self::U32) -> Lanes<u32>;
    fn array_f64(self, a: Self::F64) -> Lanes<f64>;
    /// The low eight bits of every lane.
    fn low8(self, a: Self::U32) -> Lanes<u8>;
    /// A lane is non-zero if its low eight bits differ from `other`.
    fn differ8(self, a: Self::U32, other: &Lanes<u8>) -> Self::U32;
    /// A lane is non-zero if the low eight bits of `a` or of `b` differ from their byte in
    /// `other`, where bytes for `a` and for `b` alternate.
    fn differ8_alternating(self, a: Self::U32, b: Self::U32, other: &[u8; PAIR]) -> Self::U32;

    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `a < b ? a : b`, which is `b` if either is NaN.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a > b ? a : b`, which is `b` if either is NaN.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn abs(self, a: Self::F32) -> Self::F32;
    /// The larger of `|a|` and `b`. `b` may not be negative, and no lane NaN.
    fn max_abs(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The nearest integers, rounded half to even. No magnitude may exceed 2²².
    fn round_even(self, a: Self::F32) -> Self::F32;
    fn bits(self, a: Self::F32) -> Self::U32;
    fn with_bits(self, a: Self::U32) -> Self::F32;
    fn or(self, a: Self::U32, b: Self::U32) -> Self::U32;
    fn and(self, a: Self::U32, b: Self::U32) -> Self::U32;
    /// Shifts every lane by `by` bits, at most 31.
    fn shift_right(self, a: Self::U32, by: u32) -> Self::U32;
    /// Wrapping addition.
    fn add_u32(self, a: Self::U32, b: Self::U32) -> Self::U32;
    /// Wrapping subtraction.
    fn sub_u32(self, a: Self::U32, b: Self::U32) -> Self::U32;
    /// −1 in the lanes where `a >= b`, else 0.
    fn at_least(self, a: Self::F32, b: Self::F32) -> Self::U32;
    /// `counts`, increased by one in the lanes where `a` is zero.
    fn count_zeros(self, counts: Self::U32, a: Self::F32) -> Self::U32;

    fn zero_f64(self) -> Self::F64;
    fn widen(self, a: Self::F32) -> Self::F64;
    fn add_f64(self, a: Self::F64, b: Self::F64) -> Self::F64;
    /// `sum + a²`, for an `a` that was widened so that its square is exact.
    fn add_square(self, sum: Self::F64, a: Self::F64) -> Self::F64;

    fn sub_f64(self, a: Self::F64, b: Self::F64) -> Self::F64;
    fn mul_f64(self, a: Self::F64, b: Self::F64) -> Self::F64;
    /// The larger of `|a|` and `b`. `b` may not be negative, and no lane NaN.
    fn max_abs_f64(self, a: Self::F64, b: Self::F64) -> Self::F64;
    fn f64s(self, array: Lanes<u32>) -> Self::F64;
    /// `a` in the lanes where `of` is zero, else 0.
    fn where_zero(self, a: Self::F64, of: Self::F64) -> Self::F64;

    /// The largest lane. No lane may be NaN.
    fn largest(self, a: Self::F32) -> f32;
    /// Lane `i` is the largest lane of vector `i`. No lane may be NaN.
    fn largest_of_each(self, of: Lanes<Self::F32>) -> Lanes<f32>;

    /// Lane `i` of the result is lane `i ^ 1` of `a`.
    fn swap_ones(self, a: Self::F32) -> Self::F32;
    /// Lane `i` of the result is lane `i ^ 2` of `a`.
    fn swap_twos(self, a: Self::F32) -> Self::F32;
    /// Whether every lane is in the interval from `low` to `high`.
    fn all_within(self, a: Self::F32, low: f32, high: f32) -> bool;
    fn load_u16(self, raw: &[Lanes<[u8; 2]>; 2]) -> Self::U16;
    fn splat_u16(self, a: u16) -> Self::U16;
    fn array_u16(self, a: Self::U16) -> [u16; PAIR];
    fn and_u16(self, a: Self::U16, b: Self::U16) -> Self::U16;
    fn min_u16(self, a: Self::U16, b: Self::U16) -> Self::U16;
    fn max_u16(self, a: Self::U16, b: Self::U16) -> Self::U16;
    /// The larger patterns, compared as signed integers.
    fn max_i16(self, a: Self::U16, b: Self::U16) -> Self::U16;
    /// Number of lanes in which `a` is at most `b`.
    fn count_at_most(self, a: Self::U16, b: Self::U16) -> u32;
    /// The values of BF16 patterns: those with even and those with odd indices.
    fn widen_bf16(self, a: Self::U16) -> [Self::F32; 2];

    /// Whether bit 0 is set in any lane.
    fn any_bit0(self, a: Self::U32) -> bool;
    /// Bit 0 of at least one lane is set if a code, the low eight bits of a lane of `codes`, was
    /// not seen before. `q` are the levels of the codes.
    fn unseen(self, seen: &LevelTracker, codes: Self::U32, q: Self::F32) -> Self::U32;

    /// Converts to f16, rounded to nearest even.
    fn narrow_f16(self, a: Lanes<f32>) -> Lanes<u16>;
    fn widen_f16(self, a: Lanes<u16>) -> Lanes<f32>;
    /// The low sixteen bits of every lane.
    fn low16(self, a: Lanes<u32>) -> Lanes<u16>;
}
