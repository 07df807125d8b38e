//! Quantization of elements to int8.

use crate::quantization::kernels::array_lanes::Lanes;
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::element::{Element, Float, Narrow, Steps, by_single, by_type};
use crate::quantization::kernels::params::Quantization;
use crate::quantization::kernels::rounding::{
    Clamped, ClampedByReciprocal, Division, Divisor, Grid, IntegersHalfAway, IntegersHalfEven,
    is_ordinary, round_one,
};
use crate::quantization::kernels::simd::Kernel;
use crate::quantization::kernels::simd::Simd;
use crate::quantization::quantization_type::QuantizationType;
use crate::quantization::scheme::Rounding;
use crate::tensor::FloatType;

/// Minimum number of elements for which it pays off to test whether a reciprocal is exact.
const MIN_RECIPROCAL_ELEMENTS: usize = 4096;

/// Quantizes little-endian elements to integers from −127 to 127; stops at the end of the
/// shorter slice. The elements must be finite.
pub fn quantize(dtype: FloatType, bytes: &[u8], scale: f32, rounding: Rounding, out: &mut [i8]) {
    let params = Quantization { scale, qtype: QuantizationType::QInt8, rounding };
    match rounding {
        Rounding::HalfEven => run(QuantizeTo { dtype, bytes, params, grid: IntegersHalfEven, out }),
        Rounding::HalfAway => run(QuantizeTo { dtype, bytes, params, grid: IntegersHalfAway, out }),
    }
}

pub(super) struct QuantizeTo<'a, G> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub params: Quantization,
    /// The grid of `params`.
    pub grid: G,
    pub out: &'a mut [i8],
}

impl<G: Grid> Kernel for QuantizeTo<'_, G> {
    type Output = ();
    const IS_RARELY_USED: bool = G::IS_RARELY_USED;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let QuantizeTo { dtype, bytes, params, grid, out } = self;
        if is_ordinary(params.scale) {
            let divisor = Divisor::new(simd, params.scale, params.qtype.max());
            let done = by_single!(dtype, E => {
                let by_reciprocal = G::IS_HALF_EVEN
                    && bytes.len() >= MIN_RECIPROCAL_ELEMENTS * E::SIZE
                    && E::reciprocal_rounds_alike(simd, &divisor, params.qtype.max());
                if by_reciprocal {
                    group::<E, S, G, ClampedByReciprocal>(simd, grid, bytes, &divisor, out);
                } else {
                    group::<E, S, G, Clamped>(simd, grid, bytes, &divisor, out);
                }
            });
            if done.is_some() {
                return;
            }
        }
        scalar(dtype, bytes, &params, out);
    }
}

/// Quantizes elements of any type by any scale, one by one.
pub(super) fn scalar(dtype: FloatType, bytes: &[u8], params: &Quantization, out: &mut [i8]) {
    by_type!(dtype, E => {
        let scale = <E as Element>::Wide::from_f32(params.scale);
        for (raw, out) in bytes.chunks_exact(E::SIZE).zip(out) {
            *out = round_one((E::read(raw) / scale).f64(), params).1 as i8;
        }
    })
}

/// Quantizes elements by one scale, with vector operations.
#[inline(always)]
pub(super) fn group<E: Narrow, S: Simd, G: Grid, D: Division>(
    simd: S,
    grid: G,
    bytes: &[u8],
    divisor: &Divisor,
    out: &mut [i8],
) {
    let steps = Steps::<E>::of(bytes);
    let (whole, rest) = out.as_chunks_mut();
    let count = whole.len().min(steps.whole().len());
    // Full steps are handled separately: storing a variable length would call memcpy each time.
    for (raw, out) in steps.whole().iter().zip(&mut *whole) {
        *out = values::<E, S, G, D>(simd, grid, raw, divisor);
    }
    let out = whole.get_mut(count).map_or(rest, |out| out.as_mut_slice());
    if count < steps.len() {
        let values = values::<E, S, G, D>(simd, grid, steps.at(count), divisor);
        for (out, value) in out.iter_mut().zip(&values[..steps.count(count)]) {
            *out = *value;
        }
    }
}

#[inline(always)]
fn values<E: Narrow, S: Simd, G: Grid, D: Division>(
    simd: S,
    grid: G,
    raw: &E::Raw,
    divisor: &Divisor,
) -> Lanes<i8> {
    let (_, codes) = grid.round(simd, D::quotient(simd, E::load(simd, raw), divisor));
    simd.low8(codes).map(u8::cast_signed)
}
