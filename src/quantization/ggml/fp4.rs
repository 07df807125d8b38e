//! MXFP4 and NVFP4: E2M1 values with one scale per 32 or 16 elements.

use crate::quantization::ggml::arithmetic::{absmax, blocks, each, nibbles, pack_nibbles, part};

/// The E2M1 values times two, so that they are integers. Scales are halved.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

#[inline(always)]
fn doubled(nibble: u8) -> f32 {
    f32::from(DOUBLED[usize::from(nibble & 15)])
}

/// Returns half the value of an E8M0 scale.
#[inline(always)]
fn half_e8m0(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0..2 => 0x0020_0000 << exponent,
        _ => u32::from(exponent - 1) << 23,
    })
}

/// Returns half the value of an unsigned E4M3 scale.
#[inline(always)]
fn half_ue4m3(bits: u8) -> f32 {
    if bits == 0 || bits == 0x7f {
        return 0.0;
    }
    let (exponent, significand) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let value = match exponent {
        0 => significand * 2f32.powi(-9),
        _ => (1.0 + significand / 8.0) * 2f32.powi(exponent - 7),
    };
    value * 0.5
}

/// Returns the unsigned E4M3 scale nearest to `x`, ties upward. From 240 it is the largest one,
/// 448.
#[inline(always)]
fn ue4m3(x: f32) -> u8 {
    const LARGEST: u8 = 0x7e;
    if x.is_nan() || x <= 0.0 {
        return 0;
    }
    let x = x.min(448.0);
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32 - 127 + 7;
    if exponent <= 0 {
        return ((x * 512.0 + 0.5) as u8).min(7);
    }
    // Rounding may carry into the exponent.
    let rounded = (exponent << 3) + (bits >> 20 & 7) as i32 + (bits >> 19 & 1) as i32;
    if rounded >= 15 << 3 { LARGEST } else { rounded as u8 }
}

#[inline(always)]
pub(super) fn decode_mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    let d = half_e8m0(block[0]);
    for (q, out) in nibbles(&block[1..]).into_iter().zip(out) {
        *out = d * doubled(q);
    }
}

#[inline(always)]
pub(super) fn decode_nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    let (scales, qs) = block.split_at(4);
    for ((&scale, qs), out) in scales.iter().zip(qs.chunks(8)).zip(out.chunks_mut(16)) {
        let d = half_ue4m3(scale);
        let (low, high) = out.split_at_mut(8);
        for ((q, low), high) in qs.iter().zip(low).zip(high) {
            (*low, *high) = (d * doubled(q & 15), d * doubled(q >> 4));
        }
    }
}

#[inline(always)]
pub(super) fn quantize_mxfp4(row: &[f32], _: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, _) in blocks::<32>(row, None) {
        let exponent = mxfp4_exponent(absmax(x));
        let d = half_e8m0(exponent);
        out.push(exponent);
        out.extend(pack_nibbles(&each(x, |x| nearest_value(x, d))));
    }
}

/// Returns the exponent of a block's scale: that of the largest magnitude minus two, the largest
/// exponent of E2M1. The logarithm is rounded to F32 before taking the floor; just below a power of
/// two this rounds up, like `log2f` in ggml.
#[inline(always)]
fn mxfp4_exponent(absmax: f32) -> u8 {
    if absmax > 0.0 {
        let logarithm = f64::from(absmax).log2() as f32;
        (logarithm.floor() - 2.0 + 127.0) as u8
    } else {
        0
    }
}

#[inline(always)]
pub(super) fn quantize_nvfp4(row: &[f32], _: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, _) in blocks::<64>(row, None) {
        let scales: [u8; 4] = std::array::from_fn(|i| ue4m3(absmax(part::<16>(x, i)) / 6.0));
        out.extend(scales);
        for (i, &scale) in scales.iter().enumerate() {
            let (x, d) = (part::<16>(x, i), half_ue4m3(scale));
            let values = each(x, |x| nearest_value(x, d));
            out.extend::<[u8; 8]>(std::array::from_fn(|j| values[j] | values[j + 8] << 4));
        }
    }
}

/// Returns the index of the nearest value for a scale, the first of equally near ones. A negative
/// value is as near to a negative number as its magnitude to that of the number.
#[inline(always)]
fn nearest_value(x: f32, scale: f32) -> u8 {
    const NEGATIVE: i32 = 8;
    let (mut best, mut least) = (0, x.abs());
    for i in 1..NEGATIVE {
        let error = (doubled(i as u8) * scale - x.abs()).abs();
        best = if error < least { i } else { best };
        least = if error < least { error } else { least };
    }
    (best + if x < 0.0 && best > 0 { NEGATIVE } else { 0 }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_rounds_up_just_below_a_power_of_two() {
        let below = |power: f32, ulps: u32| f32::from_bits(power.to_bits() - ulps);
        assert_eq!(mxfp4_exponent(1.0), 125);
        assert_eq!(mxfp4_exponent(below(1.0, 1)), 124);
        // log2(2⁻⁶⁴ · (1 − 2⁻²⁴)) is −64 in F32.
        assert_eq!(mxfp4_exponent(below(2f32.powi(-64), 1)), 61);
        assert_eq!(mxfp4_exponent(2f32.powi(-64)), 61);
    }

    #[test]
    fn the_nearest_value_is_the_first_with_the_least_error() {
        let near = |x: f32| [x.next_down(), x, x.next_up()];
        for scale in [0.0, f32::MIN_POSITIVE, 0.375, 1.0, 240.0] {
            for x in (0..=200).flat_map(|n| near(n as f32 * scale / 8.0)).chain([-0.0, 1e9]) {
                for x in [x, -x] {
                    let errors =
                        std::array::from_fn::<f32, 16, _>(|i| (doubled(i as u8) * scale - x).abs());
                    let least = errors.iter().copied().fold(f32::INFINITY, f32::min);
                    let first = errors.iter().position(|&error| error == least);
                    assert_eq!(Some(usize::from(nearest_value(x, scale))), first, "{x} {scale}");
                }
            }
        }
    }

    #[test]
    fn scales_of_nvfp4_are_read_back() {
        for bits in (0..0x7f).filter(|&bits| bits != 0) {
            // ggml uses the largest scale for all values with the largest exponent.
            let expected = if bits >= 15 << 3 { 0x7e } else { bits };
            assert_eq!(ue4m3(half_ue4m3(bits) * 2.0), expected);
        }
        assert_eq!((ue4m3(f32::INFINITY), ue4m3(-1.0), ue4m3(1e-9)), (0x7e, 0, 0));
    }
}
