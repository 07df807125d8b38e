//! Computes the scale of a group of elements from its range.

use crate::quantization::kernels::round_half_even;
use crate::quantization::preset::Preset;
use crate::quantization::presets::working_type::WorkingType;
use crate::tensor::minifloat::Minifloat;

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
const E4M3_EPSILON_CODE: u8 = 0x20;

/// The product of the largest E4M3 and the largest E2M1.
const GLOBAL_RANGE: f32 = 2688.0;

/// Returns the global scale of tensors whose largest magnitude is `absmax`; 1 for presets without
/// one.
pub(super) fn global_scale<W: WorkingType>(preset: Preset, absmax: f32) -> f32 {
    match preset {
        Preset::Nvfp4A16 => reciprocal_scale::<W>(absmax),
        Preset::Nvfp4ComfyUi => match W::round(absmax / GLOBAL_RANGE) {
            // The scale is stored in F32, which holds what the type of the weight may not.
            0.0 if absmax > 0.0 => (absmax / GLOBAL_RANGE).max(f32::MIN_POSITIVE),
            0.0 => 1.0,
            scale => scale,
        },
        Preset::Fp8 => plain::<W>(E4M3_MAX)(-absmax, absmax).scale,
        _ => 1.0,
    }
}

/// Returns the global scale by which compressed-tensors divides.
fn reciprocal_scale<W: WorkingType>(absmax: f32) -> f32 {
    // In compressed-tensors dividing a number by a tensor multiplies by the reciprocal.
    let reciprocal = W::round(1.0 / absmax.max(W::TINY));
    let scale = W::round(reciprocal * GLOBAL_RANGE);
    if scale.is_finite() { scale } else { 1.0 }
}

/// Replaces the content of `groups` by the parameters of groups whose smallest and largest elements
/// are `ranges`, with zero included.
///
/// # Errors
///
/// The scale of a group is beyond its type; returns the largest magnitude of the group.
#[inline(always)]
pub(super) fn group_scales<W: WorkingType>(
    preset: Preset,
    ranges: &[(f32, f32)],
    global: f32,
    groups: &mut Vec<GroupScale>,
) -> Result<(), f32> {
    groups.clear();
    match preset {
        Preset::W8A8 | Preset::W8A16(_) => each_group(ranges, groups, plain::<W>(127.5)),
        Preset::W4A16(_) => each_group(ranges, groups, plain::<W>(7.5)),
        Preset::Fp8Dynamic | Preset::Fp8Block => each_group(ranges, groups, plain::<W>(E4M3_MAX)),
        Preset::W4A16Asym(_) => each_group(ranges, groups, asymmetric::<W>),
        Preset::Fp8 => {
            let group = GroupScale { scale: global, ..GroupScale::default() };
            each_group(ranges, groups, |_, _| group)
        }
        Preset::Nvfp4A16 => {
            each_group(ranges, groups, |min, max| two_level::<W>(absmax(min, max), global))
        }
        Preset::Nvfp4ComfyUi => {
            each_group(ranges, groups, |min, max| two_factors(absmax(min, max), global))
        }
        Preset::Mxfp4A16 => {
            each_group(ranges, groups, |min, max| power_of_two::<W>(absmax(min, max), 2))
        }
        Preset::Mxfp8A16 => {
            each_group(ranges, groups, |min, max| power_of_two::<W>(absmax(min, max), 8))
        }
    }
    let overflowing = groups.iter().zip(ranges).find(|(group, _)| !group.scale.is_finite());
    overflowing.map_or(Ok(()), |(_, range)| Err(absmax(range.0, range.1)))
}

/// Appends the parameters of groups, computed by `rule` from the smallest and the largest element.
#[inline(always)]
fn each_group(
    ranges: &[(f32, f32)],
    groups: &mut Vec<GroupScale>,
    rule: impl Fn(f32, f32) -> GroupScale,
) {
    groups.extend(ranges.iter().map(|&(min, max)| rule(min, max)));
}

/// The largest magnitude of a range.
#[inline(always)]
fn absmax(min: f32, max: f32) -> f32 {
    // Comparing may return either zero of 0.0 and -0.0.
    if max > -min { max.abs() } else { min.abs() }
}

/// A scale that maps the largest magnitude onto `divisor`.
#[inline(always)]
fn plain<W: WorkingType>(divisor: f32) -> impl Fn(f32, f32) -> GroupScale {
    move |min, max| {
        let scale = W::round(absmax(min, max) / divisor);
        let scale = if scale == 0.0 { W::EPSILON } else { scale };
        GroupScale { scale, ..GroupScale::default() }
    }
}

/// int4 with a zero point.
#[inline(always)]
fn asymmetric<W: WorkingType>(min: f32, max: f32) -> GroupScale {
    let quotient = W::round(W::round(max - min) / 15.0);
    let zero = round_half_even(W::round(-8.0 - W::round(min / quotient)).clamp(-8.0, 7.0));
    // compressed-tensors replaces a scale of zero after computing the zero point.
    let zero = if zero.is_nan() { 0.0 } else { zero };
    let scale = if quotient == 0.0 { W::EPSILON } else { quotient };
    GroupScale { scale, zero, code: 0 }
}

/// An E4M3 scale that is multiplied by the global scale.
#[inline(always)]
fn two_level<W: WorkingType>(absmax: f32, global: f32) -> GroupScale {
    let local = W::round(absmax / 6.0) * global;
    let (nearest, code) = Minifloat::E4M3.nearest(local);
    let is_zero = nearest == 0.0;
    let value = if is_zero { E4M3_EPSILON } else { nearest };
    let code = if is_zero { E4M3_EPSILON_CODE } else { code as u8 };
    GroupScale { scale: value / global, zero: 0.0, code }
}

/// An E4M3 scale beside the global scale, by which ComfyUI multiplies it. The product is zero for a
/// group that is small beside the largest magnitude of the tensor.
#[inline(always)]
fn two_factors(absmax: f32, global: f32) -> GroupScale {
    let (nearest, code) = Minifloat::E4M3.nearest((absmax / 6.0 / global).min(E4M3_MAX));
    GroupScale { scale: global * nearest, zero: 0.0, code: code as u8 }
}

/// A power of two, `offset` exponents below the rounded `absmax`.
#[inline(always)]
fn power_of_two<W: WorkingType>(absmax: f32, offset: u32) -> GroupScale {
    let power = W::power_of_two(absmax);
    let code = power.saturating_sub(offset);
    let exact = f32::from_bits(if code == 0 { 1 << 22 } else { code << 23 });
    let is_zero = W::round(exact) == 0.0;
    let (scale, code) = if is_zero { (1.0, 127) } else { (exact, code as u8) };
    // For the largest exponents the scale is infinite in the weight's type.
    let fits = W::round(f32::from_bits(power << 23)).is_finite();
    GroupScale { scale: if fits { scale } else { f32::INFINITY }, zero: 0.0, code }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::minifloat::f8e4m3_value;

    #[test]
    fn the_substitute_for_a_scale_of_zero_has_its_code() {
        assert_eq!(f8e4m3_value(E4M3_EPSILON_CODE), E4M3_EPSILON);
    }
}
