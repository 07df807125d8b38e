//! IQ1_S and IQ1_M: groups of eight elements are points of a grid over the values −1, 0 and 1, all
//! shifted up or down by an eighth.

use crate::quantization::ggml::arithmetic::{
    SUPER_BLOCK, absmax, blocks, half, half_bytes, part, part_of, squares, sum_of_squares, weigh,
};
use crate::quantization::ggml::grids;
use crate::quantization::ggml::lattice::{Lattice, OddScales};
use half::f16;
use std::sync::LazyLock;

static IQ1: LazyLock<Lattice<8>> = LazyLock::new(|| Lattice::new(&grids::IQ1, 2, 2, 3));

/// The shift of the values.
const DELTA: f32 = 0.125;

/// The three levels, shifted up and shifted down.
const SHIFTED_UP: [f32; 3] = [-1.0 + DELTA, DELTA, 1.0 + DELTA];
const SHIFTED_DOWN: [f32; 3] = [-1.0 - DELTA, -DELTA, 1.0 - DELTA];

/// The threshold of each type below which a block is stored as zeros.
const MIN_ABSMAX_IQ1_S: f32 = 1e-12;
const MIN_ABSMAX_IQ1_M: f32 = 1e-7;

fn decode_point(point: usize, down: bool, scale: f32, out: &mut [f32]) {
    let code = grids::IQ1.get(point).copied().unwrap_or(0);
    let delta = if down { -DELTA } else { DELTA };
    for (i, out) in out.iter_mut().enumerate() {
        *out = scale * (f32::from(code >> (2 * i) & 3) - 1.0 + delta);
    }
}

pub(super) fn decode_iq1_s(block: &[u8; 50], out: &mut [f32; SUPER_BLOCK]) {
    let d = half(block[0], block[1]);
    let (low, high) = (&block[2..34], &block[34..]);
    for (i, out) in out.chunks_mut(8).enumerate() {
        let at = i / 4 * 2;
        let high = u16::from_le_bytes([high[at], high[at + 1]]);
        let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
        let point = usize::from(low[i]) | usize::from(high >> (i % 4 * 3) & 7) << 8;
        decode_point(point, high & 0x8000 != 0, scale, out);
    }
}

pub(super) fn decode_iq1_m(block: &[u8; 56], out: &mut [f32; SUPER_BLOCK]) {
    let (low, high) = (&block[..32], &block[32..48]);
    let scales = iq1_m_scales(&block[48..]);
    let d = iq1_m_super_scale(&scales);
    for (i, out) in out.chunks_mut(8).enumerate() {
        let level = scales[i / 8] >> (i % 8 / 2 * 3) & 7;
        let high = high[i / 2] >> (i % 2 * 4);
        let point = usize::from(low[i]) | usize::from(high & 7) << 8;
        decode_point(point, high & 8 != 0, d * f32::from(2 * level + 1), out);
    }
}

/// Four words: each holds the scales of four blocks and four bits of the super-block's scale.
fn iq1_m_scales(bytes: &[u8]) -> [u16; 4] {
    std::array::from_fn(|i| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]))
}

fn iq1_m_super_scale(scales: &[u16; 4]) -> f32 {
    let bits = scales.iter().rev().fold(0, |bits, word| bits << 4 | word >> 12);
    f16::from_bits(bits).to_f32()
}

/// The elements of a block in ascending order; ties keep their order.
fn sorted<const N: usize>(x: &[f32; N]) -> [usize; N] {
    let mut order = std::array::from_fn(|i| i);
    order.sort_by(|&a, &b| x[a].partial_cmp(&x[b]).unwrap_or(std::cmp::Ordering::Equal));
    order
}

/// The best partition of a block's sorted elements into three levels.
#[derive(Clone, Copy)]
struct LevelSplit {
    scale: f32,
    /// The start indexes of the second and the third level.
    starts: [usize; 2],
    /// The shift of each group; see the two types.
    shift: usize,
}

impl LevelSplit {
    /// The level of each element.
    fn levels<const N: usize>(&self, order: &[usize; N]) -> [u8; N] {
        let mut levels = [2; N];
        for (rank, &place) in order.iter().enumerate() {
            let [second, third] = self.starts;
            levels[place] = u8::from(rank >= second) + u8::from(rank >= third);
        }
        levels
    }
}

