//! Error sums of a histogram of values.

use crate::quantization::kernels::array_lanes::{LANES, Lanes, fold};
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::params::Quantization;
use crate::quantization::kernels::rounding::{Divisor, Grid, by_grid, is_ordinary, round_one};
use crate::quantization::kernels::simd::Kernel;
use crate::quantization::kernels::simd::Simd;
use crate::quantization::statistics::ErrorSums;

/// Values, and the number of elements with each value. The slices have equal length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weighted<'a> {
    pub values: &'a [f32],
    pub counts: &'a [u32],
}

/// The error sums of quantizing all elements. The values must be finite. All sums are in f64;
/// the dequantized value x̂ = scale · q is rounded to f32.
pub(crate) fn weighted_error(elements: Weighted, params: Quantization) -> ErrorSums {
    by_grid!(params.qtype, params.rounding, |grid| run(ErrorOf { elements, params, grid }))
}

/// Σ(x−x̂)² of quantizing all elements.
pub(crate) fn weighted_noise(elements: Weighted, params: Quantization) -> f64 {
    by_grid!(params.qtype, params.rounding, |grid| run(NoiseOf { elements, params, grid }))
}

struct ErrorOf<'a, G> {
    elements: Weighted<'a>,
    params: Quantization,
    /// The grid of `params`.
    grid: G,
}

struct NoiseOf<'a, G> {
    elements: Weighted<'a>,
    params: Quantization,
    /// The grid of `params`.
    grid: G,
}

/// [`LANES`] values with their levels, codes and counts; zeros after the first `len`.
struct Step<S: Simd> {
    len: usize,
    x: S::F32,
    q: S::F32,
    codes: S::U32,
    counts: S::F64,
}

/// Values, their counts, and the number of lanes that are not padding.
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

/// The divisor for the scale, if it is ordinary.
#[inline(always)]
fn divisor<S: Simd>(simd: S, params: &Quantization) -> Option<Divisor> {
    is_ordinary(params.scale).then(|| Divisor::new(simd, params.scale, params.qtype.max()))
}

impl<S: Simd> Step<S> {
    #[inline(always)]
    fn new<G: Grid>(
        simd: S,
        grid: G,
        (x, counts, len): Chunk,
        params: &Quantization,
        divisor: &Option<Divisor>,
    ) -> Step<S> {
        let (q, codes) = match divisor {
            Some(divisor) => grid.round(simd, divisor.quotient(simd, simd.f32s(x))),
            None => {
                let (mut q, mut codes) = ([0.0; LANES], [0; LANES]);
                for i in 0..len {
                    let (level, code) = round_one(f64::from(x[i] / params.scale), params);
                    (q[i], codes[i]) = (level, u32::from(code));
                }
                (simd.f32s(q), simd.u32s(codes))
            }
        };
        Step { len, x: simd.f32s(x), q, codes, counts: simd.f64s(counts) }
    }

    /// x and x̂ in f64.
    #[inline(always)]
    fn pair(&self, simd: S, params: &Quantization) -> (S::F64, S::F64) {
        (simd.widen(self.x), simd.widen(simd.mul(simd.splat(params.scale), self.q)))
    }
}

impl<G: Grid> Kernel for ErrorOf<'_, G> {
    type Output = ErrorSums;
    const IS_RARELY_USED: bool = G::IS_RARELY_USED;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> ErrorSums {
        let ErrorOf { elements, ref params, grid } = self;
        let divisor = divisor(simd, params);
        let zero = simd.zero_f64();
        let (mut count, mut zero_before, mut zero_after) = (zero, zero, zero);
        let (mut sum_x, mut signal, mut noise, mut dot, mut reconstructed) =
            (zero, zero, zero, zero, zero);
        let mut largest = zero;
        // Bytes instead of bits, so that consecutive stores are independent.
        let mut seen = [false; 256];
        for chunk in elements.steps() {
            let step = Step::new(simd, grid, chunk, params, &divisor);
            let n = step.counts;
            let (x, hat) = step.pair(simd, params);
            let d = simd.sub_f64(x, hat);
            count = simd.add_f64(count, n);
            sum_x = simd.add_f64(sum_x, simd.mul_f64(n, x));
            signal = simd.add_f64(signal, simd.mul_f64(n, simd.mul_f64(x, x)));
            noise = simd.add_f64(noise, simd.mul_f64(n, simd.mul_f64(d, d)));
            dot = simd.add_f64(dot, simd.mul_f64(n, simd.mul_f64(x, hat)));
            reconstructed = simd.add_f64(reconstructed, simd.mul_f64(n, simd.mul_f64(hat, hat)));
            largest = simd.max_abs_f64(d, largest);
            zero_before = simd.add_f64(zero_before, simd.where_zero(n, x));
            zero_after = simd.add_f64(zero_after, simd.where_zero(n, simd.widen(step.q)));
            for &code in simd.low8(step.codes).iter().take(step.len) {
                seen[usize::from(code)] = true;
            }
        }
        let sum = |lanes| fold(lanes, |a, b| a + b);
        // Counts are integers far below 2⁵³, so the f64 sums are exact.
        let integer = |lanes| sum(lanes) as u64;
        let (count, before) =
            (integer(simd.array_f64(count)), integer(simd.array_f64(zero_before)));
        ErrorSums {
            count,
            sum: sum(simd.array_f64(sum_x)),
            signal: sum(simd.array_f64(signal)),
            noise: sum(simd.array_f64(noise)),
            dot: sum(simd.array_f64(dot)),
            reconstructed: sum(simd.array_f64(reconstructed)),
            max_abs_error: fold(simd.array_f64(largest), f64::max),
            non_zero: count - before,
            zeroed: integer(simd.array_f64(zero_after)) - before,
            levels: (0..=u8::MAX).filter(|&code| seen[usize::from(code)]).collect(),
        }
    }
}

impl<G: Grid> Kernel for NoiseOf<'_, G> {
    type Output = f64;
    const IS_RARELY_USED: bool = G::IS_RARELY_USED;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let NoiseOf { elements, ref params, grid } = self;
        let divisor = divisor(simd, params);
        let mut noise = simd.zero_f64();
        for chunk in elements.steps() {
            let step = Step::new(simd, grid, chunk, params, &divisor);
            let (x, hat) = step.pair(simd, params);
            let d = simd.sub_f64(x, hat);
            noise = simd.add_f64(noise, simd.mul_f64(step.counts, simd.mul_f64(d, d)));
        }
        fold(simd.array_f64(noise), |a, b| a + b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::kernels::error::scalar;
    use crate::quantization::quantization_type::QuantizationType;
    use crate::quantization::scheme::Rounding;
    use crate::tensor::FloatType;

    #[test]
    fn a_histogram_has_the_error_of_its_elements() {
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
                    let actual = weighted_error(weighted, params);
                    let plain = scalar(FloatType::F32, &elements, &params);
                    let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
                    assert!(near(actual.noise, plain.noise), "{params:?}");
                    assert!(near(actual.signal, plain.signal) && near(actual.dot, plain.dot));
                    let size = (plain.signal * plain.count as f64).sqrt();
                    assert!((actual.sum - plain.sum).abs() <= 1e-14 * size, "{params:?}");
                    assert!(near(actual.reconstructed, plain.reconstructed));
                    assert!(near(weighted_noise(weighted, params), plain.noise));
                    let exact =
                        |s: &ErrorSums| (s.count, s.max_abs_error, s.non_zero, s.zeroed, s.levels);
                    assert_eq!(exact(&actual), exact(&plain), "{params:?}");
                }
            }
        }
    }
}
