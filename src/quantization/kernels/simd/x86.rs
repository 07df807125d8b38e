//! The instruction sets AVX2 with FMA and F16C, and AVX-512.
//!
//! # Safety
//!
//! Each instruction set is a struct that only the functions of this module construct, inside a
//! function that enables its features. `dispatch` calls these functions only after the
//! processor has reported every feature. A value of the struct therefore proves that its
//! intrinsics may run. The transmutes are between arrays and vectors of the same size, for
//! which every bit pattern is valid.
#![allow(unsafe_code)]

use crate::quantization::kernels::array_lanes::{LANES, Lanes, PAIR};
use crate::quantization::kernels::level_tracker::LevelTracker;
use crate::quantization::kernels::simd::kernel::Kernel;
use crate::quantization::kernels::simd::operations::Simd;
use std::arch::x86_64::*;
use std::mem::transmute;

#[target_feature(enable = "avx2,fma,f16c,popcnt")]
pub(in crate::quantization::kernels) fn avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

#[target_feature(enable = "avx2,fma,f16c,popcnt,avx512f,avx512bw,avx512dq,avx512vl")]
pub(in crate::quantization::kernels) fn avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

#[derive(Clone, Copy)]
struct Avx2(());

#[derive(Clone, Copy)]
struct Avx512(());

const _: () = assert!(LANES == 16);

/// Defines inlined methods that are one expression of intrinsics each.
macro_rules! methods {
    ($(fn $name:ident($($arg:ident: $t:ty),*) -> $r:ty { $body:expr })*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $t),*) -> $r {
            // SAFETY: `self` proves that the processor has the instructions, and transmutes are
            // between types of equal size without invalid bit patterns (see the module).
            unsafe { $body }
        }
    )*};
}

/// Applies an intrinsic to both halves of vectors.
macro_rules! both {
    ($f:ident$(::<$c:tt>)?($($arg:ident),*)) => {
        [$f$(::<$c>)?($($arg[0]),*), $f$(::<$c>)?($($arg[1]),*)]
    };
}

/// Applies an intrinsic to all four quarters of vectors.
macro_rules! fours {
    ($f:ident$(::<$c:tt>)?($($arg:ident),*)) => {
        [
            $f$(::<$c>)?($($arg[0]),*),
            $f$(::<$c>)?($($arg[1]),*),
            $f$(::<$c>)?($($arg[2]),*),
            $f$(::<$c>)?($($arg[3]),*),
        ]
    };
}

impl Simd for Avx2 {
    const FMA: bool = true;
    type F32 = [__m256; 2];
    type U32 = [__m256i; 2];
    type F64 = [__m256d; 4];
    type U16 = [__m256i; 2];

