//! The K-quants Q2_K to Q6_K, and Q8_K: super-blocks of 256 elements in groups of 16 or 32 with
//! quantized scales.

use crate::quantization::ggml::arithmetic::{
    SUPER_BLOCK, blocks, each, extreme, half, half_bytes, nearest_int, part, part_of, squares, sum,
    sum_of_squares, through_half, weigh,
};
use crate::quantization::ggml::search::{
    LevelsAboveMin, MIN_ABSMAX, MinSearch, SymmetricLevels, positive, symmetric, three_bits,
};

/// Returns the two bits of each element in group `i` of sixteen. They are stored as two times four
/// planes of 32 bytes.
#[inline(always)]
fn two_bits(bytes: &[u8], i: usize) -> [u8; 16] {
    let mut elements = [0; 16];
    for (element, byte) in elements.iter_mut().zip(&bytes[i / 8 * 32 + i % 2 * 16..]) {
        *element = byte >> (i % 8 / 2 * 2) & 3;
    }
    elements
}

/// Packs the low two bits of 256 levels in the layout of [`two_bits`].
#[inline(always)]
fn pack_two_bits(levels: impl Fn(usize) -> u8) -> [u8; 64] {
    let mut bytes = [0; 64];
    for e in 0..SUPER_BLOCK {
        bytes[e / 128 * 32 + e % 32] |= (levels(e) & 3) << (e % 128 / 32 * 2);
    }
    bytes
}

/// Returns the nibbles of group `i` of eight: alternately the low and the high ones of 32 bytes.
#[inline(always)]
fn k_nibbles(bytes: &[u8], i: usize) -> [u8; 32] {
    let mut elements = [0; 32];
    for (element, byte) in elements.iter_mut().zip(&bytes[i / 2 * 32..]) {
        *element = byte >> (i % 2 * 4) & 15;
    }
    elements
}

/// Packs the low four bits of 256 levels in the layout of [`k_nibbles`].
#[inline(always)]
fn pack_k_nibbles(levels: &[u8; SUPER_BLOCK]) -> [u8; 128] {
    let mut bytes = [0; 128];
    for (e, level) in levels.iter().enumerate() {
        bytes[e / 64 * 32 + e % 32] |= (level & 15) << (e % 64 / 32 * 4);
    }
    bytes
}

#[inline(always)]
pub(super) fn decode_q2_k(block: &[u8; 84], out: &mut [f32; SUPER_BLOCK]) {
    let (scales, qs) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half(block[80], block[81]), half(block[82], block[83]));
    for ((i, out), scale) in out.chunks_mut(16).enumerate().zip(scales) {
        let (dl, ml) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
        for (q, out) in two_bits(qs, i).into_iter().zip(out) {
            *out = dl * f32::from(q) - ml;
        }
    }
}

#[inline(always)]
pub(super) fn quantize_q2_k(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, importance) in blocks::<SUPER_BLOCK>(row, importance) {
        let search = MinSearch {
            max_level: 3,
            first: -0.5,
            step: 0.1,
            steps: 15,
            absolute_errors: true,
            limit_before_rounding: false,
        };
        let mean_square = sum_of_squares(x) / 256.0;
        let mut groups = [WeightedGroup::<16>::EMPTY; 16];
        for (i, group) in groups.iter_mut().enumerate() {
            let x = part::<16>(x, i);
            *group = match part_of(importance, i) {
                Some(importance) => WeightedGroup::weighted(x, importance, mean_square, 3),
                None => WeightedGroup::new(search.run(x, &each(x, f32::abs)), 0.0),
            };
        }
        let header = match importance {
            Some(_) => SuperScales::weighted(&groups, 15),
            None => SuperScales::of_largest(&groups, 15),
        };
        let (d, dmin) = (through_half(header.d), through_half(header.dmin));
        let mut levels = [0; SUPER_BLOCK];
        for (i, group) in groups.iter().enumerate() {
            let scale = d * f32::from(header.scales[i] & 15);
            let min = dmin * f32::from(header.mins[i] & 15);
            put(&mut levels, i, group.rounded(part(x, i), scale, min, 3));
        }
        out.extend::<[u8; 16]>(std::array::from_fn(|i| header.scales[i] | header.mins[i] << 4));
        out.extend(pack_two_bits(|e| levels[e]));
        out.extend(half_bytes(header.d));
        out.extend(half_bytes(header.dmin));
    }
}

