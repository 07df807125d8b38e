//! Conversion of elements between float types.

use crate::quantization::kernels::array_lanes::{LANES, Lanes, map, narrow_bf16, zip};
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::element::{Narrow, by_single};
use crate::quantization::kernels::simd::Kernel;
use crate::quantization::kernels::simd::Simd;
use crate::tensor::{FloatType, read_f64, write_f64};

/// Replaces `out` by the little-endian elements `bytes` converted to type `to`.
///
/// Every element is rounded once, to nearest even. A NaN becomes quiet and keeps the upper
/// bits of its payload. Elements of the same type are copied.
pub(crate) fn convert(from: FloatType, bytes: &[u8], to: FloatType, out: &mut Vec<u8>) {
    if from == to {
        out.clear();
        out.extend_from_slice(bytes);
    } else if from == FloatType::F64 || to == FloatType::F64 {
        out.clear();
        for i in 0..bytes.len() / from.size() {
            write_f64(to, read_f64(from, bytes, i).unwrap_or(f64::NAN), out);
        }
    } else {
        out.resize(bytes.len() / from.size() * to.size(), 0);
        run(Convert { from, bytes, to, out });
    }
}

/// Fills `out` with the elements `bytes` as f32; exact except for F64.
pub(crate) fn widen(from: FloatType, bytes: &[u8], out: &mut [f32]) {
    if from == FloatType::F64 {
        for (i, out) in out.iter_mut().enumerate() {
            *out = read_f64(from, bytes, i).unwrap_or(f64::NAN) as f32;
        }
        return;
    }
    run(Convert { from, bytes, to: FloatType::F32, out: bytemuck::cast_slice_mut(out) });
    out.iter_mut().for_each(|x| *x = f32::from_bits(u32::from_le(x.to_bits())));
}

/// Conversion between the types that are computed in f32.
struct Convert<'a> {
    from: FloatType,
    bytes: &'a [u8],
    to: FloatType,
    out: &'a mut [u8],
}

impl Kernel for Convert<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Convert { from, bytes, to, out } = self;
        let _ = by_single!(from, E => match to {
            FloatType::F64 => {}
            FloatType::F32 => write::<E, 4, S>(simd, ToF32, bytes, out),
            FloatType::F16 => write::<E, 2, S>(simd, ToF16, bytes, out),
            FloatType::BF16 => write::<E, 2, S>(simd, ToBf16, bytes, out),
        });
    }
}

#[inline(always)]
fn write<E: Narrow, const SIZE: usize, S: Simd>(
    simd: S,
    to: impl Conversion<SIZE>,
    bytes: &[u8],
    out: &mut [u8],
) {
    let (out, _) = out.as_chunks_mut::<SIZE>();
    let (whole, _) = E::split(bytes);
    let steps = whole.len().min(out.len() / LANES);
    let (elements, out_tail) = out.split_at_mut(steps * LANES);
    for (raw, elements) in whole.iter().zip(elements.as_chunks_mut::<LANES>().0) {
        *elements = to.of(simd, simd.array(E::load(simd, raw)));
    }
    let rest = bytes.get(steps * LANES * E::SIZE..).unwrap_or_default();
    let last = to.of(simd, simd.array(E::load(simd, &E::pad(rest))));
    for (element, value) in out_tail.iter_mut().zip(&last).take(rest.len() / E::SIZE) {
        *element = *value;
    }
}

/// A conversion of f32 to elements of `SIZE` bytes. This is a trait because a closure would not be
/// compiled with the caller's target features.
trait Conversion<const SIZE: usize>: Copy {
    fn of<S: Simd>(self, simd: S, x: Lanes<f32>) -> Lanes<[u8; SIZE]>;
}

#[derive(Clone, Copy)]
struct ToF32;

impl Conversion<4> for ToF32 {
    #[inline(always)]
    fn of<S: Simd>(self, _: S, x: Lanes<f32>) -> Lanes<[u8; 4]> {
        map(x, |x| (x.to_bits() | quiet(x, 1 << 22)).to_le_bytes())
    }
}

