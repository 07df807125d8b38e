//! From quantized values back to elements.

use super::dispatch::{Kernel, Level, run};
use super::lanes::{LANES, map, narrow_bf16};
use crate::tensor::FloatType;

/// `scale · q`, the product rounded to f32 (to f64 for F64) and then to `to`, as
/// little-endian elements; stops at the shorter of the two.
pub fn dequantize(q: &[i8], scale: f32, to: FloatType, out: &mut [u8]) {
    run(DequantizeTo { q, scale, to, out })
}

pub(super) struct DequantizeTo<'a> {
    pub q: &'a [i8],
    pub scale: f32,
    pub to: FloatType,
    pub out: &'a mut [u8],
}

impl Kernel for DequantizeTo<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Level>(self, level: L) {
        let DequantizeTo { q, scale, to, out } = self;
        let wide = f64::from(scale);
        let single = |q: [i8; LANES]| map(q, |q| scale * f32::from(q));
        match to {
            FloatType::F64 => write(q, out, |q| map(q, |q| (wide * f64::from(q)).to_le_bytes())),
            FloatType::F32 => write(q, out, |q| map(single(q), f32::to_le_bytes)),
            FloatType::F16 => write(q, out, |q| map(level.narrow_f16(single(q)), u16::to_le_bytes)),
            FloatType::BF16 => write(q, out, |q| map(narrow_bf16(single(q)), u16::to_le_bytes)),
        }
    }
}

#[inline(always)]
fn write<const SIZE: usize>(
    q: &[i8],
    out: &mut [u8],
    body: impl Fn([i8; LANES]) -> [[u8; SIZE]; LANES],
) {
    let (out, _) = out.as_chunks_mut::<SIZE>();
    let (values, q_tail) = q.as_chunks::<LANES>();
    let whole = values.len().min(out.len() / LANES);
    let (elements, out_tail) = out.split_at_mut(whole * LANES);
    for (&values, elements) in values.iter().zip(elements.as_chunks_mut::<LANES>().0) {
        *elements = body(values);
    }
    let rest = values.get(whole).map_or(q_tail, |values| values.as_slice());
    let mut padded = [0; LANES];
    padded[..rest.len()].copy_from_slice(rest);
    for (element, value) in out_tail.iter_mut().zip(&body(padded)[..rest.len()]) {
        *element = *value;
    }
}
