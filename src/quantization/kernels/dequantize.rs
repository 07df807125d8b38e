//! Dequantization of int8 values.

use crate::quantization::kernels::array_lanes::{LANES, Lanes, map, narrow_bf16};
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::simd::Kernel;
use crate::quantization::kernels::simd::Simd;
use crate::tensor::FloatType;
use half::bf16;

/// Writes `scale * q` to `out` as little-endian elements of type `to`. The product is rounded
/// to f32 (to f64 for F64) and then to `to`. Stops at the end of the shorter slice.
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
    fn run<S: Simd>(self, simd: S) {
        let DequantizeTo { q, scale, to, out } = self;
        match to {
            FloatType::F64 => write(simd, ToF64(scale.into()), q, out),
            FloatType::F32 => write(simd, ToF32(scale), q, out),
            FloatType::F16 => write(simd, ToF16(scale), q, out),
            FloatType::BF16 if scale.is_finite() => write(simd, ToBf16(scale), q, out),
            FloatType::BF16 => {
                for (element, &q) in out.as_chunks_mut::<2>().0.iter_mut().zip(q) {
                    *element = bf16::from_f32(scale * f32::from(q)).to_le_bytes();
                }
            }
        }
    }
}

#[inline(always)]
fn write<const SIZE: usize, S: Simd>(simd: S, to: impl Product<SIZE>, q: &[i8], out: &mut [u8]) {
    let (out, _) = out.as_chunks_mut::<SIZE>();
    let (values, q_tail) = q.as_chunks::<LANES>();
    let whole = values.len().min(out.len() / LANES);
    let (elements, out_tail) = out.split_at_mut(whole * LANES);
    for (&values, elements) in values.iter().zip(elements.as_chunks_mut::<LANES>().0) {
        *elements = to.of(simd, values);
    }
    let rest = values.get(whole).map_or(q_tail, |values| values.as_slice());
    let mut padded = [0; LANES];
    padded[..rest.len()].copy_from_slice(rest);
    for (element, value) in out_tail.iter_mut().zip(&to.of(simd, padded)[..rest.len()]) {
        *element = *value;
    }
}

/// The product of a scale and int8 values as elements of `SIZE` bytes. This is a trait because a
/// closure would not be compiled with the caller's target features.
trait Product<const SIZE: usize>: Copy {
    fn of<S: Simd>(self, simd: S, q: Lanes<i8>) -> Lanes<[u8; SIZE]>;
}

#[derive(Clone, Copy)]
struct ToF64(f64);

impl Product<8> for ToF64 {
    #[inline(always)]
    fn of<S: Simd>(self, _: S, q: Lanes<i8>) -> Lanes<[u8; 8]> {
        map(q, |q| (self.0 * f64::from(q)).to_le_bytes())
    }
}

#[derive(Clone, Copy)]
struct ToF32(f32);

impl Product<4> for ToF32 {
    #[inline(always)]
    fn of<S: Simd>(self, _: S, q: Lanes<i8>) -> Lanes<[u8; 4]> {
        map(q, |q| (self.0 * f32::from(q)).to_le_bytes())
    }
}

#[derive(Clone, Copy)]
struct ToF16(f32);

impl Product<2> for ToF16 {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, q: Lanes<i8>) -> Lanes<[u8; 2]> {
        map(simd.narrow_f16(map(q, |q| self.0 * f32::from(q))), u16::to_le_bytes)
    }
}

/// The scale must be finite: NaN would not be rounded correctly.
#[derive(Clone, Copy)]
struct ToBf16(f32);

impl Product<2> for ToBf16 {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, q: Lanes<i8>) -> Lanes<[u8; 2]> {
        let bits = narrow_bf16(map(q, |q| self.0 * f32::from(q)));
        map(simd.low16(bits), u16::to_le_bytes)
    }
}
