//! Counts of each value in a tensor.

use crate::quantization::kernels::{
    PatternCounts, Quantization, Weighted, weighted_error, weighted_noise,
};
use crate::quantization::statistics::{ErrorSums, Moments, Range};
use crate::tensor::FloatType;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use serde::{Deserialize, Serialize};
use std::ops::Range as Indices;

/// The values of a tensor's elements, with the number of elements that have each value.
///
/// For BF16 and F16 the values are exact, and there are at most 65,536 of them. The error
/// of any per-tensor scheme, and whatever else is independent of the order of the elements, can
/// be computed from the histogram exactly, without reading the tensor again.
///
/// F32 and F64 elements are counted in bins that are 1/128 of their value wide. A bin is
/// represented by its value nearest to zero, which is enough for drawing and for estimates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValueHistogram {
    dtype: FloatType,
    /// The bit patterns of the values, ascending as unsigned integers: from zero up, then from
    /// minus zero down. A pattern is repeated if its count does not fit a `u32`.
    patterns: Box<[u16]>,
    counts: Box<[u32]>,
}

impl ValueHistogram {
    /// The histogram of little-endian elements in memory.
    pub fn of(dtype: FloatType, bytes: &[u8]) -> ValueHistogram {
        let mut builder = HistogramBuilder::new(dtype);
        builder.add(bytes);
        builder.take()
    }

    /// Whether the histogram is consistent and can belong to a tensor of `elements` elements
    /// of type `dtype`. Checks one that was read from a file.
    pub fn fits(&self, dtype: FloatType, elements: u64) -> bool {
        let count = |sum: u64, &n: &u32| sum.checked_add(u64::from(n));
        self.dtype == dtype
            && self.patterns.len() == self.counts.len()
            && self.patterns.is_sorted()
            && self.counts.iter().try_fold(0, count) == Some(elements)
    }

    /// The type of the elements that were counted.
    pub(super) fn dtype(&self) -> FloatType {
        self.dtype
    }

    /// Whether the values are those of the elements instead of bins.
    pub fn is_exact(&self) -> bool {
        matches!(self.dtype, FloatType::F16 | FloatType::BF16)
    }

    /// Bytes of memory that the values and counts take.
    pub fn size(&self) -> usize {
        self.patterns.len() * 6
    }

