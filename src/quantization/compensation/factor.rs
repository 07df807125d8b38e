//! The factor of the inverse second moments.
//!
//! The Cholesky factorization is our own. A crate such as `faer` would add some fifty crates in
//! place of forty lines, and its sums depend on the processor, while outputs must not.

use crate::quantization::compensation::product::Product;

/// Runs a function over the parts of a matrix: `parts(matrix, size, function)` calls the
/// function with the number and the elements of each part of `size` elements, in any order.
pub(crate) type Parts<'p> =
    &'p (dyn Fn(&mut [f32], usize, &(dyn Fn(usize, &mut [f32]) + Sync)) + Sync);

/// Columns that are factored together.
const BLOCK: usize = 64;

/// Rows or columns that one part of the work updates.
const PART: usize = 64;

/// The share of the mean second moment that is added to all.
const DAMPING: f64 = 0.01;

/// The upper triangular U of (XᵀX + λ)⁻¹ = UᵀU.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Compensation {
    columns: usize,
    factor: Vec<f32>,
    /// λ
    damping: f64,
}

impl Compensation {
    /// Factors second moments. Only their upper triangle is read. `None` if they have no factor.
    pub(super) fn new(columns: usize, mut moments: Vec<f32>, parts: Parts) -> Option<Compensation> {
        let n = columns;
        let diagonal = |moments: &[f32], i: usize| f64::from(moments[i * n + i]);
        let mean = (0..n).map(|i| diagonal(&moments, i)).sum::<f64>() / n.max(1) as f64;
        let damping = mean * DAMPING;
        for i in 0..n {
            moments[i * n + i] = (diagonal(&moments, i) + damping) as f32;
        }
        // With the columns in reverse order, the factor of the inverse is the inverse of the
        // factor, and that is lower triangular.
        moments.reverse();
        cholesky(&mut moments, n, parts)?;
        invert(&mut moments, n, parts);
        moments.reverse();
        Some(Compensation { columns, factor: moments, damping })
    }

    /// Number of columns.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Row `row` of U and all that follow.
    #[inline(always)]
    pub(crate) fn rows_from(&self, row: usize) -> &[f32] {
        self.factor.get(row * self.columns..).unwrap_or_default()
    }

    /// λ, what was added to the second moment of each feature.
    pub(crate) fn damping(&self) -> f64 {
        self.damping
    }
}

/// Replaces the lower triangle of `m` by its Cholesky factor. `None` if `m` is not positive
/// definite.
fn cholesky(m: &mut [f32], n: usize, parts: Parts) -> Option<()> {
    for start in (0..n).step_by(BLOCK) {
        let end = n.min(start + BLOCK);
        let width = end - start;
        for i in start..end {
            for j in start..=i {
                let known = (start..j).map(|k| f64::from(m[i * n + k]) * f64::from(m[j * n + k]));
                let rest = f64::from(m[i * n + j]) - known.sum::<f64>();
                m[i * n + j] = if i != j {
                    (rest / f64::from(m[j * n + j])) as f32
                } else if rest > 0.0 && rest.is_finite() {
                    rest.sqrt() as f32
                } else {
                    return None;
                };
            }
        }
        let (above, below) = m.split_at_mut(end * n);
        let diagonal: Vec<&[f32]> =
            above.chunks(n).skip(start).map(|row| &row[start..end]).collect();
        parts(below, PART * n, &|_, rows| {
            for row in rows.chunks_mut(n) {
                for (j, factors) in diagonal.iter().enumerate() {
                    let known = (0..j).map(|k| row[start + k] * factors[k]).sum::<f32>();
                    row[start + j] = (row[start + j] - known) / factors[j];
                }
            }
        });
        let rest = n - end;
        let mut panel = vec![0.0; width * rest];
        for (at, row) in below.chunks(n).enumerate() {
            for k in 0..width {
                panel[k * rest + at] = row[start + k];
            }
        }
        parts(below, PART * n, &|part, rows| {
            let first = part * PART;
            let count = rows.len() / n;
            let factors: Vec<f32> =
                rows.chunks(n).flat_map(|row| &row[start..end]).map(|x| -x).collect();
            let (strides, dims) = ([n, width, rest], [count, width, first + count]);
            let c = rows.get_mut(end..).unwrap_or_default();
            Product { c, a: &factors, b: &panel, strides, dims }.add();
        });
    }
    Some(())
}

/// Replaces a lower triangular matrix by its inverse, and fills the part above the diagonal with
/// zeros.
fn invert(m: &mut [f32], n: usize, parts: Parts) {
    for start in (0..n).step_by(BLOCK) {
        let end = n.min(start + BLOCK);
        let width = end - start;
        let (above, rows) = m.split_at_mut(start * n);
        let rows = rows.get_mut(..width * n).unwrap_or_default();
        let block = |i: usize, j: usize| f64::from(rows[i * n + start + j]);
        let mut inverse = vec![0.0f64; width * width];
        for i in 0..width {
            for j in 0..=i {
                let known = (j..i).map(|k| block(i, k) * inverse[k * width + j]).sum::<f64>();
                let one = if i == j { 1.0 } else { 0.0 };
                inverse[i * width + j] = (one - known) / block(i, i);
            }
        }
        let factors: Vec<f32> =
            rows.chunks(n).flat_map(|row| row[..start].iter().copied()).collect();
        // The columns before the block, one tile after another.
        let mut tiles = vec![0.0; start.div_ceil(PART) * PART * width];
        parts(&mut tiles, PART * width, &|tile, sums| {
            let first = tile * PART;
            let columns = PART.min(start - first);
            // Above row `first` these columns are zero.
            let a = factors.get(first..).unwrap_or_default();
            let b = above.get(first * n + first..).unwrap_or_default();
            let (strides, dims) = ([PART, start, n], [width, start - first, columns]);
            Product { c: sums, a, b, strides, dims }.add();
            for i in (0..width).rev() {
                for column in 0..columns {
                    let products = (0..=i)
                        .map(|k| inverse[i * width + k] * f64::from(sums[k * PART + column]));
                    sums[i * PART + column] = -products.sum::<f64>() as f32;
                }
            }
        });
        for (i, row) in rows.chunks_mut(n).enumerate() {
            for column in 0..start {
                row[column] = tiles[column / PART * PART * width + i * PART + column % PART];
            }
            for j in 0..width {
                row[start + j] = inverse[i * width + j] as f32;
            }
            row[end..].fill(0.0);
        }
    }
}
