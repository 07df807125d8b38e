//! Range and moments: min, max, Σx, Σx², zeros, and what is not finite.
//!
//! The vector loops assume finite elements and notice, once a block, when that was wrong;
//! only such a block is gone through again, element by element.

use crate::quantization::kernels::array_lanes::{LANES, fold, zip};
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::element::{Element, Float, Narrow};
use crate::quantization::kernels::f16_bits::{Extremes, Half, count_zeros, pairs};
use crate::quantization::kernels::kernel::Kernel;
use crate::quantization::kernels::simd::Level;
use crate::quantization::statistics::{Moments, Range};
use crate::tensor::FloatType;

/// Elements between two checks for NaN and infinity.
const BLOCK: usize = 1 << 14;

/// Min, max and the non-finite elements: all that MinMax calibration needs.
pub fn range(dtype: FloatType, bytes: &[u8]) -> Range {
    run(RangeOf { dtype, bytes })
}

/// Min, max, Σx, Σx², zeros and the non-finite elements. The sums are in f64.
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
    fn run<L: Level>(self, level: L) -> Range {
        match self.dtype {
            FloatType::F16 => range_of_halves::<half::f16, L>(level, self.bytes),
            FloatType::BF16 => range_of_halves::<half::bf16, L>(level, self.bytes),
            FloatType::F32 => range_of_singles(level, self.bytes),
            FloatType::F64 => moments_of_doubles(self.bytes).range,
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
    fn run<L: Level>(self, level: L) -> Moments {
        match self.dtype {
            FloatType::F16 => moments_of_halves::<half::f16, L>(level, self.bytes),
            FloatType::BF16 => moments_of_halves::<half::bf16, L>(level, self.bytes),
            FloatType::F32 => moments_of_singles(level, self.bytes),
            FloatType::F64 => moments_of_doubles(self.bytes),
        }
    }
}

/// Exact for any elements, one by one.
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

/// Zero has one sign here: which of the two a minimum keeps depends on the order.
fn unsigned_zeros(range: Range) -> Range {
    Range { min: range.min + 0.0, max: range.max + 0.0, ..range }
}

#[inline(always)]
fn range_of_singles<L: Level>(l: L, bytes: &[u8]) -> Range {
    let mut range = Range::default();
    for block in bytes.chunks(BLOCK * 4) {
        let (whole, tail) = f32::split(block);
        // Two of each, as one would wait for itself.
        let mut min = [l.splat(f32::INFINITY); 2];
        let mut max = [l.splat(f32::NEG_INFINITY); 2];
        let mut poison = [l.splat(0.0); 2];
        let (pairs, odd) = whole.as_chunks::<2>();
        let odd = odd.first().map(|odd| [odd, odd]);
        for [a, b] in pairs.iter().map(|[a, b]| [a, b]).chain(odd) {
            for (i, raw) in [a, b].into_iter().enumerate() {
                let x = f32::load(l, raw);
                min[i] = l.min(x, min[i]);
                max[i] = l.max(x, max[i]);
                // 0, and NaN for what is not finite.
                poison[i] = l.add(poison[i], l.sub(x, x));
            }
        }
        let poison = fold(l.array(l.add(poison[0], poison[1])), |a, b| a + b);
        let mut found = if poison == 0.0 {
            let least = fold(l.array(l.min(min[0], min[1])), f32::min);
            let most = fold(l.array(l.max(max[0], max[1])), f32::max);
            Range {
                count: (whole.len() * LANES) as u64,
                min: least.into(),
                max: most.into(),
                ..Range::default()
            }
        } else {
            scalar::<f32>(&block[..whole.len() * LANES * 4]).range
        };
        found.merge(&scalar::<f32>(tail).range);
        range.merge(&found);
    }
    unsigned_zeros(range)
}

#[inline(always)]
fn range_of_halves<E: Half, L: Level>(l: L, bytes: &[u8]) -> Range {
    let mut range = Range::default();
    for block in bytes.chunks(BLOCK * E::SIZE) {
        let (pairs, tail) = pairs::<E>(block);
        let mut extremes = Extremes::new(l);
        for raw in pairs {
            extremes.add(l.load_u16(raw));
        }
        range.merge(&range_of_pairs::<E, L>(&extremes, pairs));
        range.merge(&scalar::<E>(tail).range);
    }
    unsigned_zeros(range)
}

#[inline(always)]
fn range_of_pairs<E: Half, L: Level>(extremes: &Extremes<L>, pairs: &[[E::Raw; 2]]) -> Range {
    if pairs.is_empty() {
        return Range::default();
    }
    let elements = pairs.as_flattened().as_flattened();
    let range = extremes.range::<E>(elements.len());
    range.unwrap_or_else(|| scalar::<E>(elements.as_flattened()).range)
}

#[inline(always)]
fn moments_of_halves<E: Half, L: Level>(l: L, bytes: &[u8]) -> Moments {
    let mut moments = Moments::default();
    for block in bytes.chunks(BLOCK * E::SIZE) {
        let (pairs, tail) = pairs::<E>(block);
        let mut extremes = Extremes::new(l);
        let mut sum = l.zero_f64();
        let mut sum_sq = l.zero_f64();
        let mut zeros = 0;
        for raw in pairs {
            let patterns = l.load_u16(raw);
            extremes.add(patterns);
            zeros += u64::from(count_zeros(l, patterns));
            for x in E::load_pair(l, raw) {
                let x = l.widen(x);
                sum = l.add_f64(sum, x);
                sum_sq = l.add_square(sum_sq, x);
            }
        }
        let range = range_of_pairs::<E, L>(&extremes, pairs);
        let mut found = if range.is_finite() {
            let [sum, sum_sq] = [sum, sum_sq].map(|sum| fold(l.array_f64(sum), |a, b| a + b));
            Moments { range, sum, sum_sq, zeros }
        } else {
            scalar::<E>(pairs.as_flattened().as_flattened().as_flattened())
        };
        found.merge(&scalar::<E>(tail));
        moments.merge(&found);
    }
    Moments { range: unsigned_zeros(moments.range), ..moments }
}

#[inline(always)]
fn moments_of_singles<L: Level>(l: L, bytes: &[u8]) -> Moments {
    let mut moments = Moments::default();
    for block in bytes.chunks(BLOCK * 4) {
        let (whole, tail) = f32::split(block);
        let mut min = l.splat(f32::INFINITY);
        let mut max = l.splat(f32::NEG_INFINITY);
        let mut sum = l.zero_f64();
        let mut sum_sq = l.zero_f64();
        let mut zeros = l.u32s([0; LANES]);
        for raw in whole {
            let x = f32::load(l, raw);
            min = l.min(x, min);
            max = l.max(x, max);
            zeros = l.count_zeros(zeros, x);
            let x = l.widen(x);
            sum = l.add_f64(sum, x);
            sum_sq = l.add_square(sum_sq, x);
        }
        let sum_sq = fold(l.array_f64(sum_sq), |a, b| a + b);
        // NaN and infinity leave nothing finite behind.
        let mut found = if sum_sq.is_finite() {
            Moments {
                range: Range {
                    count: (whole.len() * LANES) as u64,
                    min: fold(l.array(min), f32::min).into(),
                    max: fold(l.array(max), f32::max).into(),
                    ..Range::default()
                },
                sum: fold(l.array_f64(sum), |a, b| a + b),
                sum_sq,
                zeros: l.array_u32(zeros).into_iter().map(u64::from).sum(),
            }
        } else {
            scalar::<f32>(&block[..whole.len() * LANES * 4])
        };
        found.merge(&scalar::<f32>(tail));
        moments.merge(&found);
    }
    Moments { range: unsigned_zeros(moments.range), ..moments }
}

/// For the rare F64, arrays do.
#[inline(always)]
fn moments_of_doubles(bytes: &[u8]) -> Moments {
    let mut moments = Moments::default();
    for block in bytes.chunks(BLOCK * 8) {
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
        let mut found = if sum_sq.is_finite() {
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
            // Something is not finite, or a square was too large.
            scalar::<f64>(&block[..whole.len() * LANES * 8])
        };
        found.merge(&scalar::<f64>(tail));
        moments.merge(&found);
    }
    Moments { range: unsigned_zeros(moments.range), ..moments }
}
