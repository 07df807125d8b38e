//! IQ2_XXS, IQ2_XS and IQ2_S: groups of eight elements are points of a grid with two bits per
//! element; signs are stored separately.

use crate::quantization::ggml::arithmetic::{
    SUPER_BLOCK, blocks, half, half_bytes, part, part_of, sum_of_squares, weigh,
};
use crate::quantization::ggml::grids;
use crate::quantization::ggml::lattice::{
    BlockFit, BlockSearch, Lattice, Magnitudes, OddScales, Refine, WeightedBlock, even_signs,
};
use crate::quantization::ggml::search::{MIN_ABSMAX, positive};
use std::sync::LazyLock;

static IQ2_XXS: LazyLock<Lattice<8>> = LazyLock::new(|| Lattice::new(&grids::IQ2_XXS, 2, 2, 2));
static IQ2_XS: LazyLock<Lattice<8>> = LazyLock::new(|| Lattice::new(&grids::IQ2_XS, 2, 2, 2));
static IQ2_S: LazyLock<Lattice<8>> = LazyLock::new(|| Lattice::new(&grids::IQ2_S, 2, 2, 1));

/// The threshold below which IQ2_S stores a block as zeros.
const MIN_ABSMAX_IQ2_S: f32 = 1e-8;

/// Decodes a point of eight elements with their signs.
fn decode_point(grid: &[u16], point: usize, signs: u8, scale: f32, out: &mut [f32]) {
    const VALUES: [u8; 4] = [8, 25, 43, 0];
    let code = grid.get(point).copied().unwrap_or(0);
    for (i, out) in out.iter_mut().enumerate() {
        let value = scale * f32::from(VALUES[usize::from(code >> (2 * i) & 3)]);
        *out = if signs >> i & 1 == 1 { -value } else { value };
    }
}

fn block_scale(d: f32, level: u8) -> f32 {
    d * (0.5 + f32::from(level)) * 0.25
}

pub(super) fn decode_iq2_xxs(block: &[u8; 66], out: &mut [f32; SUPER_BLOCK]) {
    let d = half(block[0], block[1]);
    for (qs, out) in block[2..].as_chunks::<8>().0.iter().zip(out.chunks_mut(32)) {
        let packed = u32::from_le_bytes([qs[4], qs[5], qs[6], qs[7]]);
        let scale = block_scale(d, (packed >> 28) as u8);
        for (i, out) in out.chunks_mut(8).enumerate() {
            let signs = even_signs(packed >> (7 * i));
            decode_point(&grids::IQ2_XXS, qs[i].into(), signs, scale, out);
        }
    }
}

pub(super) fn decode_iq2_xs(block: &[u8; 74], out: &mut [f32; SUPER_BLOCK]) {
    let d = half(block[0], block[1]);
    for (i, out) in out.chunks_mut(8).enumerate() {
        let q = u16::from_le_bytes([block[2 + 2 * i], block[3 + 2 * i]]);
        let scale = block_scale(d, block[66 + i / 4] >> (i % 4 / 2 * 4) & 15);
        let signs = even_signs(u32::from(q >> 9));
        decode_point(&grids::IQ2_XS, usize::from(q & 511), signs, scale, out);
    }
}

pub(super) fn decode_iq2_s(block: &[u8; 82], out: &mut [f32; SUPER_BLOCK]) {
    let d = half(block[0], block[1]);
    let (low, signs, high, scales) = (&block[2..], &block[34..], &block[66..], &block[74..]);
    for (i, out) in out.chunks_mut(8).enumerate() {
        let point = usize::from(low[i]) | usize::from(high[i / 4] >> (i % 4 * 2) & 3) << 8;
        let scale = block_scale(d, scales[i / 4] >> (i % 4 / 2 * 4) & 15);
        decode_point(&grids::IQ2_S, point, signs[i], scale, out);
    }
}

/// A block's scale, the points of its groups and their sign bits.
#[derive(Clone, Copy, Default)]
struct Block {
    scale: f32,
    points: [u16; 8],
    signs: [u8; 4],
}

impl Block {
    /// Stored scales have no sign: for a negative scale the elements' signs are flipped. `mask` has
    /// the stored sign bits.
    fn new(fit: BlockFit, signs: [u8; 4], mask: u8) -> Block {
        let BlockFit { scale, points } = fit;
        if scale < 0.0 {
            Block { scale: -scale, points, signs: signs.map(|bits| !bits & mask) }
        } else {
            Block { scale, points, signs }
        }
    }
}

