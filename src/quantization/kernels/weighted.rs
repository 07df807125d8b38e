//! What quantizing loses, from how often each value occurs.

use super::Quantization;
use super::dispatch::{Kernel, run};
use super::lanes::LANES;
use super::level::Level;
use super::rounding::{Divisor, Grid, by_grid, is_ordinary, round_one};
use crate::quantization::{ErrorSums, LevelSet};

/// Values and how many elements have each; of equal length.
#[derive(Clone, Copy, Debug)]
pub struct Weighted<'a> {
    pub values: &'a [f32],
    pub counts: &'a [u32],
}

/// What quantizing every element loses. The values must be finite. All sums are in f64;
/// x̂ = scale · q is rounded to f32 before it is compared.
pub fn weighted_error(elements: Weighted, how: Quantization) -> ErrorSums {
    let mut lanes = [ErrorSums::default(); LANES];
    let mut levels = LevelSet::default();
    by_grid!(how.qtype, how.rounding, |grid| run(Quantized {
        elements,
        how,
        grid,
        // Sums of their own for every lane, so that none waits for another.
        each: |step: &Step| {
            for (i, sums) in lanes.iter_mut().enumerate() {
                let (n, x, q, hat) = (step.counts[i], step.x[i], step.q[i], f64::from(step.hat[i]));
                let (weight, wide, n) = (f64::from(n), f64::from(x), u64::from(n));
                let d = wide - hat;
                sums.count += n;
                sums.signal += weight * (wide * wide);
                sums.noise += weight * (d * d);
                sums.dot += weight * (wide * hat);
                sums.reconstructed += weight * (hat * hat);
                sums.max_abs_error = sums.max_abs_error.max(d.abs());
                sums.non_zero += n * u64::from(x != 0.0);
                sums.zeroed += n * u64::from(x != 0.0 && q == 0.0);
            }
            step.codes[..step.len].iter().for_each(|&code| levels.insert(code as u8));
        }
    }));
    let mut sums = ErrorSums { levels, ..ErrorSums::default() };
    lanes.iter().for_each(|lane| sums.merge(lane));
    sums
}

/// Σ(x−x̂)² alone.
pub fn weighted_noise(elements: Weighted, how: Quantization) -> f64 {
    let mut noise = [0.0; LANES];
    by_grid!(how.qtype, how.rounding, |grid| run(Quantized {
        elements,
        how,
        grid,
        each: |step: &Step| {
            for (i, sum) in noise.iter_mut().enumerate() {
                let d = f64::from(step.x[i]) - f64::from(step.hat[i]);
                *sum += f64::from(step.counts[i]) * (d * d);
            }
        }
    }));
    super::lanes::fold(noise, |a, b| a + b)
}

/// A few values, what they become, and how many elements have them; past `len` all zeros.
struct Step {
    len: usize,
    x: [f32; LANES],
    q: [f32; LANES],
    hat: [f32; LANES],
    codes: [u32; LANES],
    counts: [u32; LANES],
}

struct Quantized<'a, G, F> {
    elements: Weighted<'a>,
    how: Quantization,
    /// That of `how`.
    grid: G,
    each: F,
}

impl<G: Grid, F: FnMut(&Step)> Kernel for Quantized<'_, G, F> {
    type Output = ();
    const RARE: bool = G::RARE;

    #[inline(always)]
    fn run<L: Level>(mut self, l: L) {
        let Weighted { values, counts } = self.elements;
        let how = self.how;
        let divisor = is_ordinary(how.scale).then(|| Divisor::new(l, how.scale, how.qtype.max()));
        for (values, weights) in values.chunks(LANES).zip(counts.chunks(LANES)) {
            let len = values.len().min(weights.len());
            let (mut x, mut counts) = ([0.0; LANES], [0; LANES]);
            x[..len].copy_from_slice(&values[..len]);
            counts[..len].copy_from_slice(&weights[..len]);
            let (q, codes) = match &divisor {
                Some(divisor) => {
                    let (q, codes) = self.grid.round(l, divisor.quotient(l, l.f32s(x)));
                    (l.array(q), l.array_u32(codes))
                }
                None => {
                    let (mut q, mut codes) = ([0.0; LANES], [0; LANES]);
                    for i in 0..len {
                        let (level, code) = round_one(f64::from(x[i] / how.scale), &how);
                        (q[i], codes[i]) = (level, u32::from(code));
                    }
                    (q, codes)
                }
            };
            let hat = super::lanes::map(q, |q| how.scale * q);
            (self.each)(&Step { len, x, q, hat, codes, counts });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::careful;
    use super::*;
    use crate::quantization::{QuantizationType, Rounding};
    use crate::tensor::FloatType;

    #[test]
    fn counted_values_lose_what_the_elements_lose() {
        let values: Vec<f32> = (0..77).map(|i| ((i * 37 % 101) as f32 - 50.0) / 31.0).collect();
        let counts: Vec<u32> = (0..77).map(|i| 1 + i * i % 13).collect();
        let elements: Vec<u8> = values
            .iter()
            .zip(&counts)
            .flat_map(|(x, &n)| (0..n).flat_map(|_| x.to_le_bytes()))
            .collect();
        let weighted = Weighted { values: &values, counts: &counts };
        for qtype in [QuantizationType::QInt8, QuantizationType::QInt4, QuantizationType::F8E4M3] {
            for rounding in [Rounding::HalfEven, Rounding::HalfAway] {
                for scale in [0.0127f32, 1.0 / 62.0, 0.3, 1e-30, 1e20] {
                    let how = Quantization { scale, qtype, rounding };
                    let found = weighted_error(weighted, how);
                    let plain = careful(FloatType::F32, &elements, &how);
                    let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
                    assert!(near(found.noise, plain.noise), "{how:?}");
                    assert!(near(found.signal, plain.signal) && near(found.dot, plain.dot));
                    assert!(near(found.reconstructed, plain.reconstructed));
                    assert!(near(weighted_noise(weighted, how), plain.noise));
                    let exact =
                        |s: &ErrorSums| (s.count, s.max_abs_error, s.non_zero, s.zeroed, s.levels);
                    assert_eq!(exact(&found), exact(&plain), "{how:?}");
                }
            }
        }
    }
}
