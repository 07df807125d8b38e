//! Splits element ranges into rows, and provides buffers of floats to decode into.

use std::ops::Range;

/// Returns the rows that a range of elements intersects, each with the columns in the range.
pub(super) fn runs(range: Range<u64>, row_len: u64) -> impl Iterator<Item = (u64, Range<u64>)> {
    let row_len = row_len.max(1);
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let row = at / row_len;
        let start = at - row * row_len;
        let end = row_len.min(range.end - row * row_len);
        at = row * row_len + end;
        Some((row, start..end))
    })
}

/// Returns the columns that a range of elements intersects in any row.
pub(super) fn columns_of(range: &Range<u64>, row_len: u64) -> Range<u64> {
    let row = range.start / row_len.max(1);
    match range.end.checked_sub(row * row_len) {
        Some(end) if end <= row_len => range.start - row * row_len..end,
        _ => 0..row_len,
    }
}

/// Resizes `out` to hold the F32 elements of `range`, and returns them.
pub(super) fn floats<'o>(out: &'o mut Vec<u8>, range: &Range<u64>) -> &'o mut [[u8; 4]] {
    out.resize((range.end.saturating_sub(range.start) as usize).saturating_mul(4), 0);
    out.as_chunks_mut::<4>().0
}

/// Splits the first `count` elements off a slice.
pub(super) fn take<'b, T>(left: &mut &'b mut [T], count: usize) -> &'b mut [T] {
    let whole = std::mem::take(left);
    let (taken, rest) = whole.split_at_mut(count.min(whole.len()));
    *left = rest;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_a_range_row_by_row() {
        let found: Vec<_> = runs(2..13, 5).collect();
        assert_eq!(found, [(0, 2..5), (1, 0..5), (2, 0..3)]);
        assert_eq!(runs(6..8, 5).collect::<Vec<_>>(), [(1, 1..3)]);
        assert_eq!(runs(6..6, 5).count(), 0);
    }
}
