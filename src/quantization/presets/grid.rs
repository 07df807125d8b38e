//! Ranges of the groups in a band of rows.

use crate::quantization::kernels::{LANES, fold, map, zip};

/// Replaces the content of `ranges` by the smallest and the largest element of each group of
/// `group` columns over all rows, with zero included; without `has_signs` by zero and the largest
/// magnitude, which takes less time. Returns whether all elements are finite; if not, the ranges
/// are unspecified.
#[inline(always)]
pub(super) fn ranges(
    x: &[f32],
    columns: usize,
    group: usize,
    has_signs: bool,
    ranges: &mut Vec<(f32, f32)>,
) -> bool {
    ranges.clear();
    ranges.resize(columns.div_ceil(group.max(1)), (0.0, 0.0));
    let mut largest = 0;
    for row in x.chunks(columns.max(1)) {
        for (range, x) in ranges.iter_mut().zip(row.chunks(group.max(1))) {
            let magnitude = largest_magnitude(x);
            largest = largest.max(magnitude);
            if has_signs {
                let (min, max) = range_of(x);
                *range = (range.0.min(min), range.1.max(max));
            } else {
                range.1 = range.1.max(f32::from_bits(magnitude));
            }
        }
    }
    largest < f32::INFINITY.to_bits()
}

/// Returns the bits of the largest magnitude. Those of infinity and NaN are the largest.
#[inline(always)]
fn largest_magnitude(x: &[f32]) -> u32 {
    let add = |largest, x| zip(largest, map(x, |x: f32| x.to_bits() & 0x7FFF_FFFF), u32::max);
    fold(each_step(x, [0; LANES], add), u32::max)
}

/// Returns the smallest and the largest element, with zero included.
#[inline(always)]
fn range_of(x: &[f32]) -> (f32, f32) {
    let low = each_step(x, [0.0; LANES], |low, x| zip(low, x, least));
    let high = each_step(x, [0.0; LANES], |high, x| zip(high, x, greatest));
    (fold(low, least), fold(high, greatest))
}

/// Combines `state` with [`LANES`] elements at a time; the last are padded with zeros.
#[inline(always)]
fn each_step<T>(x: &[f32], mut state: T, add: impl Fn(T, [f32; LANES]) -> T) -> T {
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        state = add(state, *x);
    }
    if rest.is_empty() {
        return state;
    }
    let mut last = [0f32; LANES];
    last.iter_mut().zip(rest).for_each(|(to, &x)| *to = x);
    add(state, last)
}

/// The smaller number; `a` if one of them is NaN.
#[inline(always)]
fn least(a: f32, b: f32) -> f32 {
    if b < a { b } else { a }
}

/// The larger number; `a` if one of them is NaN.
#[inline(always)]
fn greatest(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}
