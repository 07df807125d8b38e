//! IQ4_NL and IQ4_XS: four bits per element select one of sixteen unevenly spaced values.

use crate::quantization::ggml::arithmetic::{
    SUPER_BLOCK, blocks, extreme, half, half_bytes, inverse, nearest_int, nibbles, pack_nibbles,
    part, part_of, squares, sum_of_squares, weigh,
};
use crate::quantization::ggml::search::MIN_ABSMAX;

/// The values, `kvalues_iq4nl` in `ggml-common.h`.
const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

#[inline(always)]
fn value(nibble: u8) -> f32 {
    f32::from(VALUES[usize::from(nibble & 15)])
}

#[inline(always)]
pub(super) fn decode_iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block[0], block[1]);
    for (q, out) in nibbles(&block[2..]).into_iter().zip(out) {
        *out = d * value(q);
    }
}

#[inline(always)]
pub(super) fn decode_iq4_xs(block: &[u8; 136], out: &mut [f32; SUPER_BLOCK]) {
    let d = half(block[0], block[1]);
    let high = u16::from_le_bytes([block[2], block[3]]);
    let (low, qs) = (&block[4..8], &block[8..]);
    for (i, out) in out.chunks_mut(32).enumerate() {
        let scale = low[i / 2] >> (i % 2 * 4) & 15 | ((high >> (2 * i) & 3) as u8) << 4;
        let d = d * f32::from(scale as i8 - 32);
        for (q, out) in nibbles(&qs[i * 16..]).into_iter().zip(out) {
            *out = d * value(q);
        }
    }
}

#[inline(always)]
pub(super) fn quantize_iq4_nl(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, importance) in blocks::<32>(row, importance) {
        let mean_square = sum_of_squares(x) * (2.0 / 32.0);
        let scale = find_scale(x, &weights(x, importance, mean_square));
        let inverse = inverse(scale);
        out.extend(half_bytes(scale));
        out.extend(pack_nibbles(&x.map(|x| nearest_value(inverse * x))));
    }
}

#[inline(always)]
pub(super) fn quantize_iq4_xs(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, importance) in blocks::<SUPER_BLOCK>(row, importance) {
        let mean_square = sum_of_squares(x) * (2.0 / 256.0);
        let mut scales = [0f32; 8];
        for (i, scale) in scales.iter_mut().enumerate() {
            let group = part(x, i);
            *scale = find_scale(group, &weights(group, part_of(importance, i), mean_square));
        }
        let d = -extreme(&scales) / 32.0;
        let inverse_d = inverse(d);
        let (mut high, mut low, mut packed) = (0u16, [0u8; 4], Vec::with_capacity(128));
        for (i, scale) in scales.iter().enumerate() {
            let level = nearest_int(inverse_d * scale).clamp(-32, 31);
            let inverse = inverse(d * level as f32);
            packed.extend(pack_nibbles(&part::<32>(x, i).map(|x| nearest_value(inverse * x))));
            let stored = (level + 32) as u8;
            low[i / 2] |= (stored & 15) << (i % 2 * 4);
            high |= u16::from(stored >> 4) << (2 * i);
        }
        out.extend(half_bytes(d));
        out.extend(high.to_le_bytes());
        out.extend(low);
        out.extend(packed);
    }
}

#[inline(always)]
fn weights(x: &[f32; 32], importance: Option<&[f32; 32]>, mean_square: f32) -> [f32; 32] {
    match importance {
        Some(importance) => weigh(importance, mean_square, x),
        None => squares(x),
    }
}

/// Returns the index of the nearest value.
#[inline(always)]
fn nearest_value(x: f32) -> u8 {
    const LAST: usize = VALUES.len() - 1;
    let above = match x {
        x if x <= value(0) => return 0,
        x if x >= value(LAST as u8) => return LAST as u8,
        // NaN gives the last value, as in ggml's binary search.
        x if x.is_nan() => LAST,
        x => VALUES.iter().position(|&v| x < f32::from(v)).unwrap_or(LAST),
    };
    let (lower, upper) = (f32::from(VALUES[above - 1]), f32::from(VALUES[above]));
    if x - lower < upper - x { above as u8 - 1 } else { above as u8 }
}

/// The least number of which each value after the first is the nearest. In ggml, `x - lower <
/// upper - x` decides between two values.
const BOUNDARIES: [f32; 15] = {
    let mut boundaries = [0f32; 15];
    let mut i = 0;
    while i < 15 {
        let (lower, upper) = (VALUES[i] as f32, VALUES[i + 1] as f32);
        // At the middle the differences are equal. They can also be equal just below.
        let mut least = (lower + upper) / 2.0;
        while least.next_down() - lower >= upper - least.next_down() {
            least = least.next_down();
        }
        boundaries[i] = least;
        i += 1;
    }
    boundaries
};

/// Returns the value nearest to a number that is not NaN, without branches.
#[inline(always)]
fn nearest_of_finite(x: f32) -> f32 {
    let mut nearest = value(0);
    for (i, boundary) in BOUNDARIES.iter().enumerate() {
        let step = f32::from(VALUES[i + 1]) - f32::from(VALUES[i]);
        nearest += if x >= *boundary { step } else { 0.0 };
    }
    nearest
}

/// Returns the scale of a group with the least weighted squared error.
#[inline(always)]
fn find_scale(x: &[f32; 32], weights: &[f32; 32]) -> f32 {
    const TRIES: i32 = 7;
    let max = extreme(x);
    if max.abs() < MIN_ABSMAX {
        return 0.0;
    }
    let mut inverses = [0f32; 16];
    inverses[0] = 1.0 / (-max / value(0));
    for (inverse, step) in inverses[1..].iter_mut().zip(-TRIES..=TRIES) {
        *inverse = (step as f32 + value(0)) / max;
    }
    // The candidates are tried side by side: the sums of each run from left to right.
    let (mut with_x, mut with_value) = ([0f32; 16], [0f32; 16]);
    for (x, w) in x.iter().zip(weights) {
        for (candidate, inverse) in inverses.iter().enumerate() {
            let q = nearest_of_finite(inverse * x);
            let wq = w * q;
            with_x[candidate] += wq * x;
            with_value[candidate] += wq * q;
        }
    }
    let (mut scale, mut best) = (0f32, 0f32);
    for (candidate, (with_x, with_value)) in with_x.into_iter().zip(with_value).enumerate() {
        if candidate == 0 {
            scale = if with_value > 0.0 { with_x / with_value } else { 0.0 };
            best = scale * with_x;
        } else if with_value > 0.0 && with_x * with_x > best * with_value {
            scale = with_x / with_value;
            best = scale * with_x;
        }
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_searches_find_the_nearest_value() {
        let near = |x: f32| [x.next_down().next_down(), x.next_down(), x, x.next_up()];
        let boundaries = BOUNDARIES.into_iter().flat_map(near);
        let values = (0..16).map(value).flat_map(near);
        let between = (-20_000..20_000).map(|n| n as f32 * 0.007);
        for x in boundaries.chain(values).chain(between).chain([f32::MAX, f32::MIN, 0.0]) {
            assert_eq!(nearest_of_finite(x), value(nearest_value(x)), "{x}");
        }
    }
}