    methods! {
        fn load_f32(raw: &Lanes<[u8; 4]>) -> [__m256; 2] { transmute(*raw) }
        fn load_bf16(raw: &Lanes<[u8; 2]>) -> [__m256; 2] {
            {
                let raw: [__m128i; 2] = transmute(*raw);
                let wide = both!(_mm256_cvtepu16_epi32(raw));
                transmute([_mm256_slli_epi32::<16>(wide[0]), _mm256_slli_epi32::<16>(wide[1])])
            }
        }
        fn load_f16(raw: &Lanes<[u8; 2]>) -> [__m256; 2] {
            {
                let raw: [__m128i; 2] = transmute(*raw);
                both!(_mm256_cvtph_ps(raw))
            }
        }
        fn f32s(array: Lanes<f32>) -> [__m256; 2] { transmute(array) }
        fn u32s(array: Lanes<u32>) -> [__m256i; 2] { transmute(array) }
        fn splat(x: f32) -> [__m256; 2] { [_mm256_set1_ps(x); 2] }
        fn array(a: [__m256; 2]) -> Lanes<f32> { transmute(a) }
        fn array_u32(a: [__m256i; 2]) -> Lanes<u32> { transmute(a) }
        fn array_f64(a: [__m256d; 4]) -> Lanes<f64> { transmute(a) }
        fn low8(a: [__m256i; 2]) -> Lanes<u8> {
            {
                // Packing saturates, so the high bits are cleared first; it works on the
                // halves of its operands, which the permutation puts in order.
                let mask = [_mm256_set1_epi32(0xFF); 2];
                let a = both!(_mm256_and_si256(a, mask));
                let words = _mm256_packus_epi32(a[0], a[1]);
                let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
                let high = _mm256_extracti128_si256::<1>(words);
                transmute(_mm_packus_epi16(_mm256_castsi256_si128(words), high))
            }
        }
        fn differ8(a: [__m256i; 2], other: &Lanes<u8>) -> [__m256i; 2] {
            {
                let other = transmute::<Lanes<u8>, __m128i>(*other);
                let high = _mm_unpackhi_epi64(other, other);
                let other = [_mm256_cvtepu8_epi32(other), _mm256_cvtepu8_epi32(high)];
                let mask = [_mm256_set1_epi32(0xFF); 2];
                let a = both!(_mm256_xor_si256(a, other));
                both!(_mm256_and_si256(a, mask))
            }
        }
        fn differ8_alternating(a: [__m256i; 2], b: [__m256i; 2], other: &[u8; PAIR]) -> [__m256i; 2] {
            {
                // Each 16-bit word of `other` has a byte for `a` and one for `b`.
                let other: [__m128i; 2] = transmute(*other);
                let other = both!(_mm256_cvtepu16_epi32(other));
                let mask = [_mm256_set1_epi32(0xFF); 2];
                let b = both!(_mm256_and_si256(b, mask));
                let b = both!(_mm256_slli_epi32::<8>(b));
                let a = both!(_mm256_and_si256(a, mask));
                let words = both!(_mm256_or_si256(a, b));
                both!(_mm256_xor_si256(words, other))
            }
        }
        fn add(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] { both!(_mm256_add_ps(a, b)) }
        fn sub(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] { both!(_mm256_sub_ps(a, b)) }
        fn mul(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] { both!(_mm256_mul_ps(a, b)) }
        fn div(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] { both!(_mm256_div_ps(a, b)) }
        fn mul_add(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            both!(_mm256_fmadd_ps(a, b, c))
        }
        fn min(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] { both!(_mm256_min_ps(a, b)) }
        fn max(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] { both!(_mm256_max_ps(a, b)) }
        fn abs(a: [__m256; 2]) -> [__m256; 2] {
            {
                let sign = [_mm256_set1_ps(-0.0); 2];
                both!(_mm256_andnot_ps(sign, a))
            }
        }
        fn max_abs(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            {
                let sign = [_mm256_set1_ps(-0.0); 2];
                let a = both!(_mm256_andnot_ps(sign, a));
                both!(_mm256_max_ps(a, b))
            }
        }
        fn round_even(a: [__m256; 2]) -> [__m256; 2] {
            [
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[0]),
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[1]),
            ]
        }
        fn bits(a: [__m256; 2]) -> [__m256i; 2] { both!(_mm256_castps_si256(a)) }
        fn with_bits(a: [__m256i; 2]) -> [__m256; 2] { both!(_mm256_castsi256_ps(a)) }
        fn add_u32(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] { both!(_mm256_add_epi32(a, b)) }
        fn sub_u32(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] { both!(_mm256_sub_epi32(a, b)) }
        fn at_least(a: [__m256; 2], b: [__m256; 2]) -> [__m256i; 2] {
            [
                _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GE_OQ>(a[0], b[0])),
                _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GE_OQ>(a[1], b[1])),
            ]
        }
        fn or(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] { both!(_mm256_or_si256(a, b)) }
        fn and(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] { both!(_mm256_and_si256(a, b)) }
        fn shift_right(a: [__m256i; 2], by: u32) -> [__m256i; 2] {
            {
                let by = [_mm_cvtsi32_si128(by as i32); 2];
                both!(_mm256_srl_epi32(a, by))
            }
        }
        fn count_zeros(counts: [__m256i; 2], a: [__m256; 2]) -> [__m256i; 2] {
            {
                let zero = _mm256_setzero_ps();
                let is_zero = [
                    _mm256_castps_si256(_mm256_cmp_ps::<_CMP_EQ_OQ>(a[0], zero)),
                    _mm256_castps_si256(_mm256_cmp_ps::<_CMP_EQ_OQ>(a[1], zero)),
                ];
                both!(_mm256_sub_epi32(counts, is_zero))
            }
        }
        fn zero_f64() -> [__m256d; 4] { [_mm256_setzero_pd(); 4] }
        fn widen(a: [__m256; 2]) -> [__m256d; 4] {
            [
                _mm256_cvtps_pd(_mm256_castps256_ps128(a[0])),
                _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(a[0])),
                _mm256_cvtps_pd(_mm256_castps256_ps128(a[1])),
                _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(a[1])),
            ]
        }
        fn add_f64(a: [__m256d; 4], b: [__m256d; 4]) -> [__m256d; 4] {
            [
                _mm256_add_pd(a[0], b[0]),
                _mm256_add_pd(a[1], b[1]),
                _mm256_add_pd(a[2], b[2]),
                _mm256_add_pd(a[3], b[3]),
            ]
        }
        fn add_square(sum: [__m256d; 4], a: [__m256d; 4]) -> [__m256d; 4] {
            [
                _mm256_fmadd_pd(a[0], a[0], sum[0]),
                _mm256_fmadd_pd(a[1], a[1], sum[1]),
                _mm256_fmadd_pd(a[2], a[2], sum[2]),
                _mm256_fmadd_pd(a[3], a[3], sum[3]),
            ]
        }
        fn sub_f64(a: [__m256d; 4], b: [__m256d; 4]) -> [__m256d; 4] { fours!(_mm256_sub_pd(a, b)) }
        fn mul_f64(a: [__m256d; 4], b: [__m256d; 4]) -> [__m256d; 4] { fours!(_mm256_mul_pd(a, b)) }
        fn max_abs_f64(a: [__m256d; 4], b: [__m256d; 4]) -> [__m256d; 4] {
            {
                let sign = [_mm256_set1_pd(-0.0); 4];
                let a = fours!(_mm256_andnot_pd(sign, a));
                fours!(_mm256_max_pd(a, b))
            }
        }
        fn f64s(array: Lanes<u32>) -> [__m256d; 4] {
            {
                // For n below 2³², the low half of the bits of 2⁵² + n is n.
                let a: [__m128i; 4] = transmute(array);
                let magic = [_mm256_set1_pd(4_503_599_627_370_496.0); 4];
                let wide = fours!(_mm256_cvtepu32_epi64(a));
                let wide = fours!(_mm256_castsi256_pd(wide));
                let wide = fours!(_mm256_or_pd(wide, magic));
                fours!(_mm256_sub_pd(wide, magic))
            }
        }
        fn where_zero(a: [__m256d; 4], of: [__m256d; 4]) -> [__m256d; 4] {
            {
                let zero = [_mm256_setzero_pd(); 4];
                let is_zero = fours!(_mm256_cmp_pd::<_CMP_EQ_OQ>(of, zero));
                fours!(_mm256_and_pd(a, is_zero))
            }
        }
        fn largest(a: [__m256; 2]) -> f32 {
            {
                let a = _mm256_max_ps(a[0], a[1]);
                let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
                _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
            }
        }
        fn largest_of_each(of: Lanes<[__m256; 2]>) -> Lanes<f32> {
            {
                // Combine halves of two vectors, then quarters of four, and then all of eight.
                let mut vectors = [_mm256_setzero_ps(); 16];
                for (place, of) in vectors.iter_mut().zip(of) {
                    *place = _mm256_max_ps(of[0], of[1]);
                }
                let mut halves = [_mm256_setzero_ps(); 8];
                for (i, place) in halves.iter_mut().enumerate() {
                    let i_of_all = i / 4 * 8 + i % 4;
                    let (x, y) = (vectors[i_of_all], vectors[i_of_all + 4]);
                    let low = _mm256_permute2f128_ps::<0x20>(x, y);
                    *place = _mm256_max_ps(low, _mm256_permute2f128_ps::<0x31>(x, y));
                }
                let mut quarters = [_mm256_setzero_ps(); 4];
                for (i, place) in quarters.iter_mut().enumerate() {
                    let (x, y) = (halves[2 * i], halves[2 * i + 1]);
                    let low = _mm256_shuffle_ps::<0b01_00_01_00>(x, y);
                    *place = _mm256_max_ps(low, _mm256_shuffle_ps::<0b11_10_11_10>(x, y));
                }
                let mut out = [_mm256_setzero_ps(); 2];
                for (i, place) in out.iter_mut().enumerate() {
                    let (x, y) = (quarters[2 * i], quarters[2 * i + 1]);
                    let even = _mm256_shuffle_ps::<0b10_00_10_00>(x, y);
                    *place = _mm256_max_ps(even, _mm256_shuffle_ps::<0b11_01_11_01>(x, y));
                }
                transmute(out)
            }
        }
        fn swap_ones(a: [__m256; 2]) -> [__m256; 2] {
            [
                _mm256_permute_ps::<0b10_11_00_01>(a[0]),
                _mm256_permute_ps::<0b10_11_00_01>(a[1]),
            ]
        }
        fn swap_twos(a: [__m256; 2]) -> [__m256; 2] {
            [
                _mm256_permute_ps::<0b01_00_11_10>(a[0]),
                _mm256_permute_ps::<0b01_00_11_10>(a[1]),
            ]
        }
        fn all_within(a: [__m256; 2], low: f32, high: f32) -> bool {
            {
                let (low, high) = ([_mm256_set1_ps(low); 2], [_mm256_set1_ps(high); 2]);
                let is_inside = [
                    _mm256_and_ps(
                        _mm256_cmp_ps::<_CMP_GE_OQ>(a[0], low[0]),
                        _mm256_cmp_ps::<_CMP_LE_OQ>(a[0], high[0]),
                    ),
                    _mm256_and_ps(
                        _mm256_cmp_ps::<_CMP_GE_OQ>(a[1], low[1]),
                        _mm256_cmp_ps::<_CMP_LE_OQ>(a[1], high[1]),
                    ),
                ];
                _mm256_movemask_ps(_mm256_and_ps(is_inside[0], is_inside[1])) == 0xFF
            }
        }
        fn load_u16(raw: &[Lanes<[u8; 2]>; 2]) -> [__m256i; 2] { transmute(*raw) }
        fn splat_u16(a: u16) -> [__m256i; 2] { [_mm256_set1_epi16(a as i16); 2] }
        fn array_u16(a: [__m256i; 2]) -> [u16; PAIR] { transmute(a) }
        fn and_u16(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] { both!(_mm256_and_si256(a, b)) }
        fn min_u16(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] { both!(_mm256_min_epu16(a, b)) }
        fn max_u16(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] { both!(_mm256_max_epu16(a, b)) }
        fn max_i16(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] { both!(_mm256_max_epi16(a, b)) }
        fn count_at_most(a: [__m256i; 2], b: [__m256i; 2]) -> u32 {
            {
                // `a <= b` where the larger of them is `b`. Packing preserves all-ones and
                // all-zeros.
                let larger = both!(_mm256_max_epu16(a, b));
                let is = both!(_mm256_cmpeq_epi16(larger, b));
                _mm256_movemask_epi8(_mm256_packs_epi16(is[0], is[1])).count_ones()
            }
        }
        fn widen_bf16(a: [__m256i; 2]) -> [[__m256; 2]; 2] {
            {
                let odd = [_mm256_set1_epi32(0xFFFF_0000_u32 as i32); 2];
                let even = [_mm256_slli_epi32::<16>(a[0]), _mm256_slli_epi32::<16>(a[1])];
                let odd = both!(_mm256_and_si256(a, odd));
                [both!(_mm256_castsi256_ps(even)), both!(_mm256_castsi256_ps(odd))]
            }
        }
        fn any_bit0(a: [__m256i; 2]) -> bool {
            _mm256_testz_si256(_mm256_or_si256(a[0], a[1]), _mm256_set1_epi32(1)) == 0
        }
        fn unseen(seen: &LevelTracker, codes: [__m256i; 2], _q: [__m256; 2]) -> [__m256i; 2] {
            {
                // The permutation uses the low three bits of an index.
                let table = [transmute::<[u32; 8], __m256i>(seen.missing); 2];
                let index = [_mm256_srli_epi32::<5>(codes[0]), _mm256_srli_epi32::<5>(codes[1])];
                let words = both!(_mm256_permutevar8x32_epi32(table, index));
                let mask = [_mm256_set1_epi32(31); 2];
                let bit = both!(_mm256_and_si256(codes, mask));
                both!(_mm256_srlv_epi32(words, bit))
            }
        }
        fn narrow_f16(a: Lanes<f32>) -> Lanes<u16> {
            {
                let a: [__m256; 2] = transmute(a);
                transmute([
                    _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a[0]),
                    _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a[1]),
                ])
            }
        }
        fn widen_f16(a: Lanes<u16>) -> Lanes<f32> {
            {
                let a: [__m128i; 2] = transmute(a);
                transmute(both!(_mm256_cvtph_ps(a)))
            }
        }
        fn low16(a: Lanes<u32>) -> Lanes<u16> {
            {
                // As in `low8`, the high bits are cleared first.
                let a: [__m256i; 2] = transmute(a);
                let mask = [_mm256_set1_epi32(0xFFFF); 2];
                let a = both!(_mm256_and_si256(a, mask));
                let words = _mm256_packus_epi32(a[0], a[1]);
                transmute(_mm256_permute4x64_epi64::<0b11_01_10_00>(words))
            }
        }
    }
}

