//! Ranges of groups of F32 elements.

use crate::quantization::kernels::array_lanes::{LANES, padded};
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::simd::{Kernel, Simd};

/// Extends `ranges` by the smallest and the largest element of each group of a row, with zero
/// included; without `has_signs` by zero and the largest magnitude, which takes less time. Returns
/// whether all elements are finite; if not, the ranges are unspecified.
pub(crate) fn group_ranges(
    x: &[f32],
    group: usize,
    has_signs: bool,
    ranges: &mut [(f32, f32)],
) -> bool {
    run(Ranges { x, group: group.max(1), has_signs, ranges })
}

struct Ranges<'a> {
    x: &'a [f32],
    group: usize,
    has_signs: bool,
    ranges: &'a mut [(f32, f32)],
}

impl Kernel for Ranges<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> bool {
        let Ranges { x, group, has_signs, ranges } = self;
        let zero = simd.splat(0.0);
        // Stays zero unless an element is NaN or infinite.
        let mut products = zero;
        for (range, x) in ranges.iter_mut().zip(x.chunks(group)) {
            let (whole, rest) = x.as_chunks::<LANES>();
            let last = padded(rest);
            let (mut high, mut low) = (zero, zero);
            for step in 0..whole.len() + usize::from(!rest.is_empty()) {
                let x = simd.f32s(*whole.get(step).unwrap_or(&last));
                products = simd.add(products, simd.mul(x, zero));
                if has_signs {
                    high = simd.max(x, high);
                    low = simd.max(simd.sub(zero, x), low);
                } else {
                    high = simd.max_abs(x, high);
                }
            }
            range.1 = range.1.max(simd.largest(high));
            if has_signs {
                range.0 = range.0.min(-simd.largest(low));
            }
        }
        simd.array(products).iter().all(|product| *product == 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_include_zero_and_extend_those_before() {
        let x: Vec<f32> = (0..50).map(|i| i as f32 - 20.0).collect();
        let mut ranges = [(0.0, 0.0), (-1.0, 40.0), (0.0, 0.0)];
        assert!(group_ranges(&x, 20, true, &mut ranges));
        assert_eq!(ranges, [(-20.0, 0.0), (-1.0, 40.0), (0.0, 29.0)]);
        let mut magnitudes = [(0.0, 0.0); 3];
        assert!(group_ranges(&x, 20, false, &mut magnitudes));
        assert_eq!(magnitudes, [(0.0, 20.0), (0.0, 19.0), (0.0, 29.0)]);
    }

    #[test]
    fn elements_that_are_not_finite_are_found_everywhere() {
        for place in [0, 15, 16, 36] {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = [1e30; 37];
                x[place] = value;
                assert!(!group_ranges(&x, 24, true, &mut [(0.0, 0.0); 2]), "{place} {value}");
                assert!(!group_ranges(&x, 24, false, &mut [(0.0, 0.0); 2]), "{place} {value}");
            }
        }
    }
}
