//! The division of a tensor's elements into groups that share a scale.

use crate::tensor::FloatType;
use std::ops::Range;

/// A division of a tensor's elements, in storage order, into groups that share a scale.
///
/// The elements form rows of equal length, and each row is divided into groups of equal
/// length; the last group of a row may be shorter. Groups are numbered in storage order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    elements: u64,
    row: u64,
    group: u64,
}

/// The intersection of a group with a run of consecutive elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSlice<'b> {
    /// The number of the group.
    pub group: u64,
    /// The index in the tensor of the first element of the slice.
    pub start: u64,
    /// The indices of the slice's elements within the run.
    pub positions: Range<usize>,
    /// The little-endian elements.
    pub bytes: &'b [u8],
}

impl Groups {
    /// Divides `elements` elements into rows of `row` and groups of `group` elements; zero
    /// counts as one.
    pub(crate) fn new(elements: u64, row: u64, group: u64) -> Groups {
        Groups { elements, row: row.max(1), group: group.max(1) }
    }

    /// The start of the group that holds element `index`.
    pub(crate) fn group_start(&self, index: u64) -> u64 {
        let in_row = index % self.row;
        index - in_row + in_row / self.group * self.group
    }

    /// Whether every boundary between these groups is also a boundary between `finer` groups.
    pub(crate) fn is_union_of(&self, finer: &Groups) -> bool {
        let whole_rows = self.group == self.row && self.row.is_multiple_of(finer.row);
        let same_rows = self.row == finer.row && self.group.is_multiple_of(finer.group);
        whole_rows || same_rows
    }

    /// Number of groups, which is the number of scales.
    pub fn count(&self) -> u64 {
        self.elements.div_ceil(self.row) * self.row.div_ceil(self.group)
    }

    /// Number of groups in `elements` elements that start with a group and consist of whole
    /// rows or lie in one row.
    pub(crate) fn count_in(&self, elements: u64) -> usize {
        let rows = elements / self.row * self.row.div_ceil(self.group);
        (rows + (elements % self.row).div_ceil(self.group)) as usize
    }

    /// Elements of a full group.
    pub fn group_len(&self) -> u64 {
        self.group
    }

    /// Elements of a row, whose end no group crosses.
    pub fn row_len(&self) -> u64 {
        self.row
    }

    /// The number of the group that holds element `index`.
    pub fn of(&self, index: u64) -> u64 {
        index / self.row * self.row.div_ceil(self.group) + index % self.row / self.group
    }

    /// The elements of the group that holds element `index`.
    pub fn around(&self, index: u64) -> Range<u64> {
        let start = self.group_start(index);
        let row_end = index / self.row * self.row + self.row;
        start..start.saturating_add(self.group).min(row_end).min(self.elements)
    }

    /// The parts of `range` that lie in one group each, as the group's number and the
    /// elements.
    pub fn segments(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> + use<> {
        let groups = *self;
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let row_start = at / groups.row * groups.row;
            let in_group = (at - row_start) / groups.group + 1;
            let end =
                (row_start + in_group * groups.group).min(row_start + groups.row).min(range.end);
            let segment = (groups.of(at), at..end);
            at = end;
            Some(segment)
        })
    }

    /// Slices a run of elements of type `dtype` by groups. `bytes` are the little-endian
    /// elements, the first of which has the index `start` in the tensor.
    pub fn slices<'b>(
        &self,
        start: u64,
        dtype: FloatType,
        bytes: &'b [u8],
    ) -> impl Iterator<Item = GroupSlice<'b>> + use<'b> {
        let size = dtype.size();
        let end = start + (bytes.len() / size) as u64;
        self.segments(start..end).map(move |(group, elements)| {
            let positions = (elements.start - start) as usize..(elements.end - start) as usize;
            let range = positions.start * size..positions.end * size;
            let bytes = bytes.get(range).unwrap_or_default();
            GroupSlice { group, start: elements.start, positions, bytes }
        })
    }
}
