//! Rows of strided groups: transposing them brings the elements of each group together.

/// Rows and columns that are transposed at a time: few enough for their lines to stay in the
/// cache.
const TILE: usize = 32;

/// Rows of a run in which every strided group has `run` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StridedRows {
    /// The position of the first element in the run.
    pub start: usize,
    pub rows: usize,
    pub groups: usize,
    /// The number of the first group.
    pub first_group: u64,
    /// Consecutive elements of one group.
    pub run: usize,
}

impl StridedRows {
    pub(super) fn elements(&self) -> usize {
        self.rows * self.groups * self.run
    }

    /// Copies elements of `size` bytes from storage order to the order of groups.
    pub(super) fn arrange(&self, size: usize, from: &[u8], to: &mut [u8]) {
        self.copy(size, from, to, (self.rows, self.groups));
    }

    /// Copies elements of `size` bytes from the order of groups to storage order.
    pub(super) fn restore(&self, size: usize, from: &[u8], to: &mut [u8]) {
        self.copy(size, from, to, (self.groups, self.rows));
    }

    fn copy(&self, size: usize, from: &[u8], to: &mut [u8], (rows, columns): (usize, usize)) {
        let bytes = self.start * size..(self.start + self.elements()) * size;
        if let (Some(from), Some(to)) = (from.get(bytes.clone()), to.get_mut(bytes)) {
            transpose(from, self.run * size, rows, columns, to);
        }
    }
}

/// Transposes a matrix whose items are `unit` bytes long.
pub(super) fn transpose(from: &[u8], unit: usize, rows: usize, columns: usize, to: &mut [u8]) {
    match unit {
        _ if rows == 1 || columns == 1 => to.copy_from_slice(from),
        1 => transpose_items::<1>(from, rows, columns, to),
        2 => transpose_items::<2>(from, rows, columns, to),
        4 => transpose_items::<4>(from, rows, columns, to),
        8 => transpose_items::<8>(from, rows, columns, to),
        _ => {
            let items = from.chunks_exact(unit.max(1)).enumerate();
            for (at, item) in items {
                let place = (at % columns * rows + at / columns) * unit;
                if let Some(to) = to.get_mut(place..place + unit) {
                    to.copy_from_slice(item);
                }
            }
        }
    }
}

fn transpose_items<const N: usize>(from: &[u8], rows: usize, columns: usize, to: &mut [u8]) {
    let (from, to) = (from.as_chunks::<N>().0, to.as_chunks_mut::<N>().0);
    for top in (0..rows).step_by(TILE) {
        let bottom = (top + TILE).min(rows);
        for left in (0..columns).step_by(TILE) {
            for column in left..(left + TILE).min(columns) {
                let Some(to) = to.get_mut(column * rows + top..column * rows + bottom) else {
                    return;
                };
                for (row, to) in (top..bottom).zip(to) {
                    if let Some(item) = from.get(row * columns + column) {
                        *to = *item;
                    }
                }
            }
        }
    }
}
