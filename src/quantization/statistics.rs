//! Ranges, moments and error sums that can be merged, and the statistics derived from them.

use crate::quantization::quantization_type::QuantizationType;
use serde::{Deserialize, Serialize};

/// The smallest and largest finite element, and the number of elements that are not finite.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// Number of elements.
    pub count: u64,
    /// The smallest finite element; `+∞` if there is none.
    pub min: f64,
    /// The largest finite element; `−∞` if there is none.
    pub max: f64,
    /// Number of elements that are NaN.
    pub nan: u64,
    /// Number of elements that are `+∞` or `−∞`.
    pub inf: u64,
    /// Index of the first element that is NaN or infinite.
    pub first_non_finite: Option<u64>,
}

impl Default for Range {
    fn default() -> Self {
        Range {
            count: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            nan: 0,
            inf: 0,
            first_non_finite: None,
        }
    }
}

impl Range {
    /// Adds the range of the elements that follow.
    pub fn merge(&mut self, next: &Range) {
        self.first_non_finite =
            self.first_non_finite.or_else(|| next.first_non_finite.map(|i| self.count + i));
        self.count += next.count;
        self.min = self.min.min(next.min);
        self.max = self.max.max(next.max);
        self.nan += next.nan;
        self.inf += next.inf;
    }

    /// The largest magnitude of the finite elements; 0 if there is none.
    pub fn absmax(&self) -> f64 {
        self.max.max(-self.min).max(0.0)
    }

    /// Whether all elements are finite.
    pub fn is_finite(&self) -> bool {
        self.nan == 0 && self.inf == 0
    }

    /// Number of finite elements.
    pub fn finite(&self) -> u64 {
        self.count - self.nan - self.inf
    }
}

/// A range, and the sums that give mean and standard deviation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// The range of the elements.
    pub range: Range,
    /// Σx over the finite elements.
    pub sum: f64,
    /// Σx² over the finite elements.
    pub sum_sq: f64,
    /// Number of elements equal to zero.
    pub zeros: u64,
}

impl Moments {
    /// Adds the moments of the elements that follow.
    pub fn merge(&mut self, next: &Moments) {
        self.range.merge(&next.range);
        self.sum += next.sum;
        self.sum_sq += next.sum_sq;
        self.zeros += next.zeros;
    }

    /// Whether the mean of the `count` elements is small compared with their standard
    /// deviation. If not, Σx²/n − (Σx/n)² is the small difference of two large numbers and
    /// needs exact sums.
    pub(super) fn are_centred(&self, count: u64) -> bool {
        16.0 * self.sum * self.sum <= self.sum_sq * count as f64
    }

    /// The statistics of the elements.
    pub fn statistics(&self) -> Statistics {
        let Range { count, nan, inf, first_non_finite, .. } = self.range;
        let finite = self.range.finite();
        let (min, max) = match finite {
            0 => (f64::NAN, f64::NAN),
            _ => (self.range.min, self.range.max),
        };
        let n = finite as f64;
        // A constant tensor gets exact values in spite of rounding errors in the sums.
        let (mean, std) = if min == max {
            (min, 0.0)
        } else {
            let mean = self.sum / n;
            (mean, (self.sum_sq / n - mean * mean).max(0.0).sqrt())
        };
        Statistics {
            count,
            min,
            max,
            absmax: if finite == 0 { f64::NAN } else { self.range.absmax() },
            mean,
            std,
            zeros: self.zeros,
            nan,
            inf,
            first_non_finite,
        }
    }
}

/// Statistics of a tensor's values.
///
/// `min`, `max`, `absmax`, `mean` and `std` (the population standard deviation) are over the
/// finite elements, and NaN if there are none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Number of elements.
    pub count: u64,
    /// The smallest finite element.
    pub min: f64,
    /// The largest finite element.
    pub max: f64,
    /// The largest magnitude.
    pub absmax: f64,
    /// The mean.
    pub mean: f64,
    /// The population standard deviation.
    pub std: f64,
    /// Number of elements equal to zero.
    pub zeros: u64,
    /// Number of elements that are NaN.
    pub nan: u64,
    /// Number of elements that are `+∞` or `−∞`.
    pub inf: u64,
    /// Index of the first element that is NaN or infinite.
    pub first_non_finite: Option<u64>,
}

impl Statistics {
    /// Returns whether all elements are finite.
    pub fn is_finite(&self) -> bool {
        self.nan == 0 && self.inf == 0
    }
}

/// The set of codes of quantized elements that occur, one bit for each of 256 codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelSet(pub [u64; 4]);

impl LevelSet {
    /// Adds a code, which is the byte that is stored for an element.
    pub fn insert(&mut self, code: u8) {
        self.0[usize::from(code >> 6)] |= 1 << (code & 63);
    }

    /// Adds the codes of another set.
    pub fn merge(&mut self, other: &LevelSet) {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a |= b;
        }
    }

    /// Number of codes in the set.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|w| w.count_ones()).sum()
    }
}