    /// Number of distinct values, or of bins, that occur.
    pub fn len(&self) -> usize {
        self.patterns.len()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    fn value(&self, pattern: u16) -> f32 {
        match self.dtype {
            FloatType::F16 => f16::from_bits(pattern).to_f32(),
            _ => f32::from_bits(u32::from(pattern) << 16),
        }
    }

    /// Every value with its count, in the order of the bit patterns.
    pub fn iter(&self) -> impl Iterator<Item = (f32, u64)> {
        let counts = self.counts.iter().map(|&n| u64::from(n));
        self.patterns.iter().map(|&pattern| self.value(pattern)).zip(counts)
    }

    /// The indices of the finite values: first the positive, then the negative ones.
    fn finite_indices(&self) -> [Indices<usize>; 2] {
        let infinity = if self.dtype == FloatType::F16 { 0x7c00 } else { 0x7f80 };
        let index = |pattern: u16| self.patterns.partition_point(|&other| other < pattern);
        [0..index(infinity), index(0x8000)..index(0x8000 | infinity)]
    }

    /// The finite values, and their counts in the same order.
    fn finite(&self) -> (Vec<f32>, Vec<u32>) {
        let [positive, negative] = self.finite_indices();
        let length = positive.len() + negative.len();
        let (mut values, mut counts) = (Vec::with_capacity(length), Vec::with_capacity(length));
        for indices in [positive, negative] {
            let patterns = self.patterns.get(indices.clone()).unwrap_or_default();
            match self.dtype {
                FloatType::F16 => values.extend(patterns.reinterpret_cast::<f16>().to_f32_vec()),
                _ => values.extend(patterns.iter().map(|&p| f32::from_bits(u32::from(p) << 16))),
            }
            counts.extend_from_slice(self.counts.get(indices).unwrap_or_default());
        }
        (values, counts)
    }

    /// The range of the elements, or of the bins' values nearest to zero. The index of the
    /// first element that is not finite is unknown and left `None`.
    pub fn range(&self) -> Range {
        let [positive, negative] = self.finite_indices();
        let count = self.counts.iter().map(|&n| u64::from(n)).sum();
        let mut range = Range { count, ..Range::default() };
        for index in (positive.end..negative.start).chain(negative.end..self.len()) {
            let (pattern, count) = (self.patterns.get(index), self.counts.get(index));
            let (Some(&pattern), Some(&count)) = (pattern, count) else { continue };
            if self.value(pattern).is_nan() {
                range.nan += u64::from(count)
            } else {
                range.inf += u64::from(count)
            }
        }
        // Magnitudes ascend among the positive and among the negative values.
        let ends = |indices: Indices<usize>| {
            let patterns = self.patterns.get(indices).unwrap_or_default();
            patterns.first().into_iter().chain(patterns.last())
        };
        for &pattern in ends(positive).chain(ends(negative)) {
            // Adding zero turns -0.0 into 0.0.
            let x = f64::from(self.value(pattern)) + 0.0;
            (range.min, range.max) = (range.min.min(x), range.max.max(x));
        }
        range
    }

    /// The moments of the elements, or of the bins' values nearest to zero. The index of the
    /// first element that is not finite is unknown and left `None`.
    pub fn moments(&self) -> Moments {
        let mut moments = Moments::default();
        let Range { count, min, max, nan, inf, .. } = &mut moments.range;
        for (value, n) in self.iter() {
            *count += n;
            if value.is_nan() {
                *nan += n;
            } else if value.is_infinite() {
                *inf += n;
            } else {
                let x = f64::from(value);
                // Adding zero turns -0.0 into 0.0.
                *min = min.min(x + 0.0);
                *max = max.max(x + 0.0);
                moments.sum += n as f64 * x;
                moments.sum_sq += n as f64 * (x * x);
                moments.zeros += if x == 0.0 { n } else { 0 };
            }
        }
        moments
    }

    /// The error of quantizing all finite elements; exact if the histogram is.
    pub fn error(&self, params: Quantization) -> ErrorSums {
        let (values, counts) = self.finite();
        weighted_error(Weighted { values: &values, counts: &counts }, params)
    }

    /// Σ(x−x̂)² over the finite elements for each of several quantizations; infinite for
    /// `None`.
    pub fn squared_errors(
        &self,
        candidates: impl Iterator<Item = Option<Quantization>>,
    ) -> Vec<f64> {
        let (values, counts) = self.finite();
        let elements = Weighted { values: &values, counts: &counts };
        let error = |params| weighted_noise(elements, params);
        candidates.map(|params| params.map_or(f64::INFINITY, error)).collect()
    }

    /// The `rank`-th smallest magnitude of the finite elements, counted from 1; `None` if
    /// there are fewer elements.
    pub fn magnitude(&self, rank: u64) -> Option<f32> {
        let sign = self.patterns.partition_point(|&pattern| pattern < 0x8000);
        let half = |from: usize, to: usize| {
            let patterns = self.patterns.get(from..to).unwrap_or_default();
            patterns.iter().zip(self.counts.get(from..to).unwrap_or_default()).peekable()
        };
        // Among values of one sign, magnitudes ascend as the patterns do.
        let (mut positive, mut negative) = (half(0, sign), half(sign, self.patterns.len()));
        let mut counted = 0;
        loop {
            let next = match (positive.peek(), negative.peek()) {
                (Some((a, _)), Some((b, _))) if **a <= **b & 0x7fff => positive.next(),
                (Some(_), None) => positive.next(),
                (_, Some(_)) => negative.next(),
                (None, None) => None,
            };
            let (&pattern, &count) = next?;
            let magnitude = self.value(pattern & 0x7fff);
            if !magnitude.is_finite() {
                return None;
            }
            counted += u64::from(count);
            if counted >= rank {
                return Some(magnitude);
            }
        }
    }

    /// Number of elements in each of `bins` equal parts of `low..=high`. The elements of a bin
    /// of an inexact histogram are spread evenly over the width of that bin.
    pub fn rebin(&self, low: f64, high: f64, bins: usize) -> Vec<f64> {
        let mut rebinned = vec![0.0; bins];
        let width = (high - low) / bins as f64;
        if !(width > 0.0 && width.is_finite()) {
            return rebinned;
        }
        let position = |x: f64| (x - low) / width;
        let inside = |position: f64| position.clamp(0.0, bins as f64);
        for (&pattern, &count) in self.patterns.iter().zip(&self.counts) {
            let (x, count) = (f64::from(self.value(pattern)), f64::from(count));
            let far =
                if self.is_exact() { x } else { f64::from(self.value(pattern.wrapping_add(1))) };
            if !x.is_finite() {
                continue;
            }
            let ends = (position(x.min(far)), position(x.max(far)));
            let (from, to) = (inside(ends.0), inside(ends.1));
            if from == to || !far.is_finite() {
                if (low..=high).contains(&x)
                    && let Some(bin) = rebinned.get_mut((position(x) as usize).min(bins - 1))
                {
                    *bin += count;
                }
                continue;
            }
            let source_width = ends.1 - ends.0;
            let mut at = from;
            while at < to {
                let next = (at.floor() + 1.0).min(to);
                if let Some(bin) = rebinned.get_mut(at as usize) {
                    *bin += count * (next - at) / source_width;
                }
                at = next;
            }
        }
        rebinned
    }

    /// Number of finite elements whose magnitude exceeds `clip`.
    pub fn count_beyond(&self, clip: f64) -> u64 {
        let clipped = self.iter().filter(|(x, _)| x.is_finite() && f64::from(x.abs()) > clip);
        clipped.map(|(_, n)| n).sum()
    }
}

/// Counts the values of elements to build a [`ValueHistogram`].
pub struct HistogramBuilder {
    dtype: FloatType,
    counts: PatternCounts,
    /// Elements in `counts`.
    counted: u64,
    /// Patterns and counts moved out of `counts` before they could overflow, sorted by
    /// pattern.
    flushed: Vec<(u16, u64)>,
}

impl HistogramBuilder {
    /// An empty builder for elements of type `dtype`.
    pub fn new(dtype: FloatType) -> HistogramBuilder {
        HistogramBuilder {
            dtype,
            counts: PatternCounts::default(),
            counted: 0,
            flushed: Vec::new(),
        }
    }

