//! What quantizing loses, from how often each value occurs.

use crate::quantization::kernels::array_lanes::{LANES, Lanes, fold};
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::kernel::Kernel;
use crate::quantization::kernels::params::Quantization;
use crate::quantization::kernels::rounding::{Divisor, Grid, by_grid, is_ordinary, round_one};
use crate::quantization::kernels::simd::Level;
use crate::quantization::statistics::ErrorSums;

/// Values and how many elements have each; of equal length.
#[derive(Clone, Copy, Debug)]
pub struct Weighted<'a> {
    pub values: &'a [f32],
    pub counts: &'a [u32],
}

/// What quantizing every element loses. The values must be finite. All sums are in f64;
/// x̂ = scale · q is rounded to f32 before it is compared.
pub fn weighted_error(elements: Weighted, params: Quantization) -> ErrorSums {
    by_grid!(params.qtype, params.rounding, |grid| run(ErrorOf { elements, params, grid }))
}

/// Σ(x−x̂)² alone.
pub fn weighted_noise(elements: Weighted, params: Quantization) -> f64 {
    by_grid!(params.qtype, params.rounding, |grid| run(NoiseOf { elements, params, grid }))
}

struct ErrorOf<'a, G> {
    elements: Weighted<'a>,
    params: Quantization,
    /// That of `how`.
    grid: G,
}

struct NoiseOf<'a, G> {
    elements: Weighted<'a>,
    params: Quantization,
    /// That of `how`.
    grid: G,
}

/// A few values, what they become, and how many elements have them; past `len` all zeros.
struct Step<L: Level> {
    len: usize,
    x: L::F32,
    q: L::F32,
    codes: L::U32,
    counts: L::F64,
}

/// Values, their counts, and how many of them are not filling.
type Chunk = (Lanes<f32>, Lanes<u32>, usize);

impl<'a> Weighted<'a> {
    fn steps(self) -> impl Iterator<Item = Chunk> + use<'a> {
        let (values, rest) = self.values.as_chunks::<LANES>();
        let (counts, of_rest) = self.counts.as_chunks::<LANES>();
        let len = rest.len().min(of_rest.len());
        let (mut x, mut n) = ([0.0; LANES], [0; LANES]);
        x[..len].copy_from_slice(&rest[..len]);
        n[..len].copy_from_slice(&of_rest[..len]);
        let whole = values.iter().zip(counts).map(|(&x, &n)| (x, n, LANES));
        whole.chain((len > 0).then_some((x, n, len)))
    }
}

/// The divisor of a scale that is ordinary.
#[inline(always)]
fn divisor<L: Level>(l: L, params: &Quantization) -> Option<Divisor> {
    is_ordinary(params.scale).then(|| Divisor::new(l, params.scale, params.qtype.max()))
}

impl<L: Level> Step<L> {
    #[inline(always)]
    fn new<G: Grid>(
        l: L,
        grid: G,
        (x, counts, len): Chunk,
        params: &Quantization,
        divisor: &Option<Divisor>,
    ) -> Step<L> {
        let (q, codes) = match divisor {
            Some(divisor) => grid.round(l, divisor.quotient(l, l.f32s(x))),
            None => {
                let (mut q, mut codes) = ([0.0; LANES], [0; LANES]);
                for i in 0..len {
                    let (level, code) = round_one(f64::from(x[i] / params.scale), params);
                    (q[i], codes[i]) = (level, u32::from(code));
                }
                (l.f32s(q), l.u32s(codes))
            }
        };
        Step { len, x: l.f32s(x), q, codes, counts: l.f64s(counts) }
    }

    /// x and x̂.
    #[inline(always)]
    fn pair(&self, l: L, params: &Quantization) -> (L::F64, L::F64) {
        (l.widen(self.x), l.widen(l.mul(l.splat(params.scale), self.q)))
    }
}