impl FromIterator<u8> for LevelSet {
    fn from_iter<I: IntoIterator<Item = u8>>(codes: I) -> LevelSet {
        let mut set = LevelSet::default();
        codes.into_iter().for_each(|code| set.insert(code));
        set
    }
}

/// Sums in f64 over finite elements `x` and their dequantized values `x̂`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorSums {
    /// Number of elements.
    pub count: u64,
    /// Σx
    pub sum: f64,
    /// Σx²
    pub signal: f64,
    /// Σ(x−x̂)²
    pub noise: f64,
    /// Σx·x̂
    pub dot: f64,
    /// Σx̂²
    pub reconstructed: f64,
    /// max |x−x̂|
    pub max_abs_error: f64,
    /// Number of elements with x ≠ 0.
    pub non_zero: u64,
    /// Number of elements with x ≠ 0 and x̂ = 0.
    pub zeroed: u64,
    /// The codes that occur.
    pub levels: LevelSet,
}

impl ErrorSums {
    /// Adds the sums over other elements.
    pub fn merge(&mut self, next: &ErrorSums) {
        self.count += next.count;
        self.sum += next.sum;
        self.signal += next.signal;
        self.noise += next.noise;
        self.dot += next.dot;
        self.reconstructed += next.reconstructed;
        self.max_abs_error = self.max_abs_error.max(next.max_abs_error);
        self.non_zero += next.non_zero;
        self.zeroed += next.zeroed;
        self.levels.merge(&next.levels);
    }

    /// The moments of the elements, without their range.
    pub fn moments(&self) -> Moments {
        let zeros = self.count - self.non_zero;
        Moments { sum: self.sum, sum_sq: self.signal, zeros, ..Moments::default() }
    }

    /// Derives the error statistics.
    pub fn statistics(&self) -> ErrorStatistics {
        let mse = if self.count == 0 { 0.0 } else { self.noise / self.count as f64 };
        let exact = self.noise == 0.0;
        ErrorStatistics {
            mse,
            rmse: mse.sqrt(),
            max_abs_error: self.max_abs_error,
            sqnr_db: if exact { f64::INFINITY } else { 10.0 * (self.signal / self.noise).log10() },
            // Of a tensor of zeros both are 0/0, which is NaN, as it should be.
            cosine_similarity: if exact && self.signal > 0.0 {
                1.0
            } else {
                self.dot / (self.signal * self.reconstructed).sqrt()
            },
            relative_error: (self.noise / self.signal).sqrt(),
            zeroed: if self.non_zero == 0 {
                0.0
            } else {
                self.zeroed as f64 / self.non_zero as f64
            },
            levels_used: self.levels.count(),
        }
    }
}

/// Error statistics of a quantized tensor. They describe the weights, not the layer's output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorStatistics {
    /// Σ(x−x̂)² / n
    pub mse: f64,
    /// Square root of the MSE.
    pub rmse: f64,
    /// max |x−x̂|
    pub max_abs_error: f64,
    /// Signal-to-quantization-noise ratio 10·log10(Σx² / Σ(x−x̂)²) in dB; infinite if there is
    /// no noise.
    pub sqnr_db: f64,
    /// Cosine similarity Σx·x̂ / (‖x‖·‖x̂‖); NaN if every element is zero or becomes zero.
    pub cosine_similarity: f64,
    /// Relative error ‖x−x̂‖ / ‖x‖
    pub relative_error: f64,
    /// Fraction of the non-zero elements that become zero, from 0 to 1.
    pub zeroed: f64,
    /// Number of distinct quantized values that occur.
    pub levels_used: u32,
}

impl ErrorStatistics {
    /// Fraction of the type's levels that occur, from 0 to 1.
    pub fn level_share(&self, qtype: QuantizationType) -> f64 {
        f64::from(self.levels_used) / f64::from(qtype.levels())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_offsets_the_index_of_non_finite_elements() {
        let mut a = Range { count: 10, min: -1.0, max: 2.0, ..Range::default() };
        a.merge(&Range { count: 5, nan: 1, first_non_finite: Some(3), ..Range::default() });
        assert_eq!((a.count, a.first_non_finite, a.absmax()), (15, Some(13), 2.0));
    }

    #[test]
    fn zeros_have_no_noise_and_no_cosine_similarity() {
        let e = ErrorSums { count: 4, ..ErrorSums::default() }.statistics();
        assert_eq!((e.mse, e.sqnr_db), (0.0, f64::INFINITY));
        assert!(e.cosine_similarity.is_nan() && e.relative_error.is_nan());
    }

    #[test]
    fn a_constant_has_no_deviation() {
        let x = 0.1f64;
        let range = Range { count: 3, min: x, max: x, ..Range::default() };
        let m = Moments { range, sum: x + x + x, sum_sq: 3.0 * x * x, zeros: 0 };
        assert_eq!((m.statistics().mean, m.statistics().std), (0.1, 0.0));
    }
}