pub(super) fn quantize_iq2_xxs(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    const SEARCH: BlockSearch =
        BlockSearch { max_level: 2, steps: -6..=6, step: 0.1, refine: Refine::Always };
    for (x, importance) in blocks::<SUPER_BLOCK>(row, importance) {
        let mean_square = sum_of_squares(x) / 256.0;
        let blocks: [Block; 8] = std::array::from_fn(|i| {
            let x = part::<32>(x, i);
            let weights = weights(x, part_of(importance, i), mean_square);
            let magnitudes = Magnitudes::even(x, &weights);
            if magnitudes.max() < MIN_ABSMAX {
                return Block::default();
            }
            let (scale, _) = positive(&magnitudes.x, &weights, 4);
            let largest = scale * 3.0;
            if largest <= 0.0 {
                return Block::default();
            }
            let block = WeightedBlock { x: &magnitudes.x, weights: &weights };
            let fit = SEARCH.run(&IQ2_XXS, &block, largest, scale);
            Block::new(fit, magnitudes.signs, 127)
        });
        let Some(found) = OddScales::new(&blocks.map(|block| block.scale), 15) else {
            out.extend([0; 66]);
            continue;
        };
        out.extend(half_bytes(found.scale));
        for (block, level) in blocks.iter().zip(found.levels) {
            let signs = block.signs.iter().rev().fold(0, |all, &s| all << 7 | u32::from(s));
            out.extend(block.points.iter().take(4).map(|&point| point as u8));
            out.extend((signs | u32::from(level) << 28).to_le_bytes());
        }
    }
}

pub(super) fn quantize_iq2_xs(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, importance) in blocks::<SUPER_BLOCK>(row, importance) {
        let mean_square = sum_of_squares(x) / 256.0;
        let blocks: [Block; 16] = std::array::from_fn(|i| {
            let x = part::<16>(x, i);
            let weights = weights(x, part_of(importance, i), mean_square);
            let magnitudes = Magnitudes::even(x, &weights);
            fit_sixteen(&IQ2_XS, &magnitudes, &weights, MIN_ABSMAX, 127)
        });
        let Some(found) = OddScales::new(&blocks.map(|block| block.scale), 15) else {
            out.extend([0; 74]);
            continue;
        };
        out.extend(half_bytes(found.scale));
        for block in &blocks {
            for (point, &signs) in block.points.iter().zip(&block.signs).take(2) {
                out.extend((point | u16::from(signs) << 9).to_le_bytes());
            }
        }
        out.extend(found.levels.as_chunks::<2>().0.iter().map(|[low, high]| low | high << 4));
    }
}

pub(super) fn quantize_iq2_s(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, importance) in blocks::<SUPER_BLOCK>(row, importance) {
        let mean_square = 2.0 * sum_of_squares(x) / 256.0;
        let blocks: [Block; 16] = std::array::from_fn(|i| {
            let x = part::<16>(x, i);
            let weights = match part_of(importance, i) {
                Some(importance) => weigh(importance, mean_square, x),
                None => x.map(|x| 0.25 * mean_square + x * x),
            };
            fit_sixteen(&IQ2_S, &Magnitudes::new(x), &weights, MIN_ABSMAX_IQ2_S, 255)
        });
        let groups = || {
            let of_block = |block: &Block| block.points.into_iter().zip(block.signs).take(2);
            blocks.iter().flat_map(of_block)
        };
        let found = OddScales::new(&blocks.map(|block| block.scale), 15);
        let (d, levels) = found.map_or((0.0, [0; 16]), |found| (found.scale, found.levels));
        let mut high = [0u8; 8];
        for (i, (point, _)) in groups().enumerate() {
            high[i / 4] |= ((point >> 8) as u8) << (i % 4 * 2);
        }
        out.extend(half_bytes(d * 0.9875));
        out.extend(groups().map(|(point, _)| point as u8));
        out.extend(groups().map(|(_, signs)| signs));
        out.extend(high);
        out.extend(levels.as_chunks::<2>().0.iter().map(|[low, high]| low | high << 4));
    }
}

/// These types require an importance; without one all elements are equally important.
fn weights<const N: usize>(
    x: &[f32; N],
    importance: Option<&[f32; N]>,
    mean_square: f32,
) -> [f32; N] {
    weigh(importance.unwrap_or(&[1.0; N]), mean_square, x)
}

fn fit_sixteen(
    lattice: &Lattice<8>,
    magnitudes: &Magnitudes<16>,
    weights: &[f32; 16],
    min_absmax: f32,
    mask: u8,
) -> Block {
    const SEARCH: BlockSearch =
        BlockSearch { max_level: 2, steps: -9..=9, step: 0.1, refine: Refine::OffGrid };
    let max = magnitudes.max();
    if max < min_absmax {
        return Block::default();
    }
    let block = WeightedBlock { x: &magnitudes.x, weights };
    let fit = SEARCH.run(lattice, &block, max, max / 5.0);
    Block::new(fit, magnitudes.signs, mask)
}
