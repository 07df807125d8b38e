//! Converts elements to levels (quantized values as floats, before scaling) and back.

use crate::quantization::preset::Preset;
use crate::quantization::presets::scale::GroupScale;
use crate::quantization::presets::working_type::{Bf16, WorkingType};
use crate::tensor::minifloat::Minifloat;

/// 1.5 · 2²³: adding and subtracting it rounds a small number to an integer, half to even.
const ROUNDING_MAGIC: f32 = 12_582_912.0;

/// Replaces the content of `levels` by the levels of the elements `x` of one group.
#[inline(always)]
pub(super) fn group_levels<W: WorkingType>(
    preset: Preset,
    x: &[f32],
    group: GroupScale,
    levels: &mut [f32],
) {
    let GroupScale { scale, zero, .. } = group;
    let pairs = levels.iter_mut().zip(x);
    match preset {
        Preset::W8A8 | Preset::W8A16(_) => {
            pairs.for_each(|(level, x)| *level = integer(W::round(x / scale), -128.0, 127.0));
        }
        Preset::W4A16(_) => {
            pairs.for_each(|(level, x)| *level = integer(W::round(x / scale), -8.0, 7.0));
        }
        Preset::W4A16Asym(_) => pairs.for_each(|(level, x)| {
            *level = integer(W::round(W::round(x / scale) + zero), -8.0, 7.0);
        }),
        Preset::Fp8Dynamic | Preset::Fp8Block | Preset::Mxfp8A16 => {
            pairs.for_each(|(level, x)| *level = minifloat(Minifloat::E4M3, W::round(x / scale)));
        }
        Preset::Mxfp4A16 => {
            pairs.for_each(|(level, x)| *level = minifloat(Minifloat::E2M1, W::round(x / scale)));
        }
        // The scales are F32, so compressed-tensors divides in F32.
        Preset::Nvfp4A16 => {
            pairs.for_each(|(level, x)| *level = minifloat(Minifloat::E2M1, x / scale));
        }
    }
}

#[inline(always)]
fn integer(quotient: f32, low: f32, high: f32) -> f32 {
    (quotient.max(low).min(high) + ROUNDING_MAGIC) - ROUNDING_MAGIC
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
    let pairs = restored.iter_mut().zip(levels);
    match preset {
        // compressed-tensors decompresses NVFP4 in BF16, whatever type the weight had.
        Preset::Nvfp4A16 if W::EPSILON != Bf16::EPSILON => {
            pairs.for_each(|(restored, level)| *restored = Bf16::round(level * scale));
        }
        _ => pairs.for_each(|(restored, level)| *restored = (level - zero) * scale),
    }
}