/// Tracks the split with the least error: the largest `with_x² / with_value`.
struct BestSplit {
    score: f32,
    found: Option<LevelSplit>,
}

impl BestSplit {
    fn new() -> Self {
        BestSplit { score: -f32::MAX, found: None }
    }

    /// Considers a split with the sums Σ w·x·q and Σ w·q·q.
    fn offer(&mut self, with_x: f32, with_value: f32, starts: [usize; 2], shift: usize) {
        if with_value > 0.0 && with_x * with_x > self.score * with_value {
            let scale = with_x / with_value;
            self.score = scale * with_x;
            self.found = Some(LevelSplit { scale, starts, shift });
        }
    }
}

/// Returns the points for the levels of a block's groups, and the scale, recomputed if a group was
/// not on the grid. `values` are those of the three levels for each group.
fn points<const N: usize, const GROUPS: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    levels: &[u8; N],
    values: &[&[f32; 3]; GROUPS],
    mut scale: f32,
) -> (f32, [u16; GROUPS]) {
    let mut on_grid = true;
    let points: [u16; GROUPS] = std::array::from_fn(|k| {
        let near = IQ1.near(levels.as_chunks::<8>().0.get(k).unwrap_or(&[0; 8]));
        if near.on_grid {
            return near.first;
        }
        on_grid = false;
        let (x, weights) = (part::<8>(x, k), part::<8>(weights, k));
        let (mut best, mut least) = (near.first, f32::MAX);
        for &point in near.points {
            let mut error = 0f32;
            for ((x, w), &level) in x.iter().zip(weights).zip(IQ1.levels(point)) {
                let difference = scale * values[k][usize::from(level)] - x;
                error += w * difference * difference;
            }
            if error < least {
                (best, least) = (point, error);
            }
        }
        best
    });
    if !on_grid {
        let (mut with_x, mut with_value) = (0f32, 0f32);
        for (k, &point) in points.iter().enumerate() {
            let elements = part::<8>(x, k).iter().zip(part::<8>(weights, k));
            for ((x, w), &level) in elements.zip(IQ1.levels(point)) {
                let q = values[k][usize::from(level)];
                with_x += w * q * x;
                with_value += w * q * q;
            }
        }
        if with_x > 0.0 && with_value > 0.0 {
            scale = with_x / with_value;
        }
    }
    (scale, points)
}

/// A block of 32 elements of IQ1_S.
#[derive(Clone, Copy, Default)]
struct BlockOf32 {
    scale: f32,
    points: [u16; 4],
    down: bool,
}

pub(super) fn quantize_iq1_s(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, importance) in blocks::<SUPER_BLOCK>(row, importance) {
        let mean_square = 2.0 * sum_of_squares(x) / 256.0;
        let blocks: [BlockOf32; 8] = std::array::from_fn(|i| {
            let x = part::<32>(x, i);
            // The type requires an importance; without one all elements are equally important.
            let importance = part_of(importance, i).unwrap_or(&[1.0; 32]);
            iq1_s_block(x, &weigh(importance, mean_square, x))
        });
        let Some(found) = OddScales::new(&blocks.map(|block| block.scale), 7) else {
            out.extend([0; 2]);
            push_iq1_s_points(&blocks, &[0; 8], out);
            continue;
        };
        out.extend(half_bytes(found.scale * 1.125));
        let mut levels = found.levels;
        for (level, block) in levels.iter_mut().zip(&blocks) {
            *level |= u8::from(block.down) << 3;
        }
        push_iq1_s_points(&blocks, &levels, out);
    }
}

fn push_iq1_s_points(blocks: &[BlockOf32; 8], scale_bits: &[u8; 8], out: &mut Vec<u8>) {
    out.extend(blocks.iter().flat_map(|block| block.points).map(|point| point as u8));
    for (block, &scale) in blocks.iter().zip(scale_bits) {
        let high = block.points.iter().rev().fold(0, |high, point| high << 3 | point >> 8);
        out.extend((high | u16::from(scale) << 12).to_le_bytes());
    }
}

