//! The grid points of the IQ types, and the search for a block's scale and points with the least
//! weighted squared error.

use crate::quantization::ggml::arithmetic::nearest_int;
use std::ops::RangeInclusive;
use std::sync::OnceLock;

/// A grid whose points have a level for each of `DIM` elements.
pub(super) struct Lattice<const DIM: usize> {
    bits: u32,
    /// The levels of each point, from 0.
    levels: Vec<[u8; DIM]>,
    /// Twice the level plus one, which IQ2 and IQ3 multiply by the scale.
    values: Vec<[f32; DIM]>,
    /// For each combination of levels, the points nearest to it; filled on first use.
    nearest: Vec<OnceLock<Vec<u16>>>,
    /// Number of smallest distances that count as near.
    shells: usize,
}

impl<const DIM: usize> Lattice<DIM> {
    /// Builds the lattice of `codes` with `bits` bits per element. The largest level is
    /// `max_level`.
    pub(super) fn new(codes: &[u16], bits: u32, max_level: u8, shells: usize) -> Self {
        let levels: Vec<[u8; DIM]> = codes.iter().map(|&code| levels_of(code, bits)).collect();
        let values = levels.iter().map(|levels| levels.map(|l| 2.0 * f32::from(l) + 1.0)).collect();
        let last = (0..DIM as u32).fold(0, |code, i| code | usize::from(max_level) << (bits * i));
        let nearest = (0..=last).map(|_| OnceLock::new()).collect();
        Lattice { bits, levels, values, nearest, shells }
    }

    pub(super) fn levels(&self, point: u16) -> &[u8; DIM] {
        self.levels.get(usize::from(point)).unwrap_or(&[0; DIM])
    }

    fn values(&self, point: u16) -> &[f32; DIM] {
        self.values.get(usize::from(point)).unwrap_or(&[1.0; DIM])
    }

    /// Returns the candidate points for a group with these levels: a single one if the levels are a
    /// point.
    pub(super) fn near(&self, levels: &[u8; DIM]) -> NearPoints<'_> {
        let code = levels.iter().rev().fold(0, |code, &l| code << self.bits | usize::from(l));
        let points = self.nearest.get(code).map(|points| {
            points.get_or_init(|| nearest_points(&self.levels, levels, self.shells)).as_slice()
        });
        let points = points.unwrap_or_default();
        let first = points.first().copied().unwrap_or(0);
        NearPoints { points, first, on_grid: self.levels(first) == levels }
    }

    /// Returns the point for a group: that of its levels, or the near point with the least error.
    fn choose(&self, near: NearPoints, x: &[f32; DIM], weights: &[f32; DIM], scale: f32) -> u16 {
        if near.on_grid {
            return near.first;
        }
        let (mut best, mut least) = (near.first, f32::MAX);
        for &point in near.points {
            let mut error = 0f32;
            for ((x, w), q) in x.iter().zip(weights).zip(self.values(point)) {
                let difference = scale * q - x;
                error += w * difference * difference;
            }
            if error < least {
                (best, least) = (point, error);
            }
        }
        best
    }
}

/// The points of a [`Lattice`] near a group's levels.
pub(super) struct NearPoints<'a> {
    pub points: &'a [u16],
    pub first: u16,
    /// Whether the first point has exactly these levels.
    pub on_grid: bool,
}

fn levels_of<const DIM: usize>(code: u16, bits: u32) -> [u8; DIM] {
    std::array::from_fn(|i| (code >> (bits * i as u32) & ((1 << bits) - 1)) as u8)
}

