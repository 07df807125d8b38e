//! From elements to their quantized values.

use crate::quantization::kernels::array_lanes::Lanes;
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::element::{Element, Float, Narrow, Steps, by_single, by_type};
use crate::quantization::kernels::kernel::Kernel;
use crate::quantization::kernels::params::Quantization;
use crate::quantization::kernels::rounding::{
    Clamped, ClampedByReciprocal, Division, Divisor, Grid, IntegersHalfAway, IntegersHalfEven,
    is_ordinary, round_one,
};
use crate::quantization::kernels::simd::Level;
use crate::quantization::scheme::{QuantizationType, Rounding};
use crate::tensor::FloatType;

/// Elements for which it pays to ask whether they can be multiplied.
const MANY: usize = 4096;

/// Quantizes every element to one of −127 … 127; stops at the shorter of the two. The
/// elements must be finite.
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
    /// That of `how`.
    pub grid: G,
    pub out: &'a mut [i8],
}

impl<G: Grid> Kernel for QuantizeTo<'_, G> {
    type Output = ();
    const RARE: bool = G::RARE;

    #[inline(always)]
    fn run<L: Level>(self, level: L) {
        let QuantizeTo { dtype, bytes, params, grid, out } = self;
        if is_ordinary(params.scale) {
            let divisor = Divisor::new(level, params.scale, params.qtype.max());
            let done = by_single!(dtype, E => {
                let by_reciprocal = G::IS_HALF_EVEN
                    && bytes.len() >= MANY * E::SIZE
                    && E::reciprocal_will_do(level, &divisor, params.qtype.max());
                match by_reciprocal {
                    true => {
                        group::<E, L, G, ClampedByReciprocal>(level, grid, bytes, &divisor, out);
                    }
                    false => group::<E, L, G, Clamped>(level, grid, bytes, &divisor, out),
                }
            });
            if done.is_some() {
                return;
            }
        }
        scalar(dtype, bytes, &params, out);
    }
}

/// Exact for any type and scale, one by one.
pub(super) fn scalar(dtype: FloatType, bytes: &[u8], params: &Quantization, out: &mut [i8]) {
    by_type!(dtype, E => {
        let scale = <E as Element>::Wide::from_f32(params.scale);
        for (raw, out) in bytes.chunks_exact(E::SIZE).zip(out) {
            *out = round_one((E::read(raw) / scale).f64(), params).1 as i8;
        }
    })
}

/// Quantizes elements that share a scale.
#[inline(always)]
pub(super) fn group<E: Narrow, L: Level, G: Grid, D: Division>(
    level: L,
    grid: G,
    bytes: &[u8],
    divisor: &Divisor,
    out: &mut [i8],
) {
    let steps = Steps::<E>::of(bytes);
    let (whole, rest) = out.as_chunks_mut();
    let count = whole.len().min(steps.whole().len());
    // Whole steps apart: a length that may vary makes each a call that copies memory.
    for (raw, out) in steps.whole().iter().zip(&mut *whole) {
        *out = values::<E, L, G, D>(level, grid, raw, divisor);
    }
    let out = whole.get_mut(count).map_or(rest, |out| out.as_mut_slice());
    if count < steps.len() {
        let values = values::<E, L, G, D>(level, grid, steps.at(count), divisor);
        for (out, value) in out.iter_mut().zip(&values[..steps.count(count)]) {
            *out = *value;
        }
    }
}

#[inline(always)]
fn values<E: Narrow, L: Level, G: Grid, D: Division>(
    level: L,
    grid: G,
    raw: &E::Raw,
    divisor: &Divisor,
) -> Lanes<i8> {
    let (_, codes) = grid.round(level, D::quotient(level, E::load(level, raw), divisor));
    level.low8(codes).map(u8::cast_signed)
}