impl<G: Grid> Kernel for ErrorOf<'_, G> {
    type Output = ErrorSums;
    const RARE: bool = G::RARE;

    #[inline(always)]
    fn run<L: Level>(self, l: L) -> ErrorSums {
        let ErrorOf { elements, ref params, grid } = self;
        let divisor = divisor(l, params);
        let zero = l.zero_f64();
        let (mut count, mut zero_before, mut zero_after) = (zero, zero, zero);
        let (mut of_x, mut signal, mut noise, mut dot, mut reconstructed) =
            (zero, zero, zero, zero, zero);
        let mut most = zero;
        // No bit waits for another to be set in its word.
        let mut seen = [false; 256];
        for chunk in elements.steps() {
            let step = Step::new(l, grid, chunk, params, &divisor);
            let n = step.counts;
            let (x, hat) = step.pair(l, params);
            let d = l.sub_f64(x, hat);
            count = l.add_f64(count, n);
            of_x = l.add_f64(of_x, l.mul_f64(n, x));
            signal = l.add_f64(signal, l.mul_f64(n, l.mul_f64(x, x)));
            noise = l.add_f64(noise, l.mul_f64(n, l.mul_f64(d, d)));
            dot = l.add_f64(dot, l.mul_f64(n, l.mul_f64(x, hat)));
            reconstructed = l.add_f64(reconstructed, l.mul_f64(n, l.mul_f64(hat, hat)));
            most = l.max_abs_f64(d, most);
            zero_before = l.add_f64(zero_before, l.where_zero(n, x));
            zero_after = l.add_f64(zero_after, l.where_zero(n, l.widen(step.q)));
            for &code in l.low8(step.codes).iter().take(step.len) {
                seen[usize::from(code)] = true;
            }
        }
        let sum = |lanes| fold(lanes, |a, b| a + b);
        // PatternCounts are sums of integers, far below what f64 holds exactly.
        let whole = |lanes| sum(lanes) as u64;
        let (count, before) = (whole(l.array_f64(count)), whole(l.array_f64(zero_before)));
        ErrorSums {
            count,
            sum: sum(l.array_f64(of_x)),
            signal: sum(l.array_f64(signal)),
            noise: sum(l.array_f64(noise)),
            dot: sum(l.array_f64(dot)),
            reconstructed: sum(l.array_f64(reconstructed)),
            max_abs_error: fold(l.array_f64(most), f64::max),
            non_zero: count - before,
            zeroed: whole(l.array_f64(zero_after)) - before,
            levels: (0..=u8::MAX).filter(|&code| seen[usize::from(code)]).collect(),
        }
    }
}

impl<G: Grid> Kernel for NoiseOf<'_, G> {
    type Output = f64;
    const RARE: bool = G::RARE;

    #[inline(always)]
    fn run<L: Level>(self, l: L) -> f64 {
        let NoiseOf { elements, ref params, grid } = self;
        let divisor = divisor(l, params);
        let mut noise = l.zero_f64();
        for chunk in elements.steps() {
            let step = Step::new(l, grid, chunk, params, &divisor);
            let (x, hat) = step.pair(l, params);
            let d = l.sub_f64(x, hat);
            noise = l.add_f64(noise, l.mul_f64(step.counts, l.mul_f64(d, d)));
        }
        fold(l.array_f64(noise), |a, b| a + b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::kernels::error::scalar;
    use crate::quantization::scheme::{QuantizationType, Rounding};
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
                    let params = Quantization { scale, qtype, rounding };
                    let found = weighted_error(weighted, params);
                    let plain = scalar(FloatType::F32, &elements, &params);
                    let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
                    assert!(near(found.noise, plain.noise), "{params:?}");
                    assert!(near(found.signal, plain.signal) && near(found.dot, plain.dot));
                    let size = (plain.signal * plain.count as f64).sqrt();
                    assert!((found.sum - plain.sum).abs() <= 1e-14 * size, "{params:?}");
                    assert!(near(found.reconstructed, plain.reconstructed));
                    assert!(near(weighted_noise(weighted, params), plain.noise));
                    let exact =
                        |s: &ErrorSums| (s.count, s.max_abs_error, s.non_zero, s.zeroed, s.levels);
                    assert_eq!(exact(&found), exact(&plain), "{params:?}");
                }
            }
        }
    }
}
