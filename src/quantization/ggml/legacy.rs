//! Block types with one scale and a fixed number of bits per element: Q1_0, Q2_0, Q4_0, Q4_1, Q5_0,
//! Q5_1 and Q8_0.

use crate::quantization::ggml::arithmetic::{
    absmax, blocks, bounds, each, extreme, half, half_bytes, integer_part, inverse_or_zero,
    nibbles, pack_nibbles, rounded_away, sum, sum_of_squares, weigh,
};
use crate::quantization::ggml::search::{MinSearch, symmetric};

#[inline(always)]
pub(super) fn decode_q1_0(block: &[u8; 18], out: &mut [f32; 128]) {
    let d = half(block[0], block[1]);
    for (e, out) in out.iter_mut().enumerate() {
        *out = if block[2 + e / 8] >> (e % 8) & 1 == 1 { d } else { -d };
    }
}

#[inline(always)]
pub(super) fn decode_q2_0(block: &[u8; 18], out: &mut [f32; 64]) {
    let d = half(block[0], block[1]);
    for (e, out) in out.iter_mut().enumerate() {
        *out = (f32::from(block[2 + e / 4] >> (e % 4 * 2) & 3) - 1.0) * d;
    }
}

#[inline(always)]
pub(super) fn decode_q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block[0], block[1]);
    for (q, out) in nibbles(&block[2..]).into_iter().zip(out) {
        *out = d * (f32::from(q) - 8.0);
    }
}

#[inline(always)]
pub(super) fn decode_q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block[0], block[1]), half(block[2], block[3]));
    for (q, out) in nibbles(&block[4..]).into_iter().zip(out) {
        *out = d * f32::from(q) + m;
    }
}

/// Returns 32 levels of five bits. The fifth bits of all are in four bytes.
#[inline(always)]
fn five_bits(high: [u8; 4], low: &[u8]) -> [f32; 32] {
    let fifths = u32::from_le_bytes(high);
    let mut levels = [0.0; 32];
    for ((e, level), low) in levels.iter_mut().enumerate().zip(nibbles(low)) {
        *level = (u32::from(low) | (fifths >> e & 1) << 4) as f32;
    }
    levels
}

#[inline(always)]
pub(super) fn decode_q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half(block[0], block[1]);
    let high = [block[2], block[3], block[4], block[5]];
    for (q, out) in five_bits(high, &block[6..]).into_iter().zip(out) {
        *out = d * (q - 16.0);
    }
}

#[inline(always)]
pub(super) fn decode_q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half(block[0], block[1]), half(block[2], block[3]));
    let high = [block[4], block[5], block[6], block[7]];
    for (q, out) in five_bits(high, &block[8..]).into_iter().zip(out) {
        *out = d * q + m;
    }
}

#[inline(always)]
pub(super) fn decode_q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block[0], block[1]);
    for (q, out) in block[2..].iter().zip(out) {
        *out = d * f32::from(*q as i8);
    }
}

#[inline(always)]
pub(super) fn quantize_q1_0(row: &[f32], _: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, _) in blocks::<128>(row, None) {
        let d = sum(x.iter().map(|x| x.abs())) / 128.0;
        out.extend(half_bytes(d));
        for eight in x.as_chunks::<8>().0 {
            out.push(bits(each(eight, |x| u8::from(x >= 0.0))));
        }
    }
}

#[inline(always)]
pub(super) fn quantize_q2_0(row: &[f32], _: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, _) in blocks::<64>(row, None) {
        let d = absmax(x);
        let inverse = inverse_or_zero(d);
        out.extend(half_bytes(d));
        let levels = each(x, |x| (rounded_away(x * inverse) + 1).clamp(0, 3) as u8);
        for four in levels.as_chunks::<4>().0 {
            out.push(four[0] | four[1] << 2 | four[2] << 4 | four[3] << 6);
        }
    }
}

#[inline(always)]
pub(super) fn quantize_q4_0(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    quantize_symmetric::<8>(row, importance, |d, levels| {
        out.extend(half_bytes(d));
        out.extend(pack_nibbles(levels));
    });
}

