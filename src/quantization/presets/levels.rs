//! Converts elements to levels (quantized values as floats, before scaling) and back.

use crate::quantization::kernels::{LANES, map, round_half_even};
use crate::quantization::preset::Preset;
use crate::quantization::presets::scale::GroupScale;
use crate::quantization::presets::working_type::{Bf16, WorkingType};
use crate::tensor::minifloat::Minifloat;

/// Replaces the content of `levels` by the levels of the elements `x` of one group.
#[inline(always)]
pub(super) fn group_levels<W: WorkingType>(
    preset: Preset,
    x: &[f32],
    group: GroupScale,
    levels: &mut [f32],
) {
    let GroupScale { scale, zero, .. } = group;
    match preset {
        Preset::W8A8 | Preset::W8A16(_) => {
            each_lane(x, levels, |x| integer(W::round(x / scale), -128.0, 127.0));
        }
        Preset::W4A16(_) => each_lane(x, levels, |x| integer(W::round(x / scale), -8.0, 7.0)),
        Preset::W4A16Asym(_) => {
            each_lane(x, levels, |x| integer(W::round(W::round(x / scale) + zero), -8.0, 7.0))
        }
        Preset::Fp8Dynamic | Preset::Fp8Block | Preset::Mxfp8A16 => {
            each_lane(x, levels, |x| minifloat(Minifloat::E4M3, W::round(x / scale)));
        }
        Preset::Mxfp4A16 => {
            each_lane(x, levels, |x| minifloat(Minifloat::E2M1, W::round(x / scale)));
        }
        // The scales are F32, so compressed-tensors divides in F32.
        Preset::Nvfp4A16 => each_lane(x, levels, |x| minifloat(Minifloat::E2M1, x / scale)),
    }
}

/// Replaces the content of `to` by `f` of each element of `from`. Whole vectors are passed by value:
/// the compiler does not vectorize loops over slices that may overlap.
#[inline(always)]
fn each_lane(from: &[f32], to: &mut [f32], f: impl Fn(f32) -> f32) {
    let (whole, rest) = from.as_chunks::<LANES>();
    let (to_whole, to_rest) = to.as_chunks_mut::<LANES>();
    for (to, from) in to_whole.iter_mut().zip(whole) {
        *to = map(*from, &f);
    }
    for (to, &from) in to_rest.iter_mut().zip(rest) {
        *to = f(from);
    }
}

#[inline(always)]
fn integer(quotient: f32, low: f32, high: f32) -> f32 {
    round_half_even(quotient.max(low).min(high))
}

#[inline(always)]
fn minifloat(format: Minifloat, quotient: f32) -> f32 {
    format.nearest(quotient.abs()).0.copysign(quotient)
}

/// Replaces the content of `restored` by the dequantized values of one group's levels.
#[inline(always)]
pub(super) fn restore<W: WorkingType>(
    preset: Preset,
    levels: &[f32],
    group: GroupScale,
    restored: &mut [f32],
) {
    let GroupScale { scale, zero, .. } = group;
    match preset {
        // compressed-tensors decompresses NVFP4 in BF16, whatever type the weight had.
        Preset::Nvfp4A16 if W::EPSILON != Bf16::EPSILON => {
            each_lane(levels, restored, |level| Bf16::round(level * scale));
        }
        _ => each_lane(levels, restored, |level| (level - zero) * scale),
    }
}