/// Returns scale `i` of sixteen 6-bit scales: the low four bits are in eight bytes, the high two in
/// four.
#[inline(always)]
fn q3_k_scale(packed: &[u8], i: usize) -> f32 {
    let low = packed[i % 8] >> (i / 8 * 4) & 15;
    let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
    f32::from((low | high << 4) as i8 - 32)
}

#[inline(always)]
pub(super) fn decode_q3_k(block: &[u8; 110], out: &mut [f32; SUPER_BLOCK]) {
    let (mask, qs, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block[108], block[109]);
    for (i, out) in out.chunks_mut(16).enumerate() {
        let d = d * q3_k_scale(packed, i);
        for ((low, mask), out) in two_bits(qs, i).iter().zip(&mask[i % 2 * 16..]).zip(out) {
            // The third bit is stored inverted.
            let third = mask >> (i / 2) & 1 ^ 1;
            *out = d * f32::from(*low as i8 - (third << 2) as i8);
        }
    }
}

#[inline(always)]
pub(super) fn quantize_q3_k(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, importance) in blocks::<SUPER_BLOCK>(row, importance) {
        let (groups, d, stored) = match importance {
            Some(importance) => q3_k_weighted(x, importance),
            None => q3_k_unweighted(x),
        };
        let mut packed = [0u8; 12];
        for (i, scale) in stored.iter().enumerate() {
            packed[i % 8] |= (scale & 15) << (i / 8 * 4);
            packed[8 + i % 4] |= scale >> 4 << (i / 4 * 2);
        }
        let mut levels = [0; SUPER_BLOCK];
        for (i, group) in groups.iter().enumerate() {
            let scale = through_half(d) * q3_k_scale(&packed, i);
            put(&mut levels, i, rounded_symmetric(group, part(x, i), scale, 4));
        }
        let mut mask = [0u8; 32];
        for (e, level) in levels.iter().enumerate() {
            mask[e % 32] |= level >> 2 << (e / 32);
        }
        out.extend(mask);
        out.extend(pack_two_bits(|e| levels[e]));
        out.extend(packed);
        out.extend(half_bytes(d));
    }
}

/// The groups of a super-block, the scale of their scales, and their scales plus 32.
type SymmetricGroups = ([SymmetricLevels<16>; 16], f32, [u8; 16]);

#[inline(always)]
fn q3_k_weighted(x: &[f32; SUPER_BLOCK], importance: &[f32; SUPER_BLOCK]) -> SymmetricGroups {
    let mean_square = 2.0 * sum_of_squares(x) / 256.0;
    let weights: [[f32; 16]; 16] =
        std::array::from_fn(|i| weigh(part(importance, i), mean_square, part(x, i)));
    let mut groups = [SymmetricLevels::<16>::EMPTY; 16];
    for (i, group) in groups.iter_mut().enumerate() {
        *group = symmetric(part(x, i), &weights[i], 4);
    }
    let scales = std::array::from_fn(|i| groups[i].scale);
    let found = symmetric(&scales, &weights.map(sum), 32);
    (groups, found.scale, found.levels)
}

#[inline(always)]
fn q3_k_unweighted(x: &[f32; SUPER_BLOCK]) -> SymmetricGroups {
    let groups = three_bits(x);
    let max = extreme(&std::array::from_fn::<_, 16, _>(|i| groups[i].scale));
    if max == 0.0 {
        // Zero bits represent a scale of −32.
        return (groups, 0.0, [0; 16]);
    }
    let inverse = -32.0 / max;
    let stored = std::array::from_fn(|i| {
        let level = nearest_int(inverse * groups[i].scale) as i8;
        (level.clamp(-32, 31) + 32) as u8
    });
    (groups, 1.0 / inverse, stored)
}