    /// Changes the type of the elements to count. The builder must be empty.
    pub fn reset_type(&mut self, dtype: FloatType) {
        self.dtype = dtype;
    }

    /// Counts little-endian elements.
    pub fn add(&mut self, bytes: &[u8]) {
        for bytes in bytes.chunks(1 << 30) {
            let elements = (bytes.len() / self.dtype.size()) as u64;
            if self.counted + elements > PatternCounts::CAPACITY {
                self.flush();
            }
            self.counts.add(self.dtype, bytes);
            self.counted += elements;
        }
    }

    /// Number of counted elements that are NaN or infinite.
    pub fn non_finite(&self) -> u64 {
        let flushed = self.flushed.iter().filter(|&&(pattern, _)| {
            let exponent = if self.dtype == FloatType::F16 { 0x7c00 } else { 0x7f80 };
            pattern & exponent == exponent
        });
        self.counts.non_finite(self.dtype) + flushed.map(|&(_, n)| n).sum::<u64>()
    }

    /// Moves the counts to `flushed`, where they cannot overflow.
    fn flush(&mut self) {
        let (patterns, counts) = self.counts.take();
        let counted = patterns.into_iter().zip(counts.into_iter().map(u64::from));
        self.flushed = merge_sorted(std::mem::take(&mut self.flushed), counted.collect());
        self.counted = 0;
    }

    /// Adds the counts of another builder and empties it.
    pub fn merge(&mut self, other: &mut HistogramBuilder) {
        self.flush();
        other.flush();
        let flushed = std::mem::take(&mut self.flushed);
        self.flushed = merge_sorted(flushed, std::mem::take(&mut other.flushed));
    }

