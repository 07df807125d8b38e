//! Block types with one scale and a fixed number of bits per element: Q1_0, Q2_0, Q4_0, Q4_1, Q5_0,
//! Q5_1 and Q8_0.

use crate::quantization::ggml::arithmetic::{
    absmax, blocks, bounds, each, extreme, half, half_bytes, inverse_or_zero, nibble, pack_nibbles,
    sum, sum_of_squares, weigh,
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
    for (e, out) in out.iter_mut().enumerate() {
        *out = d * (f32::from(nibble(&block[2..], e)) - 8.0);
    }
}

#[inline(always)]
pub(super) fn decode_q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block[0], block[1]), half(block[2], block[3]));
    for (e, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(nibble(&block[4..], e)) + m;
    }
}

/// Five bits per element; the fifth bits of all elements are in four bytes.
#[inline(always)]
fn five_bits(high: &[u8], low: &[u8], e: usize) -> f32 {
    let fifth = high[e / 8] >> (e % 8) & 1;
    f32::from(nibble(low, e) | fifth << 4)
}

#[inline(always)]
pub(super) fn decode_q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half(block[0], block[1]);
    for (e, out) in out.iter_mut().enumerate() {
        *out = d * (five_bits(&block[2..6], &block[6..], e) - 16.0);
    }
}

#[inline(always)]
pub(super) fn decode_q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half(block[0], block[1]), half(block[2], block[3]));
    for (e, out) in out.iter_mut().enumerate() {
        *out = d * five_bits(&block[4..8], &block[8..], e) + m;
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
            out.push(bits(eight.map(|x| x >= 0.0)));
        }
    }
}

#[inline(always)]
pub(super) fn quantize_q2_0(row: &[f32], _: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, _) in blocks::<64>(row, None) {
        let d = absmax(x);
        let inverse = inverse_or_zero(d);
        out.extend(half_bytes(d));
        for four in x.as_chunks::<4>().0 {
            let levels = each(four, |x| ((x * inverse).round() as i32 + 1).clamp(0, 3) as u8);
            out.push(levels[0] | levels[1] << 2 | levels[2] << 4 | levels[3] << 6);
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
        out.extend(each(x, |x| (x * inverse).round() as i8 as u8));
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
                let levels = each(x, |x| ((x * inverse + zero) as i32).min(max) as u8);
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
                let levels = each(x, |x| (((x - min) * inverse + 0.5) as i32).min(max_level) as u8);
                emit(d, min, &levels);
            }
        }
    }
}

#[inline(always)]
fn bits(set: [bool; 8]) -> u8 {
    set.iter().enumerate().fold(0, |bits, (i, &set)| bits | u8::from(set) << i)
}

/// Returns the fifth bits of 32 levels.
#[inline(always)]
fn fifth_bits(levels: &[u8; 32]) -> [u8; 4] {
    std::array::from_fn(|i| bits(std::array::from_fn(|b| levels[i * 8 + b] & 16 != 0)))
}
