//! Ranges of the groups in a band of rows.

/// Returns the smallest and the largest element of each group of `group` columns over all `rows`.
#[inline(always)]
pub(super) fn ranges(x: &[f32], columns: usize, group: usize, ranges: &mut Vec<(f32, f32)>) {
    ranges.clear();
    ranges.resize(columns.div_ceil(group.max(1)), (0.0, 0.0));
    for row in x.chunks(columns.max(1)) {
        for (range, x) in ranges.iter_mut().zip(row.chunks(group.max(1))) {
            let (min, max) = range_of(x);
            *range = (range.0.min(min), range.1.max(max));
        }
    }
}

/// Number of elements compared in parallel.
const LANES: usize = 16;

/// Returns the smallest and the largest element, with zero included.
#[inline(always)]
fn range_of(x: &[f32]) -> (f32, f32) {
    let (whole, rest) = x.as_chunks::<LANES>();
    let (mut low, mut high) = ([0f32; LANES], [0f32; LANES]);
    for x in whole {
        for i in 0..LANES {
            low[i] = if x[i] < low[i] { x[i] } else { low[i] };
            high[i] = if x[i] > high[i] { x[i] } else { high[i] };
        }
    }
    let all = |lanes: [f32; LANES], pick: fn(f32, f32) -> f32| {
        lanes.into_iter().chain(rest.iter().copied()).fold(0.0, pick)
    };
    (all(low, f32::min), all(high, f32::max))
}
