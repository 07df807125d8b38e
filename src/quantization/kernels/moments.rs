//! Range and moments: min, max, Σx, Σx², zeros, and what is not finite.
//!
//! The vector loops assume finite elements and notice, once a block, when that was wrong;
//! only such a block is gone through again, element by element.

use super::dispatch::{Kernel, Level, run};
use super::lanes::{Element, Float, LANES, Lanes, by_type, fold, map, zip};
use crate::quantization::{Moments, Range};
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
            FloatType::F16 => keys::<half::f16>(self.bytes),
            FloatType::BF16 => keys::<half::bf16>(self.bytes),
            FloatType::F32 => values::<f32, _>(level, self.bytes),
            FloatType::F64 => values::<f64, _>(level, self.bytes),
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
        by_type!(self.dtype, E => moments_of::<E, L>(level, self.bytes))
    }
}

/// Exact for any elements, one by one.
fn careful<E: Element>(bytes: &[u8]) -> Moments {
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
fn values<E: Element, L: Level>(level: L, bytes: &[u8]) -> Range {
    let mut range = Range::default();
    for block in bytes.chunks(BLOCK * E::SIZE) {
        let mut min = [E::Wide::INFINITY; LANES];
        let mut max = [E::Wide::default() - E::Wide::INFINITY; LANES];
        let mut poison = [E::Wide::default(); LANES];
        let (whole, tail) = E::split(block);
        for raw in whole {
            let x = E::load(level, raw);
            min = zip(min, x, Float::least);
            max = zip(max, x, Float::most);
            #[expect(clippy::eq_op, reason = "0, but NaN for what is not finite")]
            let new = map(x, |x| x - x);
            poison = zip(poison, new, |p, x| p + x);
        }
        let mut found = if fold(poison, |a, b| a + b) == E::Wide::default() {
            Range {
                count: (whole.len() * LANES) as u64,
                min: fold(min, Float::least).f64(),
                max: fold(max, Float::most).f64(),
                ..Range::default()
            }
        } else {
            careful::<E>(&block[..whole.len() * LANES * E::SIZE]).range
        };
        found.merge(&careful::<E>(tail).range);
        range.merge(&found);
    }
    unsigned_zeros(range)
}

/// A 16-bit float's pattern as an integer of the same order; its own inverse.
#[inline(always)]
fn key(pattern: u16) -> i16 {
    (pattern ^ (((pattern as i16) >> 15) as u16 >> 1)) as i16
}

/// Integer keys compare faster than widened floats, and order NaN beyond infinity.
#[inline(always)]
fn keys<E: Element<Wide = f32>>(bytes: &[u8]) -> Range {
    // As many as fill the vectors: the order of integer comparisons changes nothing.
    const KEYS: usize = 2 * LANES;
    let value = |key: i16| E::read(&(self::key(key as u16) as u16).to_le_bytes());
    let mut range = Range::default();
    for block in bytes.chunks(BLOCK * E::SIZE) {
        let mut min = [i16::MAX; KEYS];
        let mut max = [i16::MIN; KEYS];
        let (words, rest) = block.as_chunks::<2>();
        let (chunks, tail) = words.as_chunks::<KEYS>();
        for chunk in chunks {
            for i in 0..KEYS {
                let key = key(u16::from_le_bytes(chunk[i]));
                min[i] = min[i].min(key);
                max[i] = max[i].max(key);
            }
        }
        for &word in tail {
            let key = key(u16::from_le_bytes(word));
            min[0] = min[0].min(key);
            max[0] = max[0].max(key);
        }
        let min = value(min.into_iter().min().unwrap_or(i16::MAX));
        let max = value(max.into_iter().max().unwrap_or(i16::MIN));
        range.merge(&if words.is_empty() {
            Range::default()
        } else if min.is_finite() && max.is_finite() {
            Range {
                count: words.len() as u64,
                min: min.into(),
                max: max.into(),
                ..Range::default()
            }
        } else {
            careful::<E>(&block[..block.len() - rest.len()]).range
        });
    }
    unsigned_zeros(range)
}

#[inline(always)]
fn moments_of<E: Element, L: Level>(level: L, bytes: &[u8]) -> Moments {
    let mut moments = Moments::default();
    for block in bytes.chunks(BLOCK * E::SIZE) {
        let mut min = [E::Wide::INFINITY; LANES];
        let mut max = [E::Wide::default() - E::Wide::INFINITY; LANES];
        let mut sum: Lanes<f64> = [0.0; LANES];
        let mut sum_sq: Lanes<f64> = [0.0; LANES];
        let mut zeros: Lanes<u32> = [0; LANES];
        let (whole, tail) = E::split(block);
        for raw in whole {
            let x = E::load(level, raw);
            min = zip(min, x, Float::least);
            max = zip(max, x, Float::most);
            zeros = zip(zeros, x, |n, x| n + u32::from(x == E::Wide::default()));
            let x = map(x, Float::f64);
            sum = zip(sum, x, |s, x| s + x);
            sum_sq = if L::FMA && E::SIZE < 8 {
                // The square of a single is exact in f64, so fusing changes nothing.
                zip(sum_sq, x, |s, x| x.mul_add(x, s))
            } else {
                zip(sum_sq, x, |s, x| s + x * x)
            };
        }
        let sum_sq = fold(sum_sq, |a, b| a + b);
        // NaN and infinity leave nothing finite behind, nor does an overflow in f64.
        let mut found = if sum_sq.is_finite() {
            Moments {
                range: Range {
                    count: (whole.len() * LANES) as u64,
                    min: fold(min, Float::least).f64(),
                    max: fold(max, Float::most).f64(),
                    ..Range::default()
                },
                sum: fold(sum, |a, b| a + b),
                sum_sq,
                zeros: zeros.iter().copied().map(u64::from).sum(),
            }
        } else {
            careful::<E>(&block[..whole.len() * LANES * E::SIZE])
        };
        found.merge(&careful::<E>(tail));
        moments.merge(&found);
    }
    Moments { range: unsigned_zeros(moments.range), ..moments }
}
