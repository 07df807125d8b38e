//! The vector operations the kernels are written in, and the instruction sets they become.
//!
//! A vector holds [`LANES`] elements whatever the registers' width: one of AVX-512, two of
//! AVX2, or an array. Every operation is the exact IEEE one, so results do not depend on
//! the level. Arrays alone would do, had the compiler not to find the vectors in them
//! again: it loses them in any loop of some length.

use crate::quantization::kernels::array_lanes::{Lanes, PAIR};
use crate::quantization::kernels::level_tracker::LevelTracker;

/// An instruction set, and the proof that it is there: see `dispatch`.
///
/// Everything must be `#[inline(always)]`: it has the instructions of where it is inlined.
pub(in crate::quantization::kernels) trait Level: Copy {
    /// Whether a fused multiply-add is one instruction.
    const FMA: bool;
    type F32: Copy;
    type U32: Copy;
    type F64: Copy;
    /// The patterns of [`PAIR`] elements of sixteen bits.
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
    /// In each lane a bit is set if its low eight bits are not `other`.
    fn unlike8(self, a: Self::U32, other: &Lanes<u8>) -> Self::U32;
    /// Bits are set if the low eight bits of two, in turn, are not `other`.
    fn unlike8_in_turn(self, a: Self::U32, b: Self::U32, other: &[u8; PAIR]) -> Self::U32;

    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `a < b ? a : b`, so `b` where one is NaN.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a > b ? a : b`, so `b` where one is NaN.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn abs(self, a: Self::F32) -> Self::F32;
    /// The larger of `|a|` and `b`, which is not below zero. None may be NaN.
    fn max_abs(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// To the nearest integer, halves to the even one. No lane may be beyond 2²².
    fn round_even(self, a: Self::F32) -> Self::F32;
    fn bits(self, a: Self::F32) -> Self::U32;
    fn with_bits(self, a: Self::U32) -> Self::F32;
    fn or(self, a: Self::U32, b: Self::U32) -> Self::U32;
    /// Wrapping around.
    fn add_u32(self, a: Self::U32, b: Self::U32) -> Self::U32;
    fn sub_u32(self, a: Self::U32, b: Self::U32) -> Self::U32;
    /// −1 where `a >= b`, and 0.
    fn at_least(self, a: Self::F32, b: Self::F32) -> Self::U32;
    /// `counts`, one more where `a` is zero.
    fn count_zeros(self, counts: Self::U32, a: Self::F32) -> Self::U32;

    fn zero_f64(self) -> Self::F64;
    fn widen(self, a: Self::F32) -> Self::F64;
    fn add_f64(self, a: Self::F64, b: Self::F64) -> Self::F64;
    /// `sum + a²` for an `a` that was widened, whose square is exact.
    fn add_square(self, sum: Self::F64, a: Self::F64) -> Self::F64;

    fn sub_f64(self, a: Self::F64, b: Self::F64) -> Self::F64;
    fn mul_f64(self, a: Self::F64, b: Self::F64) -> Self::F64;
    /// The larger of `|a|` and `b`, which is not below zero. None may be NaN.
    fn max_abs_f64(self, a: Self::F64, b: Self::F64) -> Self::F64;
    fn f64s(self, array: Lanes<u32>) -> Self::F64;
    /// `a` in the lanes where `of` is zero, and 0.
    fn where_zero(self, a: Self::F64, of: Self::F64) -> Self::F64;

    /// The largest lane. None may be NaN.
    fn largest(self, a: Self::F32) -> f32;
    /// In every lane the largest of the vector in that place. None may be NaN.
    fn largest_of_each(self, of: Lanes<Self::F32>) -> Lanes<f32>;

    /// In lane `i` what was in lane `i ^ 1`.
    fn swap_ones(self, a: Self::F32) -> Self::F32;
    /// In lane `i` what was in lane `i ^ 2`.
    fn swap_twos(self, a: Self::F32) -> Self::F32;
    /// Whether every lane is from `least` to `most`.
    fn all_within(self, a: Self::F32, least: f32, most: f32) -> bool;
    fn load_u16(self, raw: &[Lanes<[u8; 2]>; 2]) -> Self::U16;
    fn splat_u16(self, a: u16) -> Self::U16;
    fn array_u16(self, a: Self::U16) -> [u16; PAIR];
    fn and_u16(self, a: Self::U16, b: Self::U16) -> Self::U16;
    fn min_u16(self, a: Self::U16, b: Self::U16) -> Self::U16;
    fn max_u16(self, a: Self::U16, b: Self::U16) -> Self::U16;
    /// The same of patterns that are taken for signed integers.
    fn max_i16(self, a: Self::U16, b: Self::U16) -> Self::U16;
    /// In how many lanes `a` is at most `b`.
    fn count_at_most(self, a: Self::U16, b: Self::U16) -> u32;
    /// The singles of BF16 patterns: those in even places, and those in odd ones.
    fn singles(self, a: Self::U16) -> [Self::F32; 2];

    /// Whether bit 0 is set in any lane.
    fn any_bit0(self, a: Self::U32) -> bool;
    /// Bit 0 is set in at least one lane whenever a lane's code, the low eight bits of
    /// `codes`, is not in the watched set; `q` is the value that code stands for.
    fn unseen(self, watch: &LevelTracker, codes: Self::U32, q: Self::F32) -> Self::U32;

    /// To IEEE half precision, to nearest even.
    fn narrow_f16(self, a: Lanes<f32>) -> Lanes<u16>;
    fn widen_f16(self, a: Lanes<u16>) -> Lanes<f32>;
    /// The low sixteen bits of every lane.
    fn low16(self, a: Lanes<u32>) -> Lanes<u16>;
}