#[derive(Clone, Copy)]
struct ToF16;

impl Conversion<2> for ToF16 {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: Lanes<f32>) -> Lanes<[u8; 2]> {
        map(simd.narrow_f16(x), u16::to_le_bytes)
    }
}

#[derive(Clone, Copy)]
struct ToBf16;

impl Conversion<2> for ToBf16 {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: Lanes<f32>) -> Lanes<[u8; 2]> {
        // Rounding the bits of a NaN could produce infinity or zero.
        let bits =
            zip(
                narrow_bf16(x),
                x,
                |rounded, x| {
                    if x.is_nan() { x.to_bits() >> 16 | 1 << 6 } else { rounded }
                },
            );
        map(simd.low16(bits), u16::to_le_bytes)
    }
}

#[inline(always)]
fn quiet(x: f32, bit: u32) -> u32 {
    if x.is_nan() { bit } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::kernels::dispatch::{Isa, run_at};

    fn convert_one_by_one(from: FloatType, bytes: &[u8], to: FloatType) -> Vec<u8> {
        let mut out = Vec::new();
        for i in 0..bytes.len() / from.size() {
            write_f64(to, read_f64(from, bytes, i).expect("inside"), &mut out);
        }
        out
    }

    const NARROW: [FloatType; 3] = [FloatType::F32, FloatType::F16, FloatType::BF16];

    /// Every 16-bit element, and f32 of every exponent with ties and their neighbours.
    fn elements(from: FloatType) -> Vec<u8> {
        match from {
            FloatType::F16 | FloatType::BF16 => {
                (0..=u16::MAX).flat_map(|bits| bits.to_le_bytes()).collect()
            }
            _ => {
                let mut bits = Vec::new();
                for high in 0..=u16::MAX {
                    let low = u32::from(high).wrapping_mul(0x9E37_79B9) >> 16;
                    let ties = [0, 1, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF, low];
                    bits.extend(ties.map(|low| u32::from(high) << 16 | low));
                }
                bits.into_iter().flat_map(u32::to_le_bytes).collect()
            }
        }
    }

    #[test]
    fn vector_conversion_equals_converting_one_at_a_time() {
        for from in NARROW {
            let bytes = elements(from);
            for to in NARROW.into_iter().filter(|&to| to != from) {
                let expected = convert_one_by_one(from, &bytes, to);
                for &isa in Isa::ALL {
                    let mut out = vec![0xAA; expected.len()];
                    let kernel = Convert { from, bytes: &bytes, to, out: &mut out };
                    if run_at(isa, kernel).is_none() {
                        continue;
                    }
                    let wrong = (0..out.len() / to.size()).find(|i| {
                        let at = i * to.size()..(i + 1) * to.size();
                        out[at.clone()] != expected[at]
                    });
                    assert_eq!(wrong, None, "{from:?} to {to:?} with {isa:?}");
                }
            }
        }
    }

    #[test]
    fn every_length_and_pair_of_types_converts() {
        for from in [FloatType::F64, FloatType::F32, FloatType::F16, FloatType::BF16] {
            for to in [FloatType::F64, FloatType::F32, FloatType::F16, FloatType::BF16] {
                for length in 0..70 {
                    let mut bytes = Vec::new();
                    (0..length).for_each(|i| write_f64(from, f64::from(i) * 0.3 - 4.0, &mut bytes));
                    let expected = convert_one_by_one(from, &bytes, to);
                    // A trailing byte is ignored.
                    bytes.push(1);
                    let bytes = if from == to { &bytes[..bytes.len() - 1] } else { &bytes };
                    let mut out = vec![7; 3];
                    convert(from, bytes, to, &mut out);
                    assert_eq!(out, expected, "{length} of {from:?} to {to:?}");
                }
            }
        }
    }
}
