//! Matrix products with `matrixmultiply`. The only file of this folder with `unsafe`.

#![allow(unsafe_code)]

/// Adds `a · bᵀ` to `out`, or replaces `out` with it if `fresh`. `a` is `[m, k]`, `b` is
/// `[n, k]` and `out` is `[m, n]`, all row-major. Does nothing if the lengths do not fit.
///
/// Sums are in f32, in an order that depends only on the processor's instruction set.
pub(super) fn multiply(
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
    dims: (usize, usize, usize),
    fresh: bool,
) {
    let (m, k, n) = dims;
    let length = |x: usize, y: usize| x.checked_mul(y).filter(|&n| isize::try_from(n).is_ok());
    let agree = length(m, k) == Some(a.len())
        && length(n, k) == Some(b.len())
        && length(m, n) == Some(out.len());
    if !agree || out.is_empty() {
        return;
    }
    if k == 0 {
        if fresh {
            out.fill(0.0);
        }
        return;
    }
    let beta = if fresh { 0.0 } else { 1.0 };
    // SAFETY: `sgemm` reads element (i, j) of an operand at `i * row stride + j * column
    // stride`, for all i and j below its dimensions, and writes `out` alike. With the strides
    // given, the largest of these offsets is `m * k - 1` in `a`; `(k - 1) + (n - 1) * k`,
    // which is `n * k - 1`, in `b`; and `m * n - 1` in `out`. The lengths were compared above
    // and fit an `isize`, so does every stride. `out` is borrowed mutably, so it does not
    // overlap the operands.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.as_ptr(),
            k as isize,
            1,
            b.as_ptr(),
            1,
            k as isize,
            beta,
            out.as_mut_ptr(),
            n as isize,
            1,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_equal_the_definition() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 2), (17, 33, 9), (2, 0, 3), (64, 7, 65)] {
            let numbers = |count: usize, step: usize| -> Vec<f32> {
                (0..count).map(|i| ((i * step) % 13) as f32 - 6.0).collect()
            };
            let (a, b) = (numbers(m * k, 5), numbers(n * k, 7));
            let expected: Vec<f32> = (0..m * n)
                .map(|i| (0..k).map(|j| a[i / n * k + j] * b[i % n * k + j]).sum())
                .collect();
            let mut out = vec![f32::NAN; m * n];
            multiply(&a, &b, &mut out, (m, k, n), true);
            assert_eq!(out, expected);
            multiply(&a, &b, &mut out, (m, k, n), false);
            assert_eq!(out, expected.iter().map(|x| x + x).collect::<Vec<_>>());
        }
    }

    #[test]
    fn wrong_lengths_leave_the_output_unchanged() {
        let mut out = [7.0; 4];
        for (a, b, m, k, n) in
            [(4, 4, 2, 2, 3), (3, 4, 2, 2, 2), (4, 5, 2, 2, 2), (4, 4, usize::MAX, 2, 2)]
        {
            multiply(&vec![1.0; a], &vec![1.0; b], &mut out, (m, k, n), true);
        }
        assert_eq!(out, [7.0; 4]);
    }
}
