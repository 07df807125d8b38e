//! Range and moments: min, max, Σx, Σx², zeros, and non-finite elements.
//!
//! The vector loops assume finite elements and check the assumption once per block. A block with
//! non-finite elements is processed again, element by element.

use crate::quantization::kernels::array_lanes::{LANES, fold, zip};
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::element::{Element, Float, Narrow};
use crate::quantization::kernels::f16_bits::{Bits16, Extremes, count_zeros, pairs};
use crate::quantization::kernels::simd::Kernel;
use crate::quantization::kernels::simd::Simd;
use crate::quantization::statistics::{Moments, Range};
use crate::tensor::FloatType;

/// Number of elements between two checks for NaN and infinity.
const BLOCK_ELEMENTS: usize = 1 << 14;

/// The range of little-endian elements, which is all that min-max calibration needs.
pub fn range(dtype: FloatType, bytes: &[u8]) -> Range {
    run(RangeOf { dtype, bytes })
}

/// The range, Σx, Σx² and zeros of little-endian elements. The sums are in f64.
pub fn moments(dtype: FloatType, bytes: &[u8]) -> Moments {
    run(MomentsOf { dtype, bytes })
}

pub(super) struct RangeOf<'a> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
}

impl Kernel for RangeOf<'_> {
    type Output = Range;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Range {
        match self.dtype {
            FloatType::F16 => range_of_16_bits::<half::f16, S>(simd, self.bytes),
            FloatType::BF16 => range_of_16_bits::<half::bf16, S>(simd, self.bytes),
            FloatType::F32 => range_of_f32(simd, self.bytes),
            FloatType::F64 => moments_of_f64(self.bytes).range,
        }
    }
}

pub(super) struct MomentsOf<'a> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
}

impl Kernel for MomentsOf<'_> {
    type Output = Moments;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Moments {
        match self.dtype {
            FloatType::F16 => moments_of_16_bits::<half::f16, S>(simd, self.bytes),
            FloatType::BF16 => moments_of_16_bits::<half::bf16, S>(simd, self.bytes),
            FloatType::F32 => moments_of_f32(simd, self.bytes),
            FloatType::F64 => moments_of_f64(self.bytes),
        }
    }
}

/// Returns the moments of any elements, computed one by one.
fn scalar<E: Element>(bytes: &[u8]) -> Moments {
    let mut m = Moments::default();
    for raw in bytes.chunks_exact(E::SIZE) {
        let x = E::read(raw).f64();
        if x.is_finite() {
            m.range.min = m.range.min.min(x);
            m.range.max = m.range.max.max(x);
            m.sum += x;
            m.sum_sq += x * x;
            m.zeros += u64::from(x == 0.0);
        } else {
            m.range.nan += u64::from(x.is_nan());
            m.range.inf += u64::from(x.is_infinite());
            m.range.first_non_finite.get_or_insert(m.range.count);
        }
        m.range.count += 1;
    }
    m
}

/// Replaces -0.0 by 0.0, because which of the two a minimum returns depends on the order.
fn unsigned_zeros(range: Range) -> Range {
    Range { min: range.min + 0.0, max: range.max + 0.0, ..range }
}

#[inline(always)]
fn range_of_f32<S: Simd>(simd: S, bytes: &[u8]) -> Range {
    let mut range = Range::default();
    for block in bytes.chunks(BLOCK_ELEMENTS * 4) {
        let (whole, tail) = f32::split(block);
        // Two accumulators break the dependency between consecutive instructions.
        let mut min = [simd.splat(f32::INFINITY); 2];
        let mut max = [simd.splat(f32::NEG_INFINITY); 2];
        let mut poison = [simd.splat(0.0); 2];
        let (pairs, odd) = whole.as_chunks::<2>();
        let odd = odd.first().map(|odd| [odd, odd]);
        for [a, b] in pairs.iter().map(|[a, b]| [a, b]).chain(odd) {
            for (i, raw) in [a, b].into_iter().enumerate() {
                let x = f32::load(simd, raw);
                min[i] = simd.min(x, min[i]);
                max[i] = simd.max(x, max[i]);
                // 0 for a finite element, else NaN.
                poison[i] = simd.add(poison[i], simd.sub(x, x));
            }
        }
        let poison = fold(simd.array(simd.add(poison[0], poison[1])), |a, b| a + b);
        let mut of_block = if poison == 0.0 {
            let smallest = fold(simd.array(simd.min(min[0], min[1])), f32::min);
            let largest = fold(simd.array(simd.max(max[0], max[1])), f32::max);
            Range {
                count: (whole.len() * LANES) as u64,
                min: smallest.into(),
                max: largest.into(),
                ..Range::default()
            }
        } else {
            scalar::<f32>(&block[..whole.len() * LANES * 4]).range
        };
        of_block.merge(&scalar::<f32>(tail).range);
        range.merge(&of_block);
    }
    unsigned_zeros(range)
}

#[inline(always)]
fn range_of_16_bits<E: Bits16, S: Simd>(simd: S, bytes: &[u8]) -> Range {
    let mut range = Range::default();
    for block in bytes.chunks(BLOCK_ELEMENTS * E::SIZE) {
        let (pairs, tail) = pairs::<E>(block);
        let mut extremes = Extremes::new(simd);
        for raw in pairs {
            extremes.add(simd.load_u16(raw));
        }
        range.merge(&range_of_pairs::<E, S>(&extremes, pairs));
        range.merge(&scalar::<E>(tail).range);
    }
    unsigned_zeros(range)
}