impl Simd for Avx512 {
    const FMA: bool = true;
    type F32 = __m512;
    type U32 = __m512i;
    type F64 = [__m512d; 2];
    type U16 = __m512i;

    methods! {
        fn load_f32(raw: &Lanes<[u8; 4]>) -> __m512 { transmute(*raw) }
        fn load_bf16(raw: &Lanes<[u8; 2]>) -> __m512 {
            transmute(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(transmute::<
                Lanes<[u8; 2]>,
                __m256i,
            >(*raw))))
        }
        fn load_f16(raw: &Lanes<[u8; 2]>) -> __m512 {
            _mm512_cvtph_ps(transmute::<Lanes<[u8; 2]>, __m256i>(*raw))
        }
        fn f32s(array: Lanes<f32>) -> __m512 { transmute(array) }
        fn u32s(array: Lanes<u32>) -> __m512i { transmute(array) }
        fn splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn array(a: __m512) -> Lanes<f32> { transmute(a) }
        fn array_u32(a: __m512i) -> Lanes<u32> { transmute(a) }
        fn array_f64(a: [__m512d; 2]) -> Lanes<f64> { transmute(a) }
        fn low8(a: __m512i) -> Lanes<u8> { transmute(_mm512_cvtepi32_epi8(a)) }
        fn differ8(a: __m512i, other: &Lanes<u8>) -> __m512i {
            {
                let other = _mm512_cvtepu8_epi32(transmute::<Lanes<u8>, __m128i>(*other));
                _mm512_and_si512(_mm512_xor_si512(a, other), _mm512_set1_epi32(0xFF))
            }
        }
        fn differ8_alternating(a: __m512i, b: __m512i, other: &[u8; PAIR]) -> __m512i {
            {
                // A 16-bit word of `other` has a byte for `a` and one for `b`. The ternary logic
                // selects `a` where the mask is set, else `b`.
                let other = _mm512_cvtepu16_epi32(transmute::<[u8; PAIR], __m256i>(*other));
                let (mask, b) = (_mm512_set1_epi32(0xFF), _mm512_slli_epi32::<8>(b));
                let words = _mm512_ternarylogic_epi32::<0xCA>(mask, a, b);
                _mm512_and_si512(_mm512_xor_si512(words, other), _mm512_set1_epi32(0xFFFF))
            }
        }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn abs(a: __m512) -> __m512 { _mm512_abs_ps(a) }
        fn max_abs(a: __m512, b: __m512) -> __m512 {
            // The larger of the magnitudes, without a sign.
            _mm512_range_ps::<0b10_11>(a, b)
        }
        fn round_even(a: __m512) -> __m512 {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        }
        fn bits(a: __m512) -> __m512i { _mm512_castps_si512(a) }
        fn with_bits(a: __m512i) -> __m512 { _mm512_castsi512_ps(a) }
        fn add_u32(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn sub_u32(a: __m512i, b: __m512i) -> __m512i { _mm512_sub_epi32(a, b) }
        fn at_least(a: __m512, b: __m512) -> __m512i {
            _mm512_movm_epi32(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b))
        }
        fn or(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn and(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn shift_right(a: __m512i, by: u32) -> __m512i {
            _mm512_srl_epi32(a, _mm_cvtsi32_si128(by as i32))
        }
        fn count_zeros(counts: __m512i, a: __m512) -> __m512i {
            {
                let is_zero = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, _mm512_setzero_ps());
                _mm512_mask_sub_epi32(counts, is_zero, counts, _mm512_set1_epi32(-1))
            }
        }
        fn zero_f64() -> [__m512d; 2] { [_mm512_setzero_pd(); 2] }
        fn widen(a: __m512) -> [__m512d; 2] {
            [
                _mm512_cvtps_pd(_mm512_castps512_ps256(a)),
                _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(a)),
            ]
        }
        fn add_f64(a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] { both!(_mm512_add_pd(a, b)) }
        fn add_square(sum: [__m512d; 2], a: [__m512d; 2]) -> [__m512d; 2] {
            both!(_mm512_fmadd_pd(a, a, sum))
        }
        fn sub_f64(a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] { both!(_mm512_sub_pd(a, b)) }
        fn mul_f64(a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] { both!(_mm512_mul_pd(a, b)) }
        fn max_abs_f64(a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] {
            // The larger of the magnitudes, without a sign.
            both!(_mm512_range_pd::<0b10_11>(a, b))
        }
        fn f64s(array: Lanes<u32>) -> [__m512d; 2] {
            {
                let a: [__m256i; 2] = transmute(array);
                both!(_mm512_cvtepu32_pd(a))
            }
        }
        fn where_zero(a: [__m512d; 2], of: [__m512d; 2]) -> [__m512d; 2] {
            {
                let zero = [_mm512_setzero_pd(); 2];
                let is_zero = both!(_mm512_cmp_pd_mask::<_CMP_EQ_OQ>(of, zero));
                both!(_mm512_maskz_mov_pd(is_zero, a))
            }
        }
        fn largest(a: __m512) -> f32 { _mm512_reduce_max_ps(a) }
        fn largest_of_each(of: Lanes<__m512>) -> Lanes<f32> {
            {
                // Combine halves of two vectors, then quarters of four, eighths of eight, and all.
                let mut halves = [_mm512_setzero_ps(); 8];
                for (i, place) in halves.iter_mut().enumerate() {
                    let i_of_all = i / 4 * 8 + i % 4;
                    let (x, y) = (of[i_of_all], of[i_of_all + 4]);
                    let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(x, y);
                    *place = _mm512_max_ps(low, _mm512_shuffle_f32x4::<0b11_10_11_10>(x, y));
                }
                let mut quarters = [_mm512_setzero_ps(); 4];
                for (i, place) in quarters.iter_mut().enumerate() {
                    let (x, y) = (halves[i], halves[i + 4]);
                    let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(x, y);
                    *place = _mm512_max_ps(even, _mm512_shuffle_f32x4::<0b11_01_11_01>(x, y));
                }
                let mut eighths = [_mm512_setzero_ps(); 2];
                for (i, place) in eighths.iter_mut().enumerate() {
                    let (x, y) = (quarters[2 * i], quarters[2 * i + 1]);
                    let low = _mm512_shuffle_ps::<0b01_00_01_00>(x, y);
                    *place = _mm512_max_ps(low, _mm512_shuffle_ps::<0b11_10_11_10>(x, y));
                }
                let [x, y] = eighths;
                let even = _mm512_shuffle_ps::<0b10_00_10_00>(x, y);
                transmute(_mm512_max_ps(even, _mm512_shuffle_ps::<0b11_01_11_01>(x, y)))
            }
        }
        fn swap_ones(a: __m512) -> __m512 { _mm512_permute_ps::<0b10_11_00_01>(a) }
        fn swap_twos(a: __m512) -> __m512 { _mm512_permute_ps::<0b01_00_11_10>(a) }
        fn all_within(a: __m512, low: f32, high: f32) -> bool {
            {
                let is_up = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, _mm512_set1_ps(low));
                is_up & _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, _mm512_set1_ps(high)) == u16::MAX
            }
        }
        fn load_u16(raw: &[Lanes<[u8; 2]>; 2]) -> __m512i { transmute(*raw) }
        fn splat_u16(a: u16) -> __m512i { _mm512_set1_epi16(a as i16) }
        fn array_u16(a: __m512i) -> [u16; PAIR] { transmute(a) }
        fn and_u16(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn min_u16(a: __m512i, b: __m512i) -> __m512i { _mm512_min_epu16(a, b) }
        fn max_u16(a: __m512i, b: __m512i) -> __m512i { _mm512_max_epu16(a, b) }
        fn max_i16(a: __m512i, b: __m512i) -> __m512i { _mm512_max_epi16(a, b) }
        fn count_at_most(a: __m512i, b: __m512i) -> u32 {
            _mm512_cmple_epu16_mask(a, b).count_ones()
        }
        fn widen_bf16(a: __m512i) -> [__m512; 2] {
            {
                let odd = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
                let (even, odd) = (_mm512_slli_epi32::<16>(a), _mm512_and_si512(a, odd));
                [_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd)]
            }
        }
        fn any_bit0(a: __m512i) -> bool { _mm512_test_epi32_mask(a, _mm512_set1_epi32(1)) != 0 }
        fn unseen(seen: &LevelTracker, codes: __m512i, _q: __m512) -> __m512i {
            {
                // A permutation uses the low four bits of an index, so the table is repeated; a
                // rotation uses the low five bits of its count.
                let table = _mm512_broadcast_i64x4(transmute::<[u32; 8], __m256i>(seen.missing));
                let words = _mm512_permutexvar_epi32(_mm512_srli_epi32::<5>(codes), table);
                _mm512_rorv_epi32(words, codes)
            }
        }
        fn narrow_f16(a: Lanes<f32>) -> Lanes<u16> {
            transmute(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(transmute::<
                Lanes<f32>,
                __m512,
            >(a)))
        }
        fn widen_f16(a: Lanes<u16>) -> Lanes<f32> {
            transmute(_mm512_cvtph_ps(transmute::<Lanes<u16>, __m256i>(a)))
        }
        fn low16(a: Lanes<u32>) -> Lanes<u16> {
            transmute(_mm512_cvtepi32_epi16(transmute::<Lanes<u32>, __m512i>(a)))
        }
    }
}