fn iq1_s_block(x: &[f32; 32], weights: &[f32; 32]) -> BlockOf32 {
    if absmax(x) < MIN_ABSMAX_IQ1_S {
        return BlockOf32::default();
    }
    let order = sorted(x);
    let Some(split) = iq1_s_split(x, weights, &order) else { return BlockOf32::default() };
    let mut levels = split.levels(&order);
    let (mut scale, mut down) = (split.scale, split.shift == 1);
    if scale < 0.0 {
        levels = levels.map(|level| 2 - level);
        (scale, down) = (-scale, !down);
    }
    let values = if down { &SHIFTED_DOWN } else { &SHIFTED_UP };
    let (scale, points) = points(x, weights, &levels, &[values; 4], scale);
    BlockOf32 { scale, points, down }
}

/// Tries every partition of the sorted elements into three levels, with both shifts. Shift 1 is
/// down.
fn iq1_s_split(x: &[f32; 32], weights: &[f32; 32], order: &[usize; 32]) -> Option<LevelSplit> {
    let (mut sum_x, mut sum_w) = ([0f32; 33], [0f32; 33]);
    for (rank, &place) in order.iter().enumerate() {
        sum_x[rank + 1] = sum_x[rank] + weights[place] * x[place];
        sum_w[rank + 1] = sum_w[rank] + weights[place];
    }
    let mut best = BestSplit::new();
    for second in 0..=32 {
        for third in second..=32 {
            let xs =
                [sum_x[second] - sum_x[0], sum_x[third] - sum_x[second], sum_x[32] - sum_x[third]];
            let ws =
                [sum_w[second] - sum_w[0], sum_w[third] - sum_w[second], sum_w[32] - sum_w[third]];
            for (shift, q) in [SHIFTED_UP, SHIFTED_DOWN].iter().enumerate() {
                let with_x = xs[0] * q[0] + xs[1] * q[1] + xs[2] * q[2];
                let with_value = ws[0] * q[0] * q[0] + ws[1] * q[1] * q[1] + ws[2] * q[2] * q[2];
                best.offer(with_x, with_value, [second, third], shift);
            }
        }
    }
    best.found
}

/// A block of 16 elements of IQ1_M.
#[derive(Clone, Copy, Default)]
struct BlockOf16 {
    scale: f32,
    points: [u16; 2],
    /// Bit 1: the first group is shifted down; bit 0: the second.
    shift: usize,
}

impl BlockOf16 {
    /// The values of the levels in each of the two groups.
    fn values(shift: usize) -> [&'static [f32; 3]; 2] {
        let of = |down: bool| if down { &SHIFTED_DOWN } else { &SHIFTED_UP };
        [of(shift & 2 != 0), of(shift & 1 != 0)]
    }
}

pub(super) fn quantize_iq1_m(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, importance) in blocks::<SUPER_BLOCK>(row, importance) {
        let mean_square = 2.0 * sum_of_squares(x) / 256.0;
        let weights: [[f32; 16]; 16] = std::array::from_fn(|i| {
            let x = part::<16>(x, i);
            match part_of(importance, i) {
                Some(importance) => weigh(importance, mean_square, x),
                None => squares(x),
            }
        });
        let blocks: [BlockOf16; 16] = std::array::from_fn(|i| iq1_m_block(part(x, i), &weights[i]));
        let found = OddScales::new(&blocks.map(|block| block.scale), 7);
        out.extend(blocks.iter().flat_map(|block| block.points).map(|point| point as u8));
        let zeros = found.is_none();
        out.extend(blocks.iter().map(|block| {
            let high = block.points.map(|point| (point >> 8) as u8);
            let shifts = (block.shift as u8 & 2) << 2 | (block.shift as u8 & 1) << 7;
            high[0] | high[1] << 4 | if zeros { 0 } else { shifts }
        }));
        let Some(found) = found else {
            out.extend([0; 8]);
            continue;
        };
        let d = iq1_m_best_super_scale(x, &weights, &blocks, &found);
        let bits = f16::from_f32(d * 1.1125).to_bits();
        for (i, levels) in found.levels.as_chunks::<4>().0.iter().enumerate() {
            let levels = levels.iter().rev().fold(0, |all, &level| all << 3 | u16::from(level));
            out.extend((levels | (bits >> (4 * i) & 15) << 12).to_le_bytes());
        }
    }
}

