//! Converts elements to levels (quantized values as floats, before scaling) and back.

use crate::quantization::kernels::{LevelRule, round_half_even};
use crate::quantization::preset::Preset;
use crate::quantization::presets::scale::GroupScale;
use crate::quantization::presets::working_type::{Bf16, WorkingType};
use crate::tensor::minifloat::Minifloat;

/// The levels of a preset's groups.
pub(super) fn level_rule(preset: Preset) -> LevelRule {
    match preset {
        Preset::W8A8 | Preset::W8A16(_) => LevelRule::Integers { low: -128.0, high: 127.0 },
        Preset::W4A16(_) | Preset::W4A16Asym(_) => LevelRule::Integers { low: -8.0, high: 7.0 },
        Preset::Fp8 | Preset::Fp8Dynamic | Preset::Fp8Block | Preset::Mxfp8A16 => {
            LevelRule::Minifloat(Minifloat::E4M3)
        }
        Preset::Nvfp4A16 | Preset::Nvfp4ComfyUi | Preset::Mxfp4A16 => {
            LevelRule::Minifloat(Minifloat::E2M1)
        }
    }
}

/// Returns the level of an element of a group.
#[inline(always)]
pub(super) fn level<W: WorkingType>(preset: Preset, x: f32, group: GroupScale) -> f32 {
    let GroupScale { scale, zero, .. } = group;
    match level_rule(preset) {
        LevelRule::Integers { low, high } => {
            let quotient = W::round(W::round(x / scale) + zero);
            round_half_even(quotient.max(low).min(high))
        }
        LevelRule::Minifloat(format) => {
            let quotient = if divides_in_f32(preset) { x / scale } else { W::round(x / scale) };
            format.nearest(quotient.abs()).0.copysign(quotient)
        }
    }
}

/// Whether quotients are not rounded to the type of the weight. Their scales are F32, so
/// compressed-tensors and ComfyUI divide in F32.
pub(super) fn divides_in_f32(preset: Preset) -> bool {
    matches!(preset, Preset::Nvfp4A16 | Preset::Nvfp4ComfyUi)
}

/// Whether dequantized values are rounded to BF16. Values of BF16 weights are rounded when they are
/// stored.
pub(super) fn restores_bf16<W: WorkingType>(preset: Preset) -> bool {
    preset.restores_in_bf16() && W::EPSILON != Bf16::EPSILON
}

/// Returns the dequantized value of a level.
#[inline(always)]
pub(super) fn restored<W: WorkingType>(preset: Preset, level: f32, group: GroupScale) -> f32 {
    let GroupScale { scale, zero, .. } = group;
    let value = (level - zero) * scale;
    if restores_bf16::<W>(preset) { Bf16::round(value) } else { value }
}
