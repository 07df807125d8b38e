//! Counts of bit patterns: the whole pattern of 16-bit floats; sign, exponent and leading bits
//! of the significand of wider floats.

use crate::tensor::FloatType;

const PATTERNS: usize = 1 << 16;

/// Number of patterns that are skipped at once if none of them occurs.
const PATTERNS_PER_RUN: usize = 32;

/// The number of elements with each 16-bit pattern.
///
/// Every pattern has two counters, used by even and odd elements. If a value repeats, consecutive
/// increments are then independent.
pub(crate) struct PatternCounts {
    counters: Box<[[u32; 2]]>,
}

impl Default for PatternCounts {
    fn default() -> Self {
        PatternCounts { counters: vec![[0; 2]; PATTERNS].into_boxed_slice() }
    }
}

impl PatternCounts {
    /// Number of elements that can be counted without overflow.
    pub(crate) const CAPACITY: u64 = u32::MAX as u64;

    /// Counts little-endian elements. A 16-bit element counts as its own pattern, a wider one
    /// as the upper 16 bits of its f32 value rounded towards zero.
    pub(crate) fn add(&mut self, dtype: FloatType, bytes: &[u8]) {
        // With an array of known length, indexing by a u16 needs no bounds check.
        let Ok(counters) = <&mut [[u32; 2]; PATTERNS]>::try_from(&mut *self.counters) else {
            return;
        };
        match dtype {
            FloatType::F16 | FloatType::BF16 => {
                // Two words of four patterns each, alternating: neighbours use different counters,
                // and few loads separate the stores.
                let (runs, rest) = bytes.as_chunks::<16>();
                for run in runs {
                    let run = u128::from_le_bytes(*run);
                    let [mut a, mut b] = [run as u64, (run >> 64) as u64];
                    for _ in 0..4 {
                        counters[usize::from(a as u16)][0] += 1;
                        counters[usize::from(b as u16)][1] += 1;
                        (a, b) = (a >> 16, b >> 16);
                    }
                }
                for one in rest.as_chunks::<2>().0 {
                    counters[usize::from(u16::from_le_bytes(*one))][0] += 1;
                }
            }
            FloatType::F32 => {
                let (twos, rest) = bytes.as_chunks::<8>();
                for two in twos {
                    let two = u64::from_le_bytes(*two);
                    counters[usize::from((two >> 16) as u16)][0] += 1;
                    counters[usize::from((two >> 48) as u16)][1] += 1;
                }
                for one in rest.as_chunks::<4>().0 {
                    counters[(u32::from_le_bytes(*one) >> 16) as usize][0] += 1;
                }
            }
            FloatType::F64 => {
                for one in bytes.as_chunks::<8>().0 {
                    let pattern = pattern_of_f64(f64::from_le_bytes(*one));
                    counters[usize::from(pattern)][0] += 1;
                }
            }
        }
    }

    /// Number of counted elements that are NaN or infinite.
    pub(crate) fn non_finite(&self, dtype: FloatType) -> u64 {
        let (first, past) = match dtype {
            FloatType::F16 => (0x7c00, 0x8000),
            FloatType::BF16 | FloatType::F32 | FloatType::F64 => (0x7f80, 0x8000),
        };
        let of = |range: std::ops::Range<usize>| {
            let counters = self.counters.get(range).unwrap_or_default();
            counters.iter().map(|&[a, b]| u64::from(a) + u64::from(b)).sum::<u64>()
        };
        of(first..past) + of(first + 0x8000..past + 0x8000)
    }

    /// The patterns that occur, in ascending order, and their counts. Resets all counters.
    pub(crate) fn take(&mut self) -> (Vec<u16>, Vec<u32>) {
        let (mut patterns, mut counts) = (Vec::new(), Vec::new());
        for (run, first) in
            self.counters.chunks_mut(PATTERNS_PER_RUN).zip((0..=u16::MAX).step_by(PATTERNS_PER_RUN))
        {
            // Most patterns never occur.
            if run.as_flattened().iter().fold(0, |any, count| any | count) == 0 {
                continue;
            }
            for (pattern, pair) in (first..=u16::MAX).zip(run) {
                // The sum fits: all counters together hold at most `CAPACITY` elements.
                let count = pair[0] + pair[1];
                if count > 0 {
                    patterns.push(pattern);
                    counts.push(count);
                    *pair = [0; 2];
                }
            }
        }
        (patterns, counts)
    }
}

/// The upper 16 bits of `x` rounded to f32 towards zero. Values beyond f32 count as the
/// largest finite f32.
fn pattern_of_f64(x: f64) -> u16 {
    let nearest = x as f32;
    let single = if f64::from(nearest).abs() > x.abs() {
        // For either sign, subtracting one from the bits moves one step towards zero.
        f32::from_bits(nearest.to_bits() - 1)
    } else {
        nearest
    };
    (single.to_bits() >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_is_counted_once() {
        let bytes: Vec<u8> = (0..=u16::MAX).chain([7, 7, 9]).flat_map(u16::to_le_bytes).collect();
        for dtype in [FloatType::F16, FloatType::BF16] {
            let mut counts = PatternCounts::default();
            counts.add(dtype, &bytes);
            let mantissas = if dtype == FloatType::F16 { 1024 } else { 128 };
            assert_eq!(counts.non_finite(dtype), 2 * mantissas);
            let (patterns, found) = counts.take();
            assert_eq!(patterns, (0..=u16::MAX).collect::<Vec<_>>());
            assert_eq!((found[7], found[8], found[9]), (3, 1, 2));
            assert_eq!(counts.take(), (vec![], vec![]));
        }
    }

    #[test]
    fn wide_floats_are_counted_by_the_upper_half_of_their_f32() {
        let values = [1.0f64, 1.0 + 1e-12, -1.0, 1e300, -1e-300, 3.999_999_999, f64::INFINITY];
        let mut wide = PatternCounts::default();
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        wide.add(FloatType::F64, &bytes);
        assert_eq!(wide.non_finite(FloatType::F64), 1);
        let upper = |x: f32| (x.to_bits() >> 16) as u16;
        let mut expected =
            vec![upper(1.0), upper(3.999), upper(f32::MAX), upper(f32::INFINITY), 0x8000, 0xbf80];
        expected.sort();
        assert_eq!(wide.take().0, expected);
        let mut single = PatternCounts::default();
        let bytes: Vec<u8> = [1.0f32, 1.001, -0.5].iter().flat_map(|x| x.to_le_bytes()).collect();
        single.add(FloatType::F32, &bytes);
        assert_eq!(single.take(), (vec![upper(1.0), upper(-0.5)], vec![2, 1]));
    }
}