/// Returns scale and minimum `i` of eight, six bits each, stored in 12 bytes.
#[inline(always)]
fn scale_and_min(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, min) = match i {
        0..4 => (packed[i] & 63, packed[i + 4] & 63),
        _ => {
            let low = packed[i + 4];
            (low & 15 | packed[i - 4] >> 2 & 48, low >> 4 | packed[i] >> 2 & 48)
        }
    };
    (scale.into(), min.into())
}

/// Packs scales and minima in the layout of [`scale_and_min`].
#[inline(always)]
fn pack_scales_and_mins(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for i in 0..4 {
        packed[i] = scales[i] | scales[i + 4] >> 4 << 6;
        packed[i + 4] = mins[i] | mins[i + 4] >> 4 << 6;
        packed[i + 8] = scales[i + 4] & 15 | mins[i + 4] << 4;
    }
    packed
}

#[inline(always)]
pub(super) fn decode_q4_k(block: &[u8; 144], out: &mut [f32; SUPER_BLOCK]) {
    let (d, dmin) = (half(block[0], block[1]), half(block[2], block[3]));
    let (packed, qs) = (&block[4..16], &block[16..]);
    for (i, out) in out.chunks_mut(32).enumerate() {
        let (scale, min) = scale_and_min(packed, i);
        let (d, m) = (d * scale, dmin * min);
        for (q, out) in k_nibbles(qs, i).into_iter().zip(out) {
            *out = d * f32::from(q) - m;
        }
    }
}

#[inline(always)]
pub(super) fn decode_q5_k(block: &[u8; 176], out: &mut [f32; SUPER_BLOCK]) {
    let (d, dmin) = (half(block[0], block[1]), half(block[2], block[3]));
    let (packed, high, qs) = (&block[4..16], &block[16..48], &block[48..]);
    for (i, out) in out.chunks_mut(32).enumerate() {
        let (scale, min) = scale_and_min(packed, i);
        let (d, m) = (d * scale, dmin * min);
        for ((low, high), out) in k_nibbles(qs, i).iter().zip(high).zip(out) {
            *out = d * f32::from(low | (high >> i & 1) << 4) - m;
        }
    }
}

#[inline(always)]
pub(super) fn quantize_q4_k(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    let search = MinSearch {
        max_level: 15,
        first: -1.0,
        step: 0.1,
        steps: 20,
        absolute_errors: false,
        limit_before_rounding: false,
    };
    for (x, importance) in blocks::<SUPER_BLOCK>(row, importance) {
        let found = scales_mins_and_levels(&search, x, importance);
        out.extend(found.header);
        out.extend(pack_k_nibbles(&found.levels));
    }
}

#[inline(always)]
pub(super) fn quantize_q5_k(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    let search = MinSearch {
        max_level: 31,
        first: -0.5,
        step: 0.1,
        steps: 15,
        absolute_errors: false,
        limit_before_rounding: false,
    };
    for (x, importance) in blocks::<SUPER_BLOCK>(row, importance) {
        let found = scales_mins_and_levels(&search, x, importance);
        let mut high = [0u8; 32];
        for (e, level) in found.levels.iter().enumerate() {
            high[e % 32] |= level >> 4 << (e / 32);
        }
        out.extend(found.header);
        out.extend(high);
        out.extend(pack_k_nibbles(&found.levels));
    }
}

/// A super-block of Q4_K or Q5_K.
struct ScalesMinsAndLevels {
    /// The two scales as F16, and the scales and minima of the groups.
    header: [u8; 16],
    levels: [u8; SUPER_BLOCK],
}

