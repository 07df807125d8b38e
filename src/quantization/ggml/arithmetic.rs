//! Arithmetic shared by the block types, in ggml's order of operations: F32 throughout, sums from
//! left to right, no fused multiply-add.

use half::f16;

/// Number of elements in a super-block, which most types use.
pub(super) const SUPER_BLOCK: usize = 256;

/// Decodes a scale stored as two bytes of F16.
pub(super) fn half(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

/// Encodes a scale as F16.
pub(super) fn half_bytes(x: f32) -> [u8; 2] {
    f16::from_f32(x).to_le_bytes()
}

/// Rounds a scale to F16.
pub(super) fn through_half(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// Returns the nearest integer, ties to even. Adding 1.5·2²³ leaves the integer in the low bits of
/// the significand; values beyond ±2²² wrap, as in ggml.
pub(super) fn nearest_int(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// Returns `1 / x`, or 0 if `x` is 0 or so small that the quotient is infinite. ggml converts
/// infinite quotients to integers, which is undefined behaviour in C; here such blocks become
/// zeros.
pub(super) fn inverse_or_zero(x: f32) -> f32 {
    let inverse = 1.0 / x;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Returns `1 / x`, or 0 if `x` is 0.
pub(super) fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// Returns the sum, from left to right.
pub(super) fn sum(values: impl IntoIterator<Item = f32>) -> f32 {
    values.into_iter().fold(0.0, |sum, x| sum + x)
}

/// Returns the sum of squares, from left to right.
pub(super) fn sum_of_squares(values: &[f32]) -> f32 {
    sum(values.iter().map(|x| x * x))
}

/// Returns the largest magnitude.
pub(super) fn absmax(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max, x| if max < x.abs() { x.abs() } else { max })
}

/// Returns the first element with the largest magnitude, including its sign.
pub(super) fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max: f32, &x| if x.abs() > max.abs() { x } else { max })
}

/// Returns the weight of each element's error: its importance, increased for large elements.
/// `mean_square` is that of the surrounding elements.
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
pub(super) fn squares<const N: usize>(x: &[f32; N]) -> [f32; N] {
    x.map(|x| x * x)
}

/// Calls `f` with each block of `N` elements of a row and the importance of its elements.
pub(super) fn for_each_block<const N: usize>(
    row: &[f32],
    importance: Option<&[f32]>,
    mut f: impl FnMut(&[f32; N], Option<&[f32; N]>),
) {
    let mut importance = importance.map(|importance| importance.as_chunks::<N>().0.iter());
    for block in row.as_chunks::<N>().0 {
        f(block, importance.as_mut().and_then(Iterator::next));
    }
}

/// Returns part `i` of a block that is divided into parts of `N` elements.
pub(super) fn part<const N: usize>(block: &[f32], i: usize) -> &[f32; N] {
    block.as_chunks::<N>().0.get(i).unwrap_or(&[0.0; N])
}

/// Returns the importance of part `i` of a block.
pub(super) fn part_of<const N: usize, const BLOCK: usize>(
    importance: Option<&[f32; BLOCK]>,
    i: usize,
) -> Option<&[f32; N]> {
    importance.map(|importance| part(importance, i))
}

/// Returns nibble `e` of 32 nibbles in 16 bytes, low nibbles first.
pub(super) fn nibble(bytes: &[u8], e: usize) -> u8 {
    bytes[e % 16] >> (4 * (e / 16)) & 15
}

/// Packs 32 values of four bits into 16 bytes, low nibbles first.
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
    fn the_inverse_of_a_subnormal_is_zero() {
        assert_eq!(inverse_or_zero(0.0), 0.0);
        assert_eq!(inverse_or_zero(1e-41), 0.0);
        assert_eq!(inverse_or_zero(-4.0), -0.25);
    }
}
