//! From elements to their quantized values.

use super::Quantization;
use super::dispatch::{Kernel, Level, run};
use super::lanes::{Element, Float, LANES, by_type};
use super::rounding::{Divisor, Grid, by_grid, round_one};
use crate::quantization::{QuantizationType, Rounding};
use crate::tensor::FloatType;

/// Quantizes every element to one of −127 … 127; stops at the shorter of the two. The
/// elements must be finite.
pub fn quantize(dtype: FloatType, bytes: &[u8], scale: f32, rounding: Rounding, out: &mut [i8]) {
    run(QuantizeTo { dtype, bytes, scale, rounding, out })
}

pub(super) struct QuantizeTo<'a> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub scale: f32,
    pub rounding: Rounding,
    pub out: &'a mut [i8],
}

impl Kernel for QuantizeTo<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Level>(self, level: L) {
        let QuantizeTo { dtype, bytes, scale, rounding, out } = self;
        by_type!(dtype, quantize_of(level, bytes, scale, rounding, out))
    }
}

#[inline(always)]
fn quantize_of<E: Element, L: Level>(
    level: L,
    bytes: &[u8],
    scale: f32,
    rounding: Rounding,
    out: &mut [i8],
) {
    let qtype = QuantizationType::QInt8;
    match Divisor::<E::Wide>::new(scale, qtype.max()) {
        Some(divisor) => by_grid!(qtype, rounding, |grid| {
            group::<E, _, _>(level, grid, bytes, &divisor, out)
        }),
        None => careful::<E>(bytes, scale, rounding, out),
    }
}

/// Exact for any scale, one by one.
pub(super) fn careful<E: Element>(bytes: &[u8], scale: f32, rounding: Rounding, out: &mut [i8]) {
    let how = Quantization { scale, qtype: QuantizationType::QInt8, rounding };
    for (raw, out) in bytes.chunks_exact(E::SIZE).zip(out) {
        let quotient = E::read(raw) / E::Wide::from_f32(scale);
        *out = round_one(quotient.f64(), &how).1 as i8;
    }
}

/// Quantizes elements that share a scale.
#[inline(always)]
pub(super) fn group<E: Element, L: Level, G: Grid>(
    level: L,
    grid: G,
    bytes: &[u8],
    divisor: &Divisor<E::Wide>,
    out: &mut [i8],
) {
    let mut elements = bytes.chunks_exact(LANES * E::SIZE);
    let mut values = out.chunks_exact_mut(LANES);
    // The shorter side is asked first, so that nothing is taken from the longer in vain.
    let whole = elements.len().min(values.len());
    for (raw, out) in elements.by_ref().take(whole).zip(values.by_ref()) {
        let (_, codes) = grid.round(divisor.quotient(level, E::load(level, raw)));
        out.copy_from_slice(&level.low8(codes).map(u8::cast_signed));
    }
    let (bytes, out) = (&bytes[whole * LANES * E::SIZE..], &mut out[whole * LANES..]);
    let count = (bytes.len() / E::SIZE).min(out.len()).min(LANES);
    if count > 0 {
        let x = E::load_padded(level, &bytes[..count * E::SIZE]);
        let (_, codes) = grid.round(divisor.quotient(level, x));
        out[..count].copy_from_slice(&level.low8(codes).map(u8::cast_signed)[..count]);
    }
}
