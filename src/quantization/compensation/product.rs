//! Matrix products whose sums have a fixed order.

use crate::quantization::kernels::{Loop, run_loop};

/// Columns of the output that are computed together: two rows of them fit the first-level cache.
const TILE: usize = 256;

/// Terms of a sum that are added before the next row, so that their tile stays in the cache.
const DEPTH: usize = 128;

/// `c += a · b`, all row-major: `a` is `[m, k]`, `b` is `[k, n]` and `c` is `[m, n]`. A stride is
/// the distance between the starts of two rows.
pub(crate) struct Product<'a> {
    pub c: &'a mut [f32],
    pub a: &'a [f32],
    pub b: &'a [f32],
    /// The strides of `c`, `a` and `b`.
    pub strides: [usize; 3],
    /// `m`, `k` and `n`.
    pub dims: [usize; 3],
}

impl Product<'_> {
    /// Computes the product.
    pub(crate) fn add(self) {
        run_loop(self);
    }
}

impl Loop for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        add_product(self);
    }
}

/// Computes a product in the loop of the caller.
#[inline(always)]
pub(crate) fn add_product(product: Product) {
    let Product { c, a, b, strides: [c_stride, a_stride, b_stride], dims: [m, k, n] } = product;
    for first in (0..n).step_by(TILE) {
        let width = TILE.min(n - first);
        for start in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - start);
            for row in 0..m {
                let Some(sums) =
                    c.get_mut(row * c_stride + first..).and_then(|c| c.get_mut(..width))
                else {
                    return;
                };
                let Some(factors) = a.get(row * a_stride + start..).and_then(|a| a.get(..depth))
                else {
                    return;
                };
                let terms = factors.iter().zip(b.chunks(b_stride.max(1)).skip(start));
                for (&factor, row) in terms {
                    let Some(row) = row.get(first..first + width) else { return };
                    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * x);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_equal_the_definition() {
        for [m, k, n] in [[1, 1, 1], [3, 5, 2], [7, 300, 600], [2, 0, 3]] {
            let numbers = |count: usize, step: usize| -> Vec<f32> {
                (0..count).map(|i| ((i * step) % 13) as f32 - 6.0).collect()
            };
            let (a, b, mut c) = (numbers(m * k, 5), numbers(k * n, 7), numbers(m * n, 3));
            let expected: Vec<f32> = (0..m * n)
                .map(|i| c[i] + (0..k).map(|j| a[i / n * k + j] * b[j * n + i % n]).sum::<f32>())
                .collect();
            Product { c: &mut c, a: &a, b: &b, strides: [n, k, n], dims: [m, k, n] }.add();
            assert_eq!(c, expected);
        }
    }
}
