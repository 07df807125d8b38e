//! TQ1_0 and TQ2_0: the values −1, 0 and 1 times a scale, five per byte or two bits each.

use crate::quantization::ggml::arithmetic::{
    SUPER_BLOCK, absmax, blocks, each, half, half_bytes, inverse_or_zero, rounded_away,
};

const POWERS_OF_3: [u8; 5] = [1, 3, 9, 27, 81];

/// Returns the byte of element `e` of a block of TQ1_0, and the position of its digit. Bytes 0 to
/// 31 and 32 to 47 hold five elements each, bytes 48 to 51 four.
#[inline(always)]
fn tq1_0_place(e: usize) -> (usize, usize) {
    match e {
        0..160 => (e % 32, e / 32),
        160..240 => (32 + (e - 160) % 16, (e - 160) / 16),
        _ => (48 + (e - 240) % 4, (e - 240) / 4),
    }
}

#[inline(always)]
pub(super) fn decode_tq1_0(block: &[u8; 54], out: &mut [f32; SUPER_BLOCK]) {
    let d = half(block[52], block[53]);
    for (e, out) in out.iter_mut().enumerate() {
        let (byte, digit) = tq1_0_place(e);
        let digits = block[byte].wrapping_mul(POWERS_OF_3[digit]);
        *out = (f32::from(((u16::from(digits) * 3) >> 8) as u8) - 1.0) * d;
    }
}

#[inline(always)]
pub(super) fn decode_tq2_0(block: &[u8; 66], out: &mut [f32; SUPER_BLOCK]) {
    let d = half(block[64], block[65]);
    for (i, out) in out.chunks_mut(32).enumerate() {
        for (byte, out) in block[i / 4 * 32..].iter().zip(out) {
            *out = (f32::from(byte >> (i % 4 * 2) & 3) - 1.0) * d;
        }
    }
}

/// Returns the levels 0, 1 and 2 of a block's elements, and their scale.
#[inline(always)]
fn levels(x: &[f32; SUPER_BLOCK]) -> (f32, [u8; SUPER_BLOCK]) {
    let d = absmax(x);
    let inverse = inverse_or_zero(d);
    (d, each(x, |x| (rounded_away(x * inverse) + 1) as u8))
}

#[inline(always)]
pub(super) fn quantize_tq1_0(row: &[f32], _: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, _) in blocks::<SUPER_BLOCK>(row, None) {
        let (d, levels) = levels(x);
        // The first element is the most significant digit.
        let mut bytes = [0u16; 52];
        for (e, &level) in levels.iter().enumerate() {
            let (byte, digit) = tq1_0_place(e);
            bytes[byte] += u16::from(level) * u16::from(POWERS_OF_3[4 - digit]);
        }
        // The digits are a fraction of 243, stored as a fraction of 256, rounded up.
        out.extend(bytes.map(|digits| (digits * 256).div_ceil(243) as u8));
        out.extend(half_bytes(d));
    }
}

#[inline(always)]
pub(super) fn quantize_tq2_0(row: &[f32], _: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, _) in blocks::<SUPER_BLOCK>(row, None) {
        let (d, levels) = levels(x);
        let mut bytes = [0u8; 64];
        for (e, &level) in levels.iter().enumerate() {
            bytes[e / 128 * 32 + e % 32] |= level << (e % 128 / 32 * 2);
        }
        out.extend(bytes);
        out.extend(half_bytes(d));
    }
}
