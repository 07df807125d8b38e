//! Error sums of elements that were already dequantized.

use crate::quantization::kernels::array_lanes::{LANES, fold};
use crate::quantization::kernels::dispatch::{Loop, run_loop};
use crate::quantization::loss::Loss;
use crate::quantization::statistics::ErrorSums;

/// Returns signal and noise of the elements `x` and their dequantized values `restored`.
pub(crate) fn restored_loss(x: &[f32], restored: &[f32]) -> Loss {
    run_loop(LossOf { x, restored })
}

/// Returns the error sums of the elements `x` and their dequantized values `restored`, without
/// levels.
pub(crate) fn restored_error(x: &[f32], restored: &[f32]) -> ErrorSums {
    run_loop(ErrorOf { x, restored })
}

struct LossOf<'a> {
    x: &'a [f32],
    restored: &'a [f32],
}

impl Loop for LossOf<'_> {
    type Output = Loss;

    #[inline(always)]
    fn run(self) -> Loss {
        let (mut signal, mut noise) = ([0f64; LANES], [0f64; LANES]);
        each_step(self.x, self.restored, |x, hat| {
            for i in 0..LANES {
                let (x, hat) = (f64::from(x[i]), f64::from(hat[i]));
                signal[i] += x * x;
                noise[i] += (x - hat) * (x - hat);
            }
        });
        Loss { signal: fold(signal, |a, b| a + b), noise: fold(noise, |a, b| a + b) }
    }
}

struct ErrorOf<'a> {
    x: &'a [f32],
    restored: &'a [f32],
}

impl Loop for ErrorOf<'_> {
    type Output = ErrorSums;

    #[inline(always)]
    fn run(self) -> ErrorSums {
        let [mut sum, mut signal, mut noise, mut dot, mut reconstructed] = [[0f64; LANES]; 5];
        let mut max = [0f64; LANES];
        let [mut non_zero, mut zeroed] = [[0u64; LANES]; 2];
        each_step(self.x, self.restored, |xs, hats| {
            for i in 0..LANES {
                let (x, hat) = (f64::from(xs[i]), f64::from(hats[i]));
                let d = x - hat;
                sum[i] += x;
                signal[i] += x * x;
                noise[i] += d * d;
                dot[i] += x * hat;
                reconstructed[i] += hat * hat;
                max[i] = if d.abs() > max[i] { d.abs() } else { max[i] };
                non_zero[i] += u64::from(x != 0.0);
                zeroed[i] += u64::from(x != 0.0 && hat == 0.0);
            }
        });
        let add = |a: f64, b: f64| a + b;
        ErrorSums {
            count: self.x.len() as u64,
            sum: fold(sum, add),
            signal: fold(signal, add),
            noise: fold(noise, add),
            dot: fold(dot, add),
            reconstructed: fold(reconstructed, add),
            max_abs_error: fold(max, f64::max),
            non_zero: fold(non_zero, |a, b| a + b),
            zeroed: fold(zeroed, |a, b| a + b),
            ..ErrorSums::default()
        }
    }
}

/// Calls `each` with [`LANES`] elements at a time; the last are padded with zeros.
#[inline(always)]
fn each_step(x: &[f32], restored: &[f32], mut each: impl FnMut(&[f32; LANES], &[f32; LANES])) {
    let (whole, rest) = x.as_chunks::<LANES>();
    let (whole_restored, rest_restored) = restored.as_chunks::<LANES>();
    for (x, restored) in whole.iter().zip(whole_restored) {
        each(x, restored);
    }
    let (mut last, mut last_restored) = ([0f32; LANES], [0f32; LANES]);
    last.iter_mut().zip(rest).for_each(|(to, &x)| *to = x);
    last_restored.iter_mut().zip(rest_restored).for_each(|(to, &x)| *to = x);
    each(&last, &last_restored);
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
}