/// Returns the points at the `shells` smallest distances from `wanted`, sorted by distance, then by
/// index. Only the point itself if `wanted` is a point.
fn nearest_points<const DIM: usize>(
    levels: &[[u8; DIM]],
    wanted: &[u8; DIM],
    shells: usize,
) -> Vec<u16> {
    let distance = |point: &[u8; DIM]| {
        let squares = point.iter().zip(wanted).map(|(&a, &b)| u32::from(a.abs_diff(b)).pow(2));
        squares.sum::<u32>()
    };
    let distances: Vec<u32> = levels.iter().map(distance).collect();
    let mut points = Vec::new();
    let mut beyond = None;
    for _ in 0..shells {
        let farther = distances.iter().filter(|&&d| beyond.is_none_or(|beyond| d > beyond));
        let Some(&shell) = farther.min() else { break };
        points.extend((0u16..).zip(&distances).filter(|&(_, &d)| d == shell).map(|(i, _)| i));
        if shell == 0 {
            break;
        }
        beyond = Some(shell);
    }
    points
}

/// Parameters of the search for a block's scale.
pub(super) struct BlockSearch {
    /// The largest level.
    pub max_level: i32,
    /// Number of scales tried on either side of the first one, and their distance as a fraction of
    /// the largest value.
    pub steps: RangeInclusive<i32>,
    pub step: f32,
    pub refine: Refine,
}

/// The groups whose points are chosen again for the best scale.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Refine {
    /// All groups.
    Always,
    /// All groups, if one of them was not on the grid.
    AllIfOneIsOffGrid,
    /// The groups that were not on the grid.
    OffGrid,
}

/// Maximum number of groups in a block.
const MAX_GROUPS: usize = 8;

/// The scale of a block and the points of its groups.
pub(super) struct BlockFit {
    pub scale: f32,
    pub points: [u16; MAX_GROUPS],
}

/// The elements of a block and the weights of their errors.
pub(super) struct WeightedBlock<'a, const N: usize> {
    /// Magnitudes. Some may be negative if the parity of the signs is fixed.
    pub x: &'a [f32; N],
    pub weights: &'a [f32; N],
}

impl BlockSearch {
    /// Finds scale and points. `largest` is the value that the largest element is mapped to first;
    /// `scale` is returned if no tried scale has a smaller error than zeros.
    pub(super) fn run<const N: usize, const DIM: usize>(
        &self,
        lattice: &Lattice<DIM>,
        block: &WeightedBlock<N>,
        largest: f32,
        mut scale: f32,
    ) -> BlockFit {
        let roots = block.weights.map(f32::sqrt);
        let groups = || {
            let weights = roots.as_chunks::<DIM>().0.iter();
            block.x.as_chunks::<DIM>().0.iter().zip(weights)
        };
        let near = |x: &[f32; DIM], inverse: f32| {
            lattice.near(&x.map(|x| level_of(inverse * x, self.max_level)))
        };
        let mut points = [lattice.near(&[0; DIM]).first; MAX_GROUPS];
        let mut on_grid = [self.refine != Refine::AllIfOneIsOffGrid; MAX_GROUPS];
        let mut best = 0f32;
        for step in self.steps.clone() {
            let max_value = (2 * self.max_level + 1) as f32;
            let inverse = (max_value + step as f32 * self.step) / largest;
            let (mut tried, mut tried_on_grid) = (points, on_grid);
            for (i, (x, weights)) in groups().enumerate().take(MAX_GROUPS) {
                let near = near(x, inverse);
                tried_on_grid[i] = near.on_grid;
                tried[i] = lattice.choose(near, x, weights, 1.0 / inverse);
            }
            let (with_x, with_value) = products(lattice, block, &tried);
            if with_value > 0.0 && with_x * with_x > best * with_value {
                scale = with_x / with_value;
                best = scale * with_x;
                (points, on_grid) = (tried, tried_on_grid);
            }
        }
        let off_grid = on_grid.iter().take(N / DIM).any(|on_grid| !on_grid);
        if (off_grid || self.refine == Refine::Always) && scale > 0.0 {
            let inverse = 1.0 / scale;
            for (i, (x, weights)) in groups().enumerate().take(MAX_GROUPS) {
                if self.refine != Refine::OffGrid || !on_grid[i] {
                    points[i] = lattice.choose(near(x, inverse), x, weights, scale);
                }
            }
            let (with_x, with_value) = products(lattice, block, &points);
            if with_value > 0.0 {
                scale = with_x / with_value;
            }
        }
        BlockFit { scale, points }
    }
}