#[inline(always)]
pub(super) fn quantize_q5_0(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    quantize_symmetric::<16>(row, importance, |d, levels| {
        out.extend(half_bytes(d));
        out.extend(fifth_bits(levels));
        out.extend(pack_nibbles(levels));
    });
}

#[inline(always)]
pub(super) fn quantize_q4_1(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    quantize_above_min(15, row, importance, |d, min, levels| {
        out.extend(half_bytes(d));
        out.extend(half_bytes(min));
        out.extend(pack_nibbles(levels));
    });
}

#[inline(always)]
pub(super) fn quantize_q5_1(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    quantize_above_min(31, row, importance, |d, min, levels| {
        out.extend(half_bytes(d));
        out.extend(half_bytes(min));
        out.extend(fifth_bits(levels));
        out.extend(pack_nibbles(levels));
    });
}

/// Rounds half away from zero, using the scale before rounding to F16.
#[inline(always)]
pub(super) fn quantize_q8_0(row: &[f32], _: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, _) in blocks::<32>(row, None) {
        let d = absmax(x) / 127.0;
        let inverse = inverse_or_zero(d);
        out.extend(half_bytes(d));
        out.extend(each(x, |x| rounded_away(x * inverse) as u8));
    }
}

/// The mean square of a row, for [`weigh`]; 0 without importance, which does not use it.
#[inline(always)]
fn mean_square(row: &[f32], importance: Option<&[f32]>) -> f32 {
    importance.map_or(0.0, |_| sum_of_squares(row) / row.len() as f32)
}

/// Calls `emit` with the scale and the levels (0 to 2·`MAX_LEVEL` − 1) of each block.
#[inline(always)]
fn quantize_symmetric<const MAX_LEVEL: i32>(
    row: &[f32],
    importance: Option<&[f32]>,
    mut emit: impl FnMut(f32, &[u8; 32]),
) {
    let mean_square = mean_square(row, importance);
    for (x, importance) in blocks::<32>(row, importance) {
        match importance {
            Some(importance) => {
                let weights = weigh(importance, mean_square, x);
                let found = symmetric(x, &weights, MAX_LEVEL);
                emit(found.scale, &found.levels);
            }
            None => {
                let d = extreme(x) / -MAX_LEVEL as f32;
                let inverse = inverse_or_zero(d);
                let (zero, max) = (MAX_LEVEL as f32 + 0.5, 2 * MAX_LEVEL - 1);
                let levels = each(x, |x| integer_part(x * inverse + zero).min(max) as u8);
                emit(d, &levels);
            }
        }
    }
}

/// Calls `emit` with the scale, the minimum and the levels (0 to `max_level`) of each block.
#[inline(always)]
fn quantize_above_min(
    max_level: i32,
    row: &[f32],
    importance: Option<&[f32]>,
    mut emit: impl FnMut(f32, f32, &[u8; 32]),
) {
    let mean_square = mean_square(row, importance);
    for (x, importance) in blocks::<32>(row, importance) {
        match importance {
            Some(importance) => {
                let weights = weigh(importance, mean_square, x);
                let found = MinSearch::weighted(max_level).run(x, &weights);
                emit(found.scale, -found.negative_min, &found.levels);
            }
            None => {
                let (min, max) = bounds(x);
                let d = (max - min) / max_level as f32;
                let inverse = inverse_or_zero(d);
                let level = |x| integer_part((x - min) * inverse + 0.5).min(max_level) as u8;
                let levels = each(x, level);
                emit(d, min, &levels);
            }
        }
    }
}

/// Packs the lowest bits of eight bytes, which have no other bits.
#[inline(always)]
fn bits(bytes: [u8; 8]) -> u8 {
    // Each bit of the factor moves the bit of one byte to the highest byte.
    (u64::from_le_bytes(bytes).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

/// Returns the fifth bits of 32 levels.
#[inline(always)]
fn fifth_bits(levels: &[u8; 32]) -> [u8; 4] {
    let mut fifths = [0; 4];
    for (fifths, levels) in fifths.iter_mut().zip(levels.as_chunks().0) {
        *fifths = bits(levels.map(|level| level >> 4));
    }
    fifths
}
