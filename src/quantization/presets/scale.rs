//! Computes the scale of a group of elements from its range.

use crate::quantization::preset::Preset;
use crate::quantization::presets::working_type::WorkingType;
use crate::tensor::minifloat::{Minifloat, f8e4m3_value};

/// Quantization parameters of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct GroupScale {
    /// The divisor of elements and factor of levels.
    pub scale: f32,
    /// Added to the quotient and subtracted from the level; 0 unless asymmetric.
    pub zero: f32,
    /// The stored byte of a scale that is not stored in the weight's type.
    pub code: u8,
}

/// The largest E4M3, and the value used for a scale that rounds to zero.
const E4M3_MAX: f32 = 448.0;
const E4M3_EPSILON: f32 = 0.125;

/// The product of the largest E4M3 and the largest E2M1.
const GLOBAL_RANGE: f32 = 2688.0;

/// Returns the global scale of tensors whose largest magnitude is `absmax`.
pub(super) fn global_scale<W: WorkingType>(absmax: f32) -> f32 {
    // In compressed-tensors dividing a number by a tensor multiplies by the reciprocal.
    let reciprocal = W::round(1.0 / absmax.max(W::TINY));
    let scale = W::round(reciprocal * GLOBAL_RANGE);
    if scale.is_finite() { scale } else { 1.0 }
}

/// Returns the scale of a group whose smallest and largest elements are `min` and `max`, with zero
/// included in the range. `None` if the scale is beyond its type.
pub(super) fn group_scale<W: WorkingType>(
    preset: Preset,
    (min, max): (f32, f32),
    global: f32,
) -> Option<GroupScale> {
    let (min, max) = (min.min(0.0), max.max(0.0));
    // `max` may return either zero of 0.0 and -0.0.
    let absmax = max.max(-min).abs();
    let plain = |divisor: f32| {
        let scale = W::round(absmax / divisor);
        let scale = if scale == 0.0 { W::EPSILON } else { scale };
        scale.is_finite().then_some(GroupScale { scale, ..GroupScale::default() })
    };
    match preset {
        Preset::W8A8 | Preset::W8A16(_) => plain(127.5),
        Preset::W4A16(_) => plain(7.5),
        Preset::Fp8Dynamic | Preset::Fp8Block => plain(E4M3_MAX),
        Preset::W4A16Asym(_) => asymmetric::<W>(min, max),
        Preset::Nvfp4A16 => Some(two_level::<W>(absmax, global)),
        Preset::Mxfp4A16 => power_of_two::<W>(absmax, 2),
        Preset::Mxfp8A16 => power_of_two::<W>(absmax, 8),
    }
}

/// int4 with a zero point.
fn asymmetric<W: WorkingType>(min: f32, max: f32) -> Option<GroupScale> {
    let quotient = W::round(W::round(max - min) / 15.0);
    let zero = W::round(-8.0 - W::round(min / quotient)).clamp(-8.0, 7.0).round_ties_even();
    // compressed-tensors replaces a scale of zero after computing the zero point.
    let zero = if zero.is_nan() { 0.0 } else { zero };
    let scale = if quotient == 0.0 { W::EPSILON } else { quotient };
    scale.is_finite().then_some(GroupScale { scale, zero, code: 0 })
}

/// An E4M3 scale that is multiplied by the global scale.
fn two_level<W: WorkingType>(absmax: f32, global: f32) -> GroupScale {
    let local = W::round(absmax / 6.0) * global;
    let (nearest, code) = Minifloat::E4M3.nearest(local);
    let (value, code) = match nearest == 0.0 {
        true => (E4M3_EPSILON, Minifloat::E4M3.nearest(E4M3_EPSILON).1),
        false => (nearest, code),
    };
    debug_assert_eq!(f8e4m3_value(code as u8), value);
    GroupScale { scale: value / global, zero: 0.0, code: code as u8 }
}

/// A power of two, `offset` exponents below the rounded `absmax`.
fn power_of_two<W: WorkingType>(absmax: f32, offset: u32) -> Option<GroupScale> {
    let power = W::power_of_two(absmax).unwrap_or(0);
    // For the largest exponents the scale is infinite in the weight's type.
    if !W::round(f32::from_bits(power << 23)).is_finite() {
        return None;
    }
    let code = power.saturating_sub(offset);
    let exact = if code == 0 { f32::from_bits(1 << 22) } else { f32::from_bits(code << 23) };
    let group = |scale: f32, code: u32| GroupScale { scale, zero: 0.0, code: code as u8 };
    match W::round(exact) == 0.0 {
        true => Some(group(1.0, 127)),
        false => Some(group(exact, code)),
    }
}
