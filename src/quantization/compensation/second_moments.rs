//! The second moments XᵀX of a layer's inputs.

use crate::quantization::compensation::factor::{Compensation, Parts};
use crate::quantization::compensation::product::Product;

/// Rows of the moments that one part of the work adds up.
const ROWS: usize = 64;

/// The sums of the products of each pair of features; the upper triangle is filled. Takes four
/// bytes for each pair.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SecondMoments {
    features: usize,
    sums: Vec<f32>,
}

/// The second moments of the inputs of each group of columns: square matrices one after another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupMoments {
    /// Number of columns in a group; the last may have fewer.
    group: usize,
    sums: Vec<f32>,
}

impl GroupMoments {
    /// The moments of a group, row by row.
    pub(crate) fn of_group(&self, number: usize) -> &[f32] {
        let size = self.group * self.group;
        self.sums.chunks(size).nth(number).unwrap_or_default()
    }
}

impl SecondMoments {
    /// The moments of no samples yet.
    pub(crate) fn new(features: usize) -> SecondMoments {
        SecondMoments { features, sums: vec![0.0; features.saturating_mul(features)] }
    }

    /// Adds samples, each a row of all features.
    pub(crate) fn add(&mut self, samples: &[f32], parts: Parts) {
        let n = self.features;
        let count = samples.len() / n.max(1);
        parts(&mut self.sums, ROWS * n.max(1), &|part, sums| {
            let first = part * ROWS;
            let rows = sums.len() / n.max(1);
            let mut features = vec![0.0; rows * count];
            for (at, sample) in samples.chunks_exact(n.max(1)).enumerate() {
                for row in 0..rows {
                    features[row * count + at] = sample[first + row];
                }
            }
            let upper = sums.get_mut(first..).unwrap_or_default();
            let b = samples.get(first..).unwrap_or_default();
            let (strides, dims) = ([n, count, n], [rows, count, n - first]);
            Product { c: upper, a: &features, b, strides, dims }.add();
        });
    }

    /// The moments of each group of consecutive columns.
    pub(crate) fn of_groups(&self, group: usize) -> GroupMoments {
        let (n, group) = (self.features, group.max(1));
        let mut sums = Vec::with_capacity(n.saturating_mul(group));
        for start in (0..n).step_by(group) {
            let columns = start..n.min(start + group);
            for (i, j) in columns.clone().flat_map(|i| columns.clone().map(move |j| (i, j))) {
                // Only the upper triangle is filled.
                sums.push(self.sums.get(i.min(j) * n + i.max(j)).copied().unwrap_or_default());
            }
        }
        GroupMoments { group, sums }
    }

    /// Returns what rounding with compensation requires; `None` if all inputs are zero.
    pub(crate) fn compensation(self, parts: Parts) -> Option<Compensation> {
        Compensation::new(self.features, self.sums, parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_order(m: &mut [f32], size: usize, each: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        m.chunks_mut(size.max(1)).enumerate().for_each(|(at, part)| each(at, part));
    }

    fn samples(count: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        for n in [1, 5, 64, 150] {
            let x = samples(3 * n * n);
            let mut moments = SecondMoments::new(n);
            // In two runs, as a capture is read.
            let (first, second) = x.split_at(n * n);
            moments.add(first, &in_order);
            moments.add(second, &in_order);
            let found = moments.compensation(&in_order).expect("positive definite");
            // (XᵀX + λ) · UᵀU is the identity.
            let u = |i: usize, j: usize| f64::from(found.rows_from(i)[j]);
            for i in 0..n {
                assert!((0..i).all(|j| u(i, j) == 0.0), "{n}: below the diagonal");
            }
            let product = |i: usize, j: usize| -> f64 {
                (0..n)
                    .map(|k| {
                        let damping = if i == k { found.damping() } else { 0.0 };
                        let moment =
                            x.chunks(n).map(|s| f64::from(s[i]) * f64::from(s[k])).sum::<f64>();
                        let inverse = (0..n).map(|l| u(l, k) * u(l, j)).sum::<f64>();
                        (moment + damping) * inverse
                    })
                    .sum()
            };
            for i in (0..n).step_by(7) {
                for j in (0..n).step_by(11) {
                    let expected = if i == j { 1.0 } else { 0.0 };
                    assert!((product(i, j) - expected).abs() < 1e-2, "{n}: {i}, {j}");
                }
            }
        }
    }

    #[test]
    fn inputs_of_zeros_have_no_factor() {
        let mut moments = SecondMoments::new(3);
        moments.add(&[0.0; 12], &in_order);
        assert_eq!(moments.compensation(&in_order), None);
    }
}
