//! From quantized values back to elements.

use crate::quantization::kernels::array_lanes::{LANES, Lanes, map, narrow_bf16};
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::kernel::Kernel;
use crate::quantization::kernels::simd::Level;
use crate::tensor::FloatType;
use half::bf16;

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
        match to {
            FloatType::F64 => write(level, Double(scale.into()), q, out),
            FloatType::F32 => write(level, Single(scale), q, out),
            FloatType::F16 => write(level, Half(scale), q, out),
            FloatType::BF16 if scale.is_finite() => write(level, Brain(scale), q, out),
            FloatType::BF16 => {
                for (element, &q) in out.as_chunks_mut::<2>().0.iter_mut().zip(q) {
                    *element = bf16::from_f32(scale * f32::from(q)).to_le_bytes();
                }
            }
        }
    }
}

#[inline(always)]
fn write<const SIZE: usize, L: Level>(level: L, to: impl Product<SIZE>, q: &[i8], out: &mut [u8]) {
    let (out, _) = out.as_chunks_mut::<SIZE>();
    let (values, q_tail) = q.as_chunks::<LANES>();
    let whole = values.len().min(out.len() / LANES);
    let (elements, out_tail) = out.split_at_mut(whole * LANES);
    for (&values, elements) in values.iter().zip(elements.as_chunks_mut::<LANES>().0) {
        *elements = to.of(level, values);
    }
    let rest = values.get(whole).map_or(q_tail, |values| values.as_slice());
    let mut padded = [0; LANES];
    padded[..rest.len()].copy_from_slice(rest);
    for (element, value) in out_tail.iter_mut().zip(&to.of(level, padded)[..rest.len()]) {
        *element = *value;
    }
}

/// `scale · q` as elements of so many bytes. A trait where closures would do, as they
/// cannot be made to be inlined.
trait Product<const SIZE: usize>: Copy {
    fn of<L: Level>(self, level: L, q: Lanes<i8>) -> Lanes<[u8; SIZE]>;
}

#[derive(Clone, Copy)]
struct Double(f64);

impl Product<8> for Double {
    #[inline(always)]
    fn of<L: Level>(self, _: L, q: Lanes<i8>) -> Lanes<[u8; 8]> {
        map(q, |q| (self.0 * f64::from(q)).to_le_bytes())
    }
}

#[derive(Clone, Copy)]
struct Single(f32);

impl Product<4> for Single {
    #[inline(always)]
    fn of<L: Level>(self, _: L, q: Lanes<i8>) -> Lanes<[u8; 4]> {
        map(q, |q| (self.0 * f32::from(q)).to_le_bytes())
    }
}

#[derive(Clone, Copy)]
struct Half(f32);

impl Product<2> for Half {
    #[inline(always)]
    fn of<L: Level>(self, level: L, q: Lanes<i8>) -> Lanes<[u8; 2]> {
        map(level.narrow_f16(map(q, |q| self.0 * f32::from(q))), u16::to_le_bytes)
    }
}

/// The scale must be finite: the products of another are NaN.
#[derive(Clone, Copy)]
struct Brain(f32);

impl Product<2> for Brain {
    #[inline(always)]
    fn of<L: Level>(self, level: L, q: Lanes<i8>) -> Lanes<[u8; 2]> {
        let bits = narrow_bf16(map(q, |q| self.0 * f32::from(q)));
        map(level.low16(bits), u16::to_le_bytes)
    }
}