/// Quantizes a super-block in groups of 32 with a minimum. `search` finds the groups' scales if
/// there is no importance.
#[inline(always)]
fn scales_mins_and_levels(
    search: &MinSearch,
    x: &[f32; SUPER_BLOCK],
    importance: Option<&[f32; SUPER_BLOCK]>,
) -> ScalesMinsAndLevels {
    let max_level = search.max_level;
    let mean_square = 2.0 * sum_of_squares(x) / 256.0;
    let mut groups = [WeightedGroup::<32>::EMPTY; 8];
    for (i, group) in groups.iter_mut().enumerate() {
        let x = part::<32>(x, i);
        *group = match part_of(importance, i) {
            Some(importance) => WeightedGroup::weighted(x, importance, mean_square, max_level),
            None => {
                let root_mean_square = (sum_of_squares(x) / 32.0).sqrt();
                let weights = each(x, |x| root_mean_square + x.abs());
                WeightedGroup::new(search.run(x, &weights), 0.0)
            }
        };
    }
    let found = match importance {
        Some(_) => SuperScales::weighted(&groups, 63),
        None => SuperScales::of_largest(&groups, 63),
    };
    let packed = pack_scales_and_mins(
        &found.scales.map(|scale| scale.min(63)),
        &found.mins.map(|min| min.min(63)),
    );
    let (d, dmin) = (through_half(found.d), through_half(found.dmin));
    let mut levels = [0; SUPER_BLOCK];
    for (i, group) in groups.iter().enumerate() {
        let (scale, min) = scale_and_min(&packed, i);
        put(&mut levels, i, group.rounded(part(x, i), d * scale, dmin * min, max_level));
    }
    let mut header = [0; 16];
    header[..2].copy_from_slice(&half_bytes(found.d));
    header[2..4].copy_from_slice(&half_bytes(found.dmin));
    header[4..].copy_from_slice(&packed);
    ScalesMinsAndLevels { header, levels }
}

#[inline(always)]
pub(super) fn decode_q6_k(block: &[u8; 210], out: &mut [f32; SUPER_BLOCK]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block[208], block[209]);
    for (i, out) in out.chunks_mut(16).enumerate() {
        let d = d * f32::from(scales[i] as i8);
        let low = &low[i / 8 * 64 + i % 4 * 16..];
        for ((low, high), out) in low.iter().zip(two_bits(high, i)).zip(out) {
            let low = low >> (i % 8 / 4 * 4) & 15;
            *out = d * f32::from((low | high << 4) as i8 - 32);
        }
    }
}

#[inline(always)]
pub(super) fn quantize_q6_k(row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    for (x, importance) in blocks::<SUPER_BLOCK>(row, importance) {
        let mut groups = [SymmetricLevels::<16>::EMPTY; 16];
        for (i, group) in groups.iter_mut().enumerate() {
            let x = part::<16>(x, i);
            let squares = squares(x);
            *group = symmetric(x, part_of(importance, i).unwrap_or(&squares), 32);
        }
        let max = extreme(&std::array::from_fn::<_, 16, _>(|i| groups[i].scale));
        if max.abs() < MIN_ABSMAX {
            out.extend([0; 210]);
            continue;
        }
        let inverse = -128.0 / max;
        let d = 1.0 / inverse;
        let mut scales = [0i8; 16];
        let mut levels = [0; SUPER_BLOCK];
        for (i, group) in groups.iter().enumerate() {
            scales[i] = nearest_int(inverse * group.scale).min(127) as i8;
            let scale = through_half(d) * f32::from(scales[i]);
            put(&mut levels, i, rounded_symmetric(group, part(x, i), scale, 32));
        }
        let mut low = [0u8; 128];
        for (e, level) in levels.iter().enumerate() {
            low[e / 128 * 64 + e % 64] |= (level & 15) << (e % 128 / 64 * 4);
        }
        out.extend(low);
        out.extend(pack_two_bits(|e| levels[e] >> 4));
        out.extend(scales.map(|scale| scale as u8));
        out.extend(half_bytes(d));
    }
}

#[inline(always)]
pub(super) fn decode_q8_k(block: &[u8; 292], out: &mut [f32; SUPER_BLOCK]) {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    // The values are followed by sums of them, which llama.cpp uses.
    for (q, out) in block[4..260].iter().zip(out) {
        *out = d * f32::from(*q as i8);
    }
}