#[inline(always)]
fn range_of_pairs<E: Bits16, S: Simd>(extremes: &Extremes<S>, pairs: &[[E::Raw; 2]]) -> Range {
    if pairs.is_empty() {
        return Range::default();
    }
    let elements = pairs.as_flattened().as_flattened();
    let range = extremes.range::<E>(elements.len());
    range.unwrap_or_else(|| scalar::<E>(elements.as_flattened()).range)
}

#[inline(always)]
fn moments_of_16_bits<E: Bits16, S: Simd>(simd: S, bytes: &[u8]) -> Moments {
    let mut moments = Moments::default();
    for block in bytes.chunks(BLOCK_ELEMENTS * E::SIZE) {
        let (pairs, tail) = pairs::<E>(block);
        let mut extremes = Extremes::new(simd);
        let mut sum = simd.zero_f64();
        let mut sum_sq = simd.zero_f64();
        let mut zeros = 0;
        for raw in pairs {
            let patterns = simd.load_u16(raw);
            extremes.add(patterns);
            zeros += u64::from(count_zeros(simd, patterns));
            for x in E::load_pair(simd, raw) {
                let x = simd.widen(x);
                sum = simd.add_f64(sum, x);
                sum_sq = simd.add_square(sum_sq, x);
            }
        }
        let range = range_of_pairs::<E, S>(&extremes, pairs);
        let mut of_block = if range.is_finite() {
            let [sum, sum_sq] = [sum, sum_sq].map(|sum| fold(simd.array_f64(sum), |a, b| a + b));
            Moments { range, sum, sum_sq, zeros }
        } else {
            scalar::<E>(pairs.as_flattened().as_flattened().as_flattened())
        };
        of_block.merge(&scalar::<E>(tail));
        moments.merge(&of_block);
    }
    Moments { range: unsigned_zeros(moments.range), ..moments }
}

#[inline(always)]
fn moments_of_f32<S: Simd>(simd: S, bytes: &[u8]) -> Moments {
    let mut moments = Moments::default();
    for block in bytes.chunks(BLOCK_ELEMENTS * 4) {
        let (whole, tail) = f32::split(block);
        let mut min = simd.splat(f32::INFINITY);
        let mut max = simd.splat(f32::NEG_INFINITY);
        let mut sum = simd.zero_f64();
        let mut sum_sq = simd.zero_f64();
        let mut zeros = simd.u32s([0; LANES]);
        for raw in whole {
            let x = f32::load(simd, raw);
            min = simd.min(x, min);
            max = simd.max(x, max);
            zeros = simd.count_zeros(zeros, x);
            let x = simd.widen(x);
            sum = simd.add_f64(sum, x);
            sum_sq = simd.add_square(sum_sq, x);
        }
        let sum_sq = fold(simd.array_f64(sum_sq), |a, b| a + b);
        // The sum of squares is not finite if any element is not.
        let mut of_block = if sum_sq.is_finite() {
            Moments {
                range: Range {
                    count: (whole.len() * LANES) as u64,
                    min: fold(simd.array(min), f32::min).into(),
                    max: fold(simd.array(max), f32::max).into(),
                    ..Range::default()
                },
                sum: fold(simd.array_f64(sum), |a, b| a + b),
                sum_sq,
                zeros: simd.array_u32(zeros).into_iter().map(u64::from).sum(),
            }
        } else {
            scalar::<f32>(&block[..whole.len() * LANES * 4])
        };
        of_block.merge(&scalar::<f32>(tail));
        moments.merge(&of_block);
    }
    Moments { range: unsigned_zeros(moments.range), ..moments }
}

/// F64 is rare, so there is no vector version.
#[inline(always)]
fn moments_of_f64(bytes: &[u8]) -> Moments {
    let mut moments = Moments::default();
    for block in bytes.chunks(BLOCK_ELEMENTS * 8) {
        let (whole, tail) = f64::split(block);
        let mut min = [f64::INFINITY; LANES];
        let mut max = [f64::NEG_INFINITY; LANES];
        let mut sum = [0.0; LANES];
        let mut sum_sq = [0.0; LANES];
        let mut zeros = [0u32; LANES];
        for raw in whole {
            let x = raw.map(f64::from_le_bytes);
            min = zip(min, x, |min, x| if x < min { x } else { min });
            max = zip(max, x, |max, x| if x > max { x } else { max });
            sum = zip(sum, x, |sum, x| sum + x);
            sum_sq = zip(sum_sq, x, |sum_sq, x| sum_sq + x * x);
            zeros = zip(zeros, x, |zeros, x| zeros + u32::from(x == 0.0));
        }
        let sum_sq = fold(sum_sq, |a, b| a + b);
        let mut of_block = if sum_sq.is_finite() {
            Moments {
                range: Range {
                    count: (whole.len() * LANES) as u64,
                    min: fold(min, f64::min),
                    max: fold(max, f64::max),
                    ..Range::default()
                },
                sum: fold(sum, |a, b| a + b),
                sum_sq,
                zeros: zeros.into_iter().map(u64::from).sum(),
            }
        } else {
            // An element is not finite, or a square overflowed.
            scalar::<f64>(&block[..whole.len() * LANES * 8])
        };
        of_block.merge(&scalar::<f64>(tail));
        moments.merge(&of_block);
    }
    Moments { range: unsigned_zeros(moments.range), ..moments }
}