    /// The histogram of everything counted. Empties the builder.
    pub fn take(&mut self) -> ValueHistogram {
        self.flush();
        let (mut patterns, mut counts) = (Vec::new(), Vec::new());
        for (pattern, mut count) in std::mem::take(&mut self.flushed) {
            while count > 0 {
                let part = u32::try_from(count).unwrap_or(u32::MAX);
                patterns.push(pattern);
                counts.push(part);
                count -= u64::from(part);
            }
        }
        ValueHistogram {
            dtype: self.dtype,
            patterns: patterns.into_boxed_slice(),
            counts: counts.into_boxed_slice(),
        }
    }
}

/// Merges two lists sorted by key, adding the counts of equal keys.
pub(crate) fn merge_sorted(a: Vec<(u16, u64)>, b: Vec<(u16, u64)>) -> Vec<(u16, u64)> {
    if a.is_empty() || b.is_empty() {
        return if a.is_empty() { b } else { a };
    }
    let mut all: Vec<(u16, u64)> = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a.into_iter().peekable(), b.into_iter().peekable());
    while let Some((pattern, count)) = match (a.peek(), b.peek()) {
        (Some(x), Some(y)) if x.0 <= y.0 => a.next(),
        (Some(_), None) => a.next(),
        _ => b.next(),
    } {
        match all.last_mut() {
            Some((last, sum)) if *last == pattern => *sum += count,
            _ => all.push((pattern, count)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::kernels;
    use crate::quantization::quantization_type::QuantizationType;
    use crate::quantization::scheme::Rounding;
    use half::bf16;

    fn halves(n: u32) -> impl Iterator<Item = f32> {
        (0..n)
            .map(|i| ((i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32 - 0.5).powi(3))
    }

    #[test]
    fn figures_of_16_bit_elements_equal_those_of_the_elements() {
        for dtype in [FloatType::BF16, FloatType::F16] {
            let bytes: Vec<u8> = halves(50_000)
                .flat_map(|x| match dtype {
                    FloatType::F16 => f16::from_f32(x).to_le_bytes(),
                    _ => bf16::from_f32(x).to_le_bytes(),
                })
                .collect();
            let histogram = ValueHistogram::of(dtype, &bytes);
            let (found, direct) = (histogram.moments(), kernels::moments(dtype, &bytes));
            assert_eq!((found.range, found.zeros), (direct.range, direct.zeros));
            assert!((found.sum_sq / direct.sum_sq - 1.0).abs() < 1e-7);
            let absmax = found.range.absmax();
            let scale = (absmax / 127.0) as f32;
            let params = Quantization {
                scale,
                qtype: QuantizationType::QInt8,
                rounding: Rounding::HalfEven,
            };
            let (found, direct) = (histogram.error(params), kernels::error(dtype, &bytes, params));
            assert!((found.noise / direct.noise - 1.0).abs() < 1e-6);
            assert_eq!(
                (found.count, found.zeroed, found.levels, found.max_abs_error),
                (direct.count, direct.zeroed, direct.levels, direct.max_abs_error)
            );
            assert_eq!(histogram.squared_errors([Some(params)].into_iter()).len(), 1);

            let mut magnitudes: Vec<f32> = histogram
                .iter()
                .flat_map(|(x, n)| std::iter::repeat_n(x.abs(), n as usize))
                .collect();
            magnitudes.sort_by(f32::total_cmp);
            for rank in [1, 2, 25_000, 49_950, 50_000] {
                assert_eq!(histogram.magnitude(rank), Some(magnitudes[rank as usize - 1]));
            }
            assert_eq!(histogram.magnitude(50_001), None);
            let clip = magnitudes[49_000];
            let beyond = magnitudes.iter().filter(|&&m| m > clip).count();
            assert_eq!(histogram.count_beyond(clip.into()), beyond as u64);
        }
    }

    /// Counts are exact and errors within 1e-12 of an f64 loop over the elements.
    #[test]
    fn special_tensors_give_the_figures_of_a_plain_loop() {
        let patterns = |name: &str, dtype: FloatType| -> Vec<u16> {
            let (one, smallest) = match dtype {
                FloatType::F16 => (0x3c00u16, 0x0001u16),
                _ => (0x3f80, 0x0001),
            };
            let infinity = if dtype == FloatType::F16 { 0x7c00 } else { 0x7f80 };
            match name {
                // With a scale of 1/16, every odd multiple of 1/32 lies half-way.
                "ties" => {
                    let of = |x: f32| match dtype {
                        FloatType::F16 => f16::from_f32(x).to_bits(),
                        _ => bf16::from_f32(x).to_bits(),
                    };
                    (-200..=200).map(|i| of(i as f32 / 32.0)).collect()
                }
                "subnormals" => (0..120).flat_map(|i| [smallest + i, 0x8000 + i]).collect(),
                "minus zero" => vec![0x8000, 0, 0x8000, one, 0x8000],
                "nan" => vec![one, infinity + 1, 0x8000 | (infinity + 7), one + 5, 0x7fff],
                "infinite" => vec![infinity, one, 0x8000 | infinity, one + 3],
                "constant" => vec![one; 999],
                "zeros" => vec![0; 77],
                "empty" => vec![],
                _ => (0..=u16::MAX).collect(),
            }
        };
        let kinds = [
            "ties",
            "subnormals",
            "minus zero",
            "nan",
            "infinite",
            "constant",
            "zeros",
            "empty",
            "all",
        ];
        for dtype in [FloatType::BF16, FloatType::F16] {
            for kind in kinds {
                let bytes: Vec<u8> =
                    patterns(kind, dtype).into_iter().flat_map(u16::to_le_bytes).collect();
                let counted = ValueHistogram::of(dtype, &bytes);
                let count = bytes.len() / 2;
                let read = |i| crate::tensor::read_f64(dtype, &bytes, i).expect("there");
                let elements: Vec<f64> = (0..count).map(read).collect();
                let finite: Vec<f64> = elements.iter().copied().filter(|x| x.is_finite()).collect();
                let m = counted.moments();
                assert_eq!(counted.range(), m.range, "{dtype:?} {kind}");
                let what = format!("{dtype:?} {kind}");
                let nan = elements.iter().filter(|x| x.is_nan()).count() as u64;
                let inf = elements.iter().filter(|x| x.is_infinite()).count() as u64;
                let zeros = finite.iter().filter(|&&x| x == 0.0).count() as u64;
                assert_eq!((m.range.count, m.range.nan), (count as u64, nan), "{what}");
                assert_eq!((m.range.inf, m.zeros), (inf, zeros), "{what}");
                let near = |a: f64, b: f64| a == b || (a - b).abs() <= 1e-12 * b.abs();
                assert!(near(m.sum_sq, finite.iter().map(|x| x * x).sum()), "{what}");
                for rounding in [Rounding::HalfEven, Rounding::HalfAway] {
                    for scale in [1.0 / 16.0, (m.range.absmax() / 127.0) as f32, 1e-3] {
                        let params =
                            Quantization { scale, qtype: QuantizationType::QInt8, rounding };
                        if !scale.is_normal() {
                            continue;
                        }
                        let found = counted.error(params);
                        let (mut noise, mut zeroed, mut largest) = (0.0, 0, 0.0f64);
                        for &x in &finite {
                            let t = f64::from(x as f32 / scale).clamp(-127.0, 127.0);
                            let q = match rounding {
                                Rounding::HalfEven => t.round_ties_even(),
                                Rounding::HalfAway => t.round(),
                            };
                            let d = x - f64::from(scale * q as f32);
                            noise += d * d;
                            largest = largest.max(d.abs());
                            zeroed += u64::from(x != 0.0 && q == 0.0);
                        }
                        assert!(near(found.noise, noise), "{what}: {} {noise}", found.noise);
                        assert_eq!(
                            (found.zeroed, found.max_abs_error),
                            (zeroed, largest),
                            "{what}"
                        );
                        assert_eq!(found.count, finite.len() as u64, "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn rebinning_keeps_every_element_between_the_ends() {
        let bytes: Vec<u8> = halves(10_000).flat_map(f32::to_le_bytes).collect();
        let histogram = ValueHistogram::of(FloatType::F32, &bytes);
        assert!(!histogram.is_exact());
        let found = histogram.rebin(-0.13, 0.13, 7);
        assert!((found.iter().sum::<f64>() - 10_000.0).abs() < 1e-6);
        let middle = halves(10_000).filter(|x| x.abs() < 0.13 / 7.0).count() as f64;
        assert!((found[3] - middle).abs() < 0.01 * middle, "{} {middle}", found[3]);
        assert_eq!(histogram.rebin(0.0, 0.0, 3), [0.0; 3]);
    }

    #[test]
    fn builders_merge_in_any_order_and_past_the_capacity_of_the_counters() {
        let bytes: Vec<u8> = halves(1000).flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect();
        let (a, b) = bytes.split_at(700);
        let mut parts =
            [HistogramBuilder::new(FloatType::BF16), HistogramBuilder::new(FloatType::BF16)];
        parts[0].add(b);
        parts[1].add(a);
        let [first, second] = &mut parts;
        first.merge(second);
        assert_eq!(first.take(), ValueHistogram::of(FloatType::BF16, &bytes));

        let mut huge = HistogramBuilder::new(FloatType::BF16);
        huge.flushed = vec![(0x3f80, u64::from(u32::MAX) + 5), (0x7fc0, 2)];
        huge.add(&bf16::from_f32(1.0).to_le_bytes());
        assert_eq!(huge.non_finite(), 2);
        let histogram = huge.take();
        assert_eq!(histogram.moments().range.count, u64::from(u32::MAX) + 8);
        assert_eq!(histogram.magnitude(u64::from(u32::MAX) + 6), Some(1.0));
    }
}