/// Returns the level whose value `2·level + 1` is nearest.
fn level_of(x: f32, max_level: i32) -> u8 {
    nearest_int(0.5 * (x - 1.0)).clamp(0, max_level) as u8
}

/// Returns Σ w·x·q and Σ w·q·q for the values `q` of the points.
fn products<const N: usize, const DIM: usize>(
    lattice: &Lattice<DIM>,
    block: &WeightedBlock<N>,
    points: &[u16; MAX_GROUPS],
) -> (f32, f32) {
    let (mut with_x, mut with_value) = (0f32, 0f32);
    let values = points.iter().flat_map(|&point| lattice.values(point));
    for ((x, w), q) in block.x.iter().zip(block.weights).zip(values) {
        with_x += w * x * q;
        with_value += w * q * q;
    }
    (with_x, with_value)
}

/// The magnitudes of a block's elements, and the sign bits of each eight elements, the first
/// lowest.
pub(super) struct Magnitudes<const N: usize> {
    pub x: [f32; N],
    pub signs: [u8; 4],
}

impl<const N: usize> Magnitudes<N> {
    pub(super) fn new(x: &[f32; N]) -> Self {
        let mut found = Magnitudes { x: *x, signs: [0; 4] };
        for (i, x) in found.x.iter_mut().enumerate() {
            if *x < 0.0 {
                *x = -*x;
                found.signs[i / 8] |= 1 << (i % 8);
            }
        }
        found
    }

    /// Like [`new`](Self::new), with an even number of negative signs in each eight elements: if it
    /// is odd, the sign with the smallest cost is flipped. Seven of the bits are stored.
    pub(super) fn even(x: &[f32; N], weights: &[f32; N]) -> Self {
        let mut found = Magnitudes::new(x);
        let eights = x.as_chunks::<8>().0.iter().zip(weights.as_chunks::<8>().0);
        let magnitudes = found.x.as_chunks_mut::<8>().0.iter_mut();
        for (((x, weights), magnitudes), signs) in eights.zip(magnitudes).zip(&mut found.signs) {
            if signs.count_ones() % 2 == 1 {
                let cost = |i: usize| weights[i] * x[i] * x[i];
                let least =
                    (1..8).fold(0, |least, i| if cost(i) < cost(least) { i } else { least });
                magnitudes[least] = -magnitudes[least];
                *signs ^= 1 << least;
            }
            *signs &= 127;
        }
        found
    }

    pub(super) fn max(&self) -> f32 {
        let first = self.x.first().copied().unwrap_or(0.0);
        self.x.iter().fold(first, |max, &x| if max > x { max } else { x })
    }
}

/// Decodes seven stored sign bits: the eighth makes the number of set bits even.
pub(super) fn even_signs(stored: u32) -> u8 {
    let bits = (stored & 127) as u8;
    bits | ((bits.count_ones() % 2) as u8) << 7
}

/// The scale of a super-block and the levels of its blocks' scales, which are odd multiples of it:
/// `(2·level + 1)·scale`. `scales` are non-negative.
pub(super) struct OddScales<const BLOCKS: usize> {
    pub scale: f32,
    pub levels: [u8; BLOCKS],
}

impl<const BLOCKS: usize> OddScales<BLOCKS> {
    /// Returns `None` if all scales are zero.
    pub(super) fn new(scales: &[f32; BLOCKS], max_level: i32) -> Option<Self> {
        let max = scales.iter().fold(0f32, |max, &x| if max > x { max } else { x });
        if max == 0.0 {
            return None;
        }
        let scale = max / (2 * max_level + 1) as f32;
        let inverse = 1.0 / scale;
        Some(OddScales { scale, levels: scales.map(|x| level_of(inverse * x, max_level)) })
    }
}