/// A group of elements with a scale, a minimum and a weight.
#[derive(Clone, Copy)]
struct WeightedGroup<const N: usize> {
    found: LevelsAboveMin<N>,
    /// The sum of its elements' weights.
    weight: f32,
}

impl<const N: usize> WeightedGroup<N> {
    const EMPTY: Self = WeightedGroup { found: LevelsAboveMin::EMPTY, weight: 0.0 };

    #[inline(always)]
    fn new(found: LevelsAboveMin<N>, weight: f32) -> Self {
        WeightedGroup { found, weight }
    }

    #[inline(always)]
    fn weighted(x: &[f32; N], importance: &[f32; N], mean_square: f32, max_level: i32) -> Self {
        let weights = weigh(importance, mean_square, x);
        let found = MinSearch::weighted(max_level).run(x, &weights);
        WeightedGroup { found, weight: sum(weights) }
    }

    /// Returns the levels of the elements for the stored scale and minimum. If the stored scale is
    /// zero, keeps those of the search.
    #[inline(always)]
    fn rounded(&self, x: &[f32; N], scale: f32, min: f32, max_level: i32) -> [u8; N] {
        if scale == 0.0 {
            self.found.levels
        } else {
            each(x, |x| nearest_int((x + min) / scale).clamp(0, max_level) as u8)
        }
    }
}

/// The scales and minima of a super-block's groups, quantized.
struct SuperScales<const GROUPS: usize> {
    d: f32,
    dmin: f32,
    scales: [u8; GROUPS],
    mins: [u8; GROUPS],
}

impl<const GROUPS: usize> SuperScales<GROUPS> {
    /// Quantizes so that the largest scale and the largest minimum become `max_level`.
    #[inline(always)]
    fn of_largest<const N: usize>(groups: &[WeightedGroup<N>; GROUPS], max_level: u8) -> Self {
        let max_level = f32::from(max_level);
        let quantize = |values: [f32; GROUPS]| {
            let max = values.iter().fold(0f32, |max, &x| if x > max { x } else { max });
            let inverse = if max > 0.0 { max_level / max } else { 0.0 };
            (max / max_level, values.map(|x| nearest_int(inverse * x) as u8))
        };
        let (d, scales) = quantize(std::array::from_fn(|i| groups[i].found.scale));
        let (dmin, mins) = quantize(std::array::from_fn(|i| groups[i].found.negative_min));
        SuperScales { d, dmin, scales, mins }
    }

    /// Quantizes scales and minima with the least error, weighted by group.
    #[inline(always)]
    fn weighted<const N: usize>(groups: &[WeightedGroup<N>; GROUPS], max_level: i32) -> Self {
        let weights = std::array::from_fn(|i| groups[i].weight);
        let scales = std::array::from_fn(|i| groups[i].found.scale);
        let mins = std::array::from_fn(|i| groups[i].found.negative_min);
        let (d, scales) = positive(&scales, &weights, max_level);
        let (dmin, mins) = positive(&mins, &weights, max_level);
        SuperScales { d, dmin, scales, mins }
    }
}

/// Returns the levels of the elements for the stored scale. If it is zero, keeps those of the
/// search.
#[inline(always)]
fn rounded_symmetric<const N: usize>(
    found: &SymmetricLevels<N>,
    x: &[f32; N],
    scale: f32,
    max_level: i32,
) -> [u8; N] {
    let level = |x| (nearest_int(x / scale).clamp(-max_level, max_level - 1) + max_level) as u8;
    if scale == 0.0 { found.levels } else { each(x, level) }
}

/// Writes the levels of group `i` to their position.
#[inline(always)]
fn put<const N: usize>(levels: &mut [u8; SUPER_BLOCK], i: usize, group: [u8; N]) {
    if let Some(place) = levels.as_chunks_mut().0.get_mut(i) {
        *place = group;
    }
}