/// Returns the super-block scale with the least error, given all other choices.
fn iq1_m_best_super_scale(
    x: &[f32; SUPER_BLOCK],
    weights: &[[f32; 16]; 16],
    blocks: &[BlockOf16; 16],
    found: &OddScales<16>,
) -> f32 {
    let (mut with_x, mut with_value) = (0f32, 0f32);
    for (i, (block, &level)) in blocks.iter().zip(&found.levels).enumerate() {
        let values = BlockOf16::values(block.shift);
        let values = block.points.iter().zip(values).flat_map(|(&point, values)| {
            IQ1.levels(point).iter().map(|&level| values[usize::from(level)])
        });
        for ((x, w), value) in part::<16>(x, i).iter().zip(&weights[i]).zip(values) {
            let q = value * f32::from(2 * level + 1);
            with_x += w * q * x;
            with_value += w * q * q;
        }
    }
    if with_value > 0.0 { with_x / with_value } else { found.scale }
}

fn iq1_m_block(x: &[f32; 16], weights: &[f32; 16]) -> BlockOf16 {
    if absmax(x) < MIN_ABSMAX_IQ1_M {
        return BlockOf16::default();
    }
    let order = sorted(x);
    let Some(split) = iq1_m_split(x, weights, &order) else { return BlockOf16::default() };
    let mut levels = split.levels(&order);
    let (mut scale, mut shift) = (split.scale, split.shift);
    if scale < 0.0 {
        levels = levels.map(|level| 2 - level);
        (scale, shift) = (-scale, 3 - shift);
    }
    let (scale, points) = points(x, weights, &levels, &BlockOf16::values(shift), scale);
    BlockOf16 { scale, points, shift }
}

/// Tries every partition of the sorted elements into three levels, with both shifts for each of the
/// two groups of eight.
fn iq1_m_split(x: &[f32; 16], weights: &[f32; 16], order: &[usize; 16]) -> Option<LevelSplit> {
    // Sums over the sorted elements, separately for each group.
    let (mut sum_x, mut sum_w) = ([[0f32; 17]; 2], [[0f32; 17]; 2]);
    for (rank, &place) in order.iter().enumerate() {
        for group in 0..2 {
            let own = place / 8 == group;
            let (x, w) = if own { (weights[place] * x[place], weights[place]) } else { (0.0, 0.0) };
            sum_x[group][rank + 1] = sum_x[group][rank] + x;
            sum_w[group][rank + 1] = sum_w[group][rank] + w;
        }
    }
    // Adjacent levels differ by one, so Σ w·x·q is the total times the third level minus the sums
    // up to the starts of the second and the third level.
    let difference = |q: [f32; 3], i: usize| q[i] * q[i] - q[i + 1] * q[i + 1];
    let mut best = BestSplit::new();
    for second in 0..=16 {
        for third in second..=16 {
            // For each group, shifted up and shifted down.
            let sums: [[(f32, f32); 2]; 2] = std::array::from_fn(|group| {
                let (sum_x, sum_w) = (&sum_x[group], &sum_w[group]);
                let below = sum_x[second] + sum_x[third];
                [SHIFTED_UP, SHIFTED_DOWN].map(|q| {
                    let with_value = sum_w[16] * q[2] * q[2]
                        + sum_w[second] * difference(q, 0)
                        + sum_w[third] * difference(q, 1);
                    (sum_x[16] * q[2] - below, with_value)
                })
            });
            for shift in 0..4 {
                let (first, last) = (sums[0][shift >> 1], sums[1][shift & 1]);
                best.offer(first.0 + last.0, first.1 + last.1, [second, third], shift);
            }
        }
    }
    best.found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_elements_keep_their_order() {
        assert_eq!(sorted(&[1.0, 0.0, 1.0, -0.0, 0.0]), [1, 3, 4, 0, 2]);
    }
}
