//! The difference between the elements of two tensors.

use crate::quantization::kernels;
use crate::quantization::statistics::ErrorSums;
use crate::tensor::{FloatType, read_f64};

/// The difference between two tensors. The first one is the signal.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// Sums over the elements that are finite in both tensors.
    pub sums: ErrorSums,
    /// Number of elements whose values differ; NaN equals NaN.
    pub differing: u64,
    /// Number of elements that differ and are NaN or infinite in at least one tensor.
    pub non_finite: u64,
}

impl Difference {
    /// Adds the difference of further elements.
    pub fn merge(&mut self, next: &Difference) {
        self.sums.merge(&next.sums);
        self.differing += next.differing;
        self.non_finite += next.non_finite;
    }
}

/// Compares little-endian elements of two types; stops at the end of the shorter slice.
pub fn difference(a: (FloatType, &[u8]), b: (FloatType, &[u8])) -> Difference {
    let count = (a.1.len() / a.0.size()).min(b.1.len() / b.0.size());
    let mut difference = Difference::default();
    if a == b && count > 0 {
        // Equal bytes: only the signal has to be summed.
        let moments = kernels::moments(a.0, a.1);
        let sums = &mut difference.sums;
        sums.count = moments.range.finite();
        sums.non_zero = moments.range.finite() - moments.zeros;
        (sums.signal, sums.dot, sums.reconstructed) =
            (moments.sum_sq, moments.sum_sq, moments.sum_sq);
        return difference;
    }
    for i in 0..count {
        let (Some(x), Some(y)) = (read_f64(a.0, a.1, i), read_f64(b.0, b.1, i)) else { break };
        let same = x == y || (x.is_nan() && y.is_nan());
        difference.differing += u64::from(!same);
        if !x.is_finite() || !y.is_finite() {
            difference.non_finite += u64::from(!same);
            continue;
        }
        let sums = &mut difference.sums;
        let d = x - y;
        sums.count += 1;
        sums.signal += x * x;
        sums.noise += d * d;
        sums.dot += x * y;
        sums.reconstructed += y * y;
        sums.max_abs_error = sums.max_abs_error.max(d.abs());
        sums.non_zero += u64::from(x != 0.0);
        sums.zeroed += u64::from(x != 0.0 && y == 0.0);
    }
    difference
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn elements_of_different_types_are_compared_by_value() {
        let a = f32s(&[1.0, -2.0, 0.5, f32::NAN]);
        let b: Vec<u8> = [1.0f32, -2.0, 0.25, f32::NAN]
            .iter()
            .flat_map(|&v| half::bf16::from_f32(v).to_le_bytes())
            .collect();
        let found = difference((FloatType::F32, &a), (FloatType::BF16, &b));
        assert_eq!((found.differing, found.non_finite, found.sums.count), (1, 0, 3));
        assert_eq!(found.sums.noise, 0.0625);
        assert_eq!(found.sums.max_abs_error, 0.25);
    }

    #[test]
    fn equal_bytes_have_no_difference() {
        let a = f32s(&[1.0, 0.0, 3.0]);
        let found = difference((FloatType::F32, &a), (FloatType::F32, &a));
        assert_eq!((found.differing, found.sums.noise, found.sums.signal), (0, 0.0, 10.0));
        assert_eq!(found.sums.non_zero, 2);
    }
}
