//! IQ3_XXS and IQ3_S: groups of four elements are points of a grid with three bits per element;
//! signs are stored separately.

use crate::quantization::ggml::arithmetic::{
    SUPER_BLOCK, blocks, half, half_bytes, part, part_of, squares, sum_of_squares, weigh,
};
use crate::quantization::ggml::grids;
use crate::quantization::ggml::lattice::{
    BlockSearch, Lattice, Magnitudes, OddScales, Refine, WeightedBlock, even_signs,
};
use std::sync::LazyLock;

static IQ3_XXS: LazyLock<Lattice<4>> = LazyLock::new(|| Lattice::new(&grids::IQ3_XXS, 3, 7, 2));
static IQ3_S: LazyLock<Lattice<4>> = LazyLock::new(|| Lattice::new(&grids::IQ3_S, 3, 7, 3));

/// The threshold below which IQ3_XXS stores a block as zeros.
const MIN_ABSMAX_IQ3_XXS: f32 = 1e-8;

/// The levels of IQ3_XXS, which are not quite evenly spaced.
const IQ3_XXS_VALUES: [u8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];
const IQ3_S_VALUES: [u8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];

/// Decodes a point of four elements; `signs` has their signs in its lowest bits.
fn decode_point(code: u16, values: &[u8; 8], signs: u8, scale: f32, out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let value = scale * f32::from(values[usize::from(code >> (3 * i) & 7)]);
        *out = if signs >> i & 1 == 1 { -value } else { value };
    }
}

pub(super) fn decode_iq3_xxs(block: &[u8; 98], out: &mut [f32; SUPER_BLOCK]) {
    let d = half(block[0], block[1]);
    let (points, packed) = (&block[2..66], &block[66..]);
    for (i, out) in out.chunks_mut(4).enumerate() {
        let at = i / 8 * 4;
        let packed = [packed[at], packed[at + 1], packed[at + 2], packed[at + 3]];
        let packed = u32::from_le_bytes(packed);
        let scale = d * (0.5 + (packed >> 28) as f32) * 0.5;
        let signs = even_signs(packed >> (i % 8 / 2 * 7)) >> (i % 2 * 4);
        let code = grids::IQ3_XXS[usize::from(points[i])];
        decode_point(code, &IQ3_XXS_VALUES, signs, scale, out);
    }
}

pub(super) fn decode_iq3_s(block: &[u8; 110], out: &mut [f32; SUPER_BLOCK]) {
    let d = half(block[0], block[1]);
    let (low, high, signs, scales) = (&block[2..], &block[66..], &block[74..], &block[106..]);
    for (i, out) in out.chunks_mut(4).enumerate() {
        let level = scales[i / 16] >> (i % 16 / 8 * 4) & 15;
        let scale = d * (1.0 + 2.0 * f32::from(level));
        let point = usize::from(low[i]) | usize::from(high[i / 8] >> (i % 8) & 1) << 8;
        let signs = signs[i / 2] >> (i % 2 * 4);
        decode_point(grids::IQ3_S[point], &IQ3_S_VALUES, signs, scale, out);
    }
}

/// A block's scale, the points of its groups and their sign bits.
#[derive(Clone, Copy, Default)]
struct Block {
    scale: f32,
    points: [u16; 8],
    signs: [u8; 4],
}

/// Finds the scale and the points of a block of 32. Stored scales have no sign: for a negative
/// scale the elements' signs are flipped, in the bits of `mask`.
fn fit(
    search: &BlockSearch,
    lattice: &Lattice<4>,
    magnitudes: &Magnitudes<32>,
    weights: &[f32; 32],
    mask: u8,
) -> Block {
    let (max, signs) = (magnitudes.max(), magnitudes.signs);
    let block = WeightedBlock { x: &magnitudes.x, weights };
    let fit = search.run(lattice, &block, max, max / 15.0);
    if fit.scale < 0.0 {
        Block { scale: -fit.scale, points: fit.points, signs: signs.map(|bits| !bits & mask) }
    } else {
        Block { scale: fit.scale, points: fit.points, signs }
    }
}

fn weights(x: &[f32; 32], importance: Option<&[f32; 32]>, mean_square: f32) -> [f32; 32] {
    match importance {
        Some(importance) => weigh(importance, mean_square, x),
        None => squares(x),
    }
}

pub(super) fn quantize_iq3_xxs(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    const SEARCH: BlockSearch =
        BlockSearch { max_level: 7, steps: -15..=15, step: 0.2, refine: Refine::OffGrid };
    for (x, importance) in blocks::<SUPER_BLOCK>(row, importance) {
        let mean_square = 2.0 * sum_of_squares(x) / 256.0;
        let blocks: [Block; 8] = std::array::from_fn(|i| {
            let x = part::<32>(x, i);
            let weights = weights(x, part_of(importance, i), mean_square);
            let magnitudes = Magnitudes::even(x, &weights);
            if magnitudes.max() < MIN_ABSMAX_IQ3_XXS {
                Block::default()
            } else {
                fit(&SEARCH, &IQ3_XXS, &magnitudes, &weights, 127)
            }
        });
        let Some(found) = OddScales::new(&blocks.map(|block| block.scale), 15) else {
            out.extend([0; 98]);
            continue;
        };
        out.extend(half_bytes(found.scale * 1.0125));
        out.extend(blocks.iter().flat_map(|block| block.points).map(|point| point as u8));
        for (block, level) in blocks.iter().zip(found.levels) {
            let signs = block.signs.iter().rev().fold(0, |all, &s| all << 7 | u32::from(s));
            out.extend((signs | u32::from(level) << 28).to_le_bytes());
        }
    }
}

pub(super) fn quantize_iq3_s(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    const SEARCH: BlockSearch =
        BlockSearch { max_level: 7, steps: -9..=9, step: 0.2, refine: Refine::AllIfOneIsOffGrid };
    for (x, importance) in blocks::<SUPER_BLOCK>(row, importance) {
        let mean_square = 2.0 * sum_of_squares(x) / 256.0;
        let is_zero = |i| part::<32>(x, i).iter().all(|&x| x == 0.0);
        let blocks: [Block; 8] = std::array::from_fn(|i| {
            let x = part::<32>(x, i);
            let weights = weights(x, part_of(importance, i), mean_square);
            if is_zero(i) {
                Block::default()
            } else {
                fit(&SEARCH, &IQ3_S, &Magnitudes::new(x), &weights, 255)
            }
        });
        // ggml does not reserve space for the points and signs of a block of zeros: those of the
        // following blocks move up, which changes the elements that they decode to.
        let (zeros, moved): (Vec<usize>, Vec<usize>) = (0..8).partition(|&i| is_zero(i));
        let in_file_order = || moved.iter().chain(&zeros).filter_map(|&i| blocks.get(i));
        let found = OddScales::new(&blocks.map(|block| block.scale), 15);
        let (d, levels) = found.map_or((0.0, [0; 8]), |found| (found.scale, found.levels));
        out.extend(half_bytes(d * 1.033));
        out.extend(in_file_order().flat_map(|block| block.points).map(|point| point as u8));
        out.extend(blocks.iter().map(|block| {
            let high_bits = block.points.iter().enumerate();
            high_bits.fold(0, |bits, (i, point)| bits | ((point >> 8) as u8) << i)
        }));
        out.extend(in_file_order().flat_map(|block| block.signs));
        out.extend(levels.as_chunks::<2>().0.iter().map(|[low, high]| low | high << 4));
    }
}
