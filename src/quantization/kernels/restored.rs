//! Error sums of elements that were already dequantized.

use crate::quantization::kernels::array_lanes::{LANES, Lanes, fold, padded};
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::simd::{Kernel, Simd};
use crate::quantization::loss::Loss;
use crate::quantization::statistics::ErrorSums;

/// Returns signal and noise of the elements `x` and their dequantized values `restored`.
pub(crate) fn restored_loss(x: &[f32], restored: &[f32]) -> Loss {
    run(LossOf { x, restored })
}

/// Returns the error sums of the elements `x` and their dequantized values `restored`, without
/// levels.
pub(crate) fn restored_error(x: &[f32], restored: &[f32]) -> ErrorSums {
    run(ErrorOf { x, restored })
}

struct LossOf<'a> {
    x: &'a [f32],
    restored: &'a [f32],
}

impl Kernel for LossOf<'_> {
    type Output = Loss;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Loss {
        let (mut signal, mut noise) = (simd.zero_f64(), simd.zero_f64());
        let pairs = Pairs::of(self.x, self.restored);
        for step in 0..pairs.len() {
            let (x, hat) = pairs.at(step);
            let x = simd.widen(simd.f32s(*x));
            let d = simd.sub_f64(x, simd.widen(simd.f32s(*hat)));
            signal = simd.add_f64(signal, simd.mul_f64(x, x));
            noise = simd.add_f64(noise, simd.mul_f64(d, d));
        }
        Loss { signal: sum(simd, signal), noise: sum(simd, noise) }
    }
}

struct ErrorOf<'a> {
    x: &'a [f32],
    restored: &'a [f32],
}

impl Kernel for ErrorOf<'_> {
    type Output = ErrorSums;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> ErrorSums {
        let zero = simd.zero_f64();
        let (mut all, mut signal, mut noise) = (zero, zero, zero);
        let (mut dot, mut reconstructed, mut max) = (zero, zero, zero);
        let none = simd.u32s([0; LANES]);
        let (mut zero_before, mut zero_after, mut zero_both) = (none, none, none);
        let pairs = Pairs::of(self.x, self.restored);
        for step in 0..pairs.len() {
            let (x, hat) = pairs.at(step);
            let (x, hat) = (simd.f32s(*x), simd.f32s(*hat));
            zero_before = simd.count_zeros(zero_before, x);
            zero_after = simd.count_zeros(zero_after, hat);
            zero_both = simd.count_zeros(zero_both, simd.max(simd.abs(x), simd.abs(hat)));
            let (x, hat) = (simd.widen(x), simd.widen(hat));
            let d = simd.sub_f64(x, hat);
            all = simd.add_f64(all, x);
            signal = simd.add_f64(signal, simd.mul_f64(x, x));
            noise = simd.add_f64(noise, simd.mul_f64(d, d));
            dot = simd.add_f64(dot, simd.mul_f64(x, hat));
            reconstructed = simd.add_f64(reconstructed, simd.mul_f64(hat, hat));
            max = simd.max_abs_f64(d, max);
        }
        let count =
            |zeros: S::U32| -> u64 { simd.array_u32(zeros).into_iter().map(u64::from).sum() };
        let steps = (pairs.len() * LANES) as u64;
        ErrorSums {
            count: self.x.len() as u64,
            sum: sum(simd, all),
            signal: sum(simd, signal),
            noise: sum(simd, noise),
            dot: sum(simd, dot),
            reconstructed: sum(simd, reconstructed),
            max_abs_error: fold(simd.array_f64(max), f64::max),
            // The padding of the last step counts as zero.
            non_zero: steps - count(zero_before),
            zeroed: count(zero_after) - count(zero_both),
            ..ErrorSums::default()
        }
    }
}

#[inline(always)]
fn sum<S: Simd>(simd: S, lanes: S::F64) -> f64 {
    fold(simd.array_f64(lanes), |a, b| a + b)
}

/// Elements and their dequantized values in steps of [`LANES`]; the last step is padded with
/// zeros.
struct Pairs<'a> {
    x: &'a [Lanes<f32>],
    restored: &'a [Lanes<f32>],
    last: [Lanes<f32>; 2],
}

impl<'a> Pairs<'a> {
    #[inline(always)]
    fn of(x: &'a [f32], restored: &'a [f32]) -> Pairs<'a> {
        let (x, x_rest) = x.as_chunks::<LANES>();
        let (restored, restored_rest) = restored.as_chunks::<LANES>();
        Pairs { x, restored, last: [padded(x_rest), padded(restored_rest)] }
    }

    /// Number of steps.
    #[inline(always)]
    fn len(&self) -> usize {
        self.x.len() + 1
    }

    #[inline(always)]
    fn at(&self, step: usize) -> (&Lanes<f32>, &Lanes<f32>) {
        match (self.x.get(step), self.restored.get(step)) {
            (Some(x), Some(restored)) => (x, restored),
            _ => (&self.last[0], &self.last[1]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_definition() {
        let x: Vec<f32> =
            (0..37).map(|i| (i as f32 * 0.37).sin() * f32::from(u8::from(i % 5 != 0))).collect();
        let hat: Vec<f32> = x.iter().map(|x| (x * 4.0).round_ties_even() / 4.0).collect();
        let pairs = || x.iter().zip(&hat).map(|(&x, &hat)| (f64::from(x), f64::from(hat)));
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        let found = restored_error(&x, &hat);
        near(found.sum, pairs().map(|(x, _)| x).sum());
        near(found.signal, pairs().map(|(x, _)| x * x).sum());
        near(found.noise, pairs().map(|(x, hat)| (x - hat).powi(2)).sum());
        near(found.dot, pairs().map(|(x, hat)| x * hat).sum());
        near(found.reconstructed, pairs().map(|(_, hat)| hat * hat).sum());
        near(found.max_abs_error, pairs().map(|(x, hat)| (x - hat).abs()).fold(0.0, f64::max));
        let zeroed = |&(x, hat): &(f64, f64)| x != 0.0 && hat == 0.0;
        assert_eq!(found.zeroed, pairs().filter(zeroed).count() as u64);
        assert_eq!(found.non_zero, pairs().filter(|(x, _)| *x != 0.0).count() as u64);
        assert_eq!(found.count, 37);
        let loss = restored_loss(&x, &hat);
        near(loss.signal, found.signal);
        near(loss.noise, found.noise);
    }

    #[test]
    fn an_element_counts_as_zeroed_only_if_it_was_not_zero() {
        // ggml's types restore some zeros as other values.
        let (x, hat) = ([0.0, 0.0, 1.0, -2.0, 3.0, -0.0], [0.0, 0.5, 0.0, -0.0, 3.0, 0.0]);
        let found = restored_error(&x, &hat);
        assert_eq!((found.count, found.non_zero, found.zeroed), (6, 3, 2));
    }
}
