//! Arithmetic shared by the block types, in ggml's order of operations: F32 throughout, sums from
//! left to right, no fused multiply-add.

use half::f16;

/// Number of elements in a super-block, which most types use.
pub(super) const SUPER_BLOCK: usize = 256;

/// Decodes a scale stored as two bytes of F16.
#[inline(always)]
pub(super) fn half(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

/// Encodes a scale as F16.
#[inline(always)]
pub(super) fn half_bytes(x: f32) -> [u8; 2] {
    f16::from_f32(x).to_le_bytes()
}

/// Rounds a scale to F16.
#[inline(always)]
pub(super) fn through_half(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// Returns the nearest integer, ties to even. Adding 1.5·2²³ leaves the integer in the low bits of
/// the significand; values beyond ±2²² wrap, as in ggml.
#[inline(always)]
pub(super) fn nearest_int(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// Returns the integer part of a number from 0 to 2²² − 1. Unlike `as`, which limits numbers that do
/// not fit, this is compiled to vector instructions.
#[inline(always)]
pub(super) fn integer_part(x: f32) -> i32 {
    let nearest = nearest_int(x);
    nearest - i32::from(nearest as f32 > x)
}

/// Returns the nearest integer, ties away from zero, for magnitudes up to 2²² − 1. See
/// [`integer_part`].
#[inline(always)]
pub(super) fn rounded_away(x: f32) -> i32 {
    nearest_int(x.round())
}

/// Returns `1 / x`, or 0 if `x` is 0 or so small that the quotient is infinite. ggml converts
/// infinite quotients to integers, which is undefined behaviour in C; here such blocks become
/// zeros.
#[inline(always)]
pub(super) fn inverse_or_zero(x: f32) -> f32 {
    let inverse = 1.0 / x;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Returns `1 / x`, or 0 if `x` is 0.
#[inline(always)]
pub(super) fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// Returns the sum, from left to right.
#[inline(always)]
pub(super) fn sum(values: impl IntoIterator<Item = f32>) -> f32 {
    values.into_iter().fold(0.0, |sum, x| sum + x)
}

/// Returns the sum of squares, from left to right.
#[inline(always)]
pub(super) fn sum_of_squares(values: &[f32]) -> f32 {
    sum(values.iter().map(|x| x * x))
}

/// Combines elements that may be combined in any order.
#[inline(always)]
fn combine(values: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 8;
    let (vectors, rest) = values.as_chunks::<LANES>();
    let mut lanes = [start; LANES];
    for vector in vectors {
        for (lane, &x) in lanes.iter_mut().zip(vector) {
            *lane = f(*lane, x);
        }
    }
    rest.iter().chain(&lanes).fold(start, |all, &x| f(all, x))
}

/// Returns the largest magnitude. No element is NaN.
#[inline(always)]
pub(super) fn absmax(values: &[f32]) -> f32 {
    combine(values, 0.0, |max, x| if max < x.abs() { x.abs() } else { max })
}

/// Returns the first element with the largest magnitude, including its sign. No element is NaN.
#[inline(always)]
pub(super) fn extreme(values: &[f32]) -> f32 {
    let largest = absmax(values);
    let has_it = |x: &&f32| x.abs() == largest;
    // Zeros of either sign give a positive zero.
    values.iter().find(has_it).copied().filter(|_| largest > 0.0).unwrap_or(0.0)
}

/// Returns the smallest and the largest element. No element is NaN.
#[inline(always)]
pub(super) fn bounds(values: &[f32]) -> (f32, f32) {
    let min = combine(values, f32::MAX, |min, x| if x < min { x } else { min });
    let max = combine(values, -f32::MAX, |max, x| if x > max { x } else { max });
    // Of zeros with different signs, the first counts.
    let sign = |bound: f32| values.iter().find(|&&x| x == bound).copied().unwrap_or(bound);
    (if min == 0.0 { sign(min) } else { min }, if max == 0.0 { sign(max) } else { max })
}

/// Returns the weight of each element's error: its importance, increased for large elements.
/// `mean_square` is that of the surrounding elements.
#[inline(always)]
pub(super) fn weigh<const N: usize>(
    importance: &[f32; N],
    mean_square: f32,
    x: &[f32; N],
) -> [f32; N] {
    let mut weights = [0.0; N];
    for ((weight, importance), x) in weights.iter_mut().zip(importance).zip(x) {
        *weight = importance * (mean_square + x * x).sqrt();
    }
    weights
}

/// Returns the squares of the elements, which are their weights without importance.
#[inline(always)]
pub(super) fn squares<const N: usize>(x: &[f32; N]) -> [f32; N] {
    each(x, |x| x * x)
}

/// The blocks of `N` elements of a row, each with the importance of its elements.
#[inline(always)]
pub(super) fn blocks<'a, const N: usize>(
    row: &'a [f32],
    importance: Option<&'a [f32]>,
) -> impl Iterator<Item = (&'a [f32; N], Option<&'a [f32; N]>)> {
    let mut importance = importance.map(|importance| importance.as_chunks::<N>().0.iter());
    let blocks = row.as_chunks::<N>().0.iter();
    blocks.map(move |block| (block, importance.as_mut().and_then(Iterator::next)))
}

/// Applies `f` to each element. Unlike `array::map`, it is compiled for the caller's instructions.
#[inline(always)]
pub(super) fn each<const N: usize, T: Copy + Default>(
    x: &[f32; N],
    f: impl Fn(f32) -> T,
) -> [T; N] {
    let mut out = [T::default(); N];
    for (out, &x) in out.iter_mut().zip(x) {
        *out = f(x);
    }
    out
}

/// Returns part `i` of a block that is divided into parts of `N` elements.
#[inline(always)]
pub(super) fn part<const N: usize>(block: &[f32], i: usize) -> &[f32; N] {
    block.as_chunks::<N>().0.get(i).unwrap_or(&[0.0; N])
}

/// Returns the importance of part `i` of a block.
#[inline(always)]
pub(super) fn part_of<const N: usize, const BLOCK: usize>(
    importance: Option<&[f32; BLOCK]>,
    i: usize,
) -> Option<&[f32; N]> {
    importance.map(|importance| part(importance, i))
}

/// Returns the 32 nibbles of 16 bytes, low nibbles first.
#[inline(always)]
pub(super) fn nibbles(bytes: &[u8]) -> [u8; 32] {
    let mut nibbles = [0; 32];
    let (low, high) = nibbles.split_at_mut(16);
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
    nibbles
}

/// Packs 32 values of four bits into 16 bytes, low nibbles first.
#[inline(always)]
pub(super) fn pack_nibbles(levels: &[u8]) -> [u8; 16] {
    std::array::from_fn(|i| levels[i] & 15 | levels[i + 16] << 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_integer_is_even_at_ties() {
        for (x, nearest) in
            [(0.5, 0), (1.5, 2), (-2.5, -2), (2.6, 3), (-0.4, 0), (4_000_000.0, 4_000_000)]
        {
            assert_eq!(nearest_int(x), nearest, "{x}");
        }
    }

    #[test]
    fn numbers_become_integers_as_by_a_conversion() {
        let near = |x: f32| [x.next_down(), x, x.next_up()];
        for x in (0..=1024).flat_map(|n| near(n as f32 * 0.25)).chain([4_194_302.5, 4_194_303.0]) {
            for x in [x, -x] {
                assert_eq!(rounded_away(x), x.round() as i32, "{x}");
            }
            assert_eq!(integer_part(x.abs()), x.abs() as i32, "{x}");
        }
    }

    #[test]
    fn the_inverse_of_a_subnormal_is_zero() {
        assert_eq!(inverse_or_zero(0.0), 0.0);
        assert_eq!(inverse_or_zero(1e-41), 0.0);
        assert_eq!(inverse_or_zero(-4.0), -0.25);
    }
}
