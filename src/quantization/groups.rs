//! The division of a tensor's elements into groups that share a scale.

use crate::quantization::strided_rows::StridedRows;
use crate::tensor::{ChannelAxes, FloatType, Shape};
use std::ops::Range;

/// A division of a tensor's elements, in storage order, into groups that share a scale.
///
/// The elements form rows of equal length, and each row is divided into groups of equal
/// length; the last group of a row may be shorter. Groups are numbered in storage order.
///
/// Groups along an axis that is not the first are strided: elements of one group do not follow
/// each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    elements: u64,
    row: u64,
    group: u64,
    strided: Option<Strided>,
}

/// Groups whose elements lie apart: every `span` elements are divided into runs of `run`
/// elements that belong to the groups in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Strided {
    /// Elements in a row of one group.
    run: u64,
    /// Groups in a span.
    groups: u64,
    /// Elements of all groups that are numbered one after another.
    span: u64,
}

impl Strided {
    fn of(&self, index: u64) -> u64 {
        index / self.span * self.groups + index / self.run % self.groups
    }
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
        Groups { elements, row: row.max(1), group: group.max(1), strided: None }
    }

    /// The output channels of a tensor of `shape`.
    pub(crate) fn channels(shape: &Shape) -> Groups {
        let length = shape.channel_len();
        let contiguous = Groups::new(shape.elements(), length, length);
        let Some((major, _)) = shape.channel_major() else { return contiguous };
        let groups = major.channels();
        let strided = match (shape.channel_axes(), shape.dims()) {
            (ChannelAxes::Second, [_, channels, inner @ ..]) => {
                let run = inner.iter().product();
                Strided { run, groups: *channels, span: shape.elements() }
            }
            (_, [_, rows, columns]) => Strided { run: 1, groups: *columns, span: rows * columns },
            _ => return contiguous,
        };
        let group = shape.elements() / groups.max(1);
        Groups { elements: shape.elements(), row: group, group, strided: Some(strided) }
    }

    /// Whether elements of one group lie apart from each other.
    pub(crate) fn are_strided(&self) -> bool {
        self.strided.is_some()
    }

    /// The groups that the elements of a range lie in; all groups if they are strided.
    pub(crate) fn touched_by(&self, range: &Range<u64>) -> Range<u64> {
        match (self.strided, range.is_empty()) {
            (Some(_), false) => 0..self.count(),
            (None, false) => self.of(range.start)..self.of(range.end - 1) + 1,
            (_, true) => self.of(range.start)..self.of(range.start),
        }
    }

    /// The parts of `range` in which every group has the same number of consecutive elements;
    /// `None` if groups are not strided.
    pub(super) fn strided_rows(&self, range: Range<u64>) -> Option<Vec<StridedRows>> {
        let Strided { run, groups, span } = self.strided?;
        let row = run * groups;
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let span_end = (at / span * span).saturating_add(span).min(range.end);
            let row_end = (at / row * row + row).min(range.end);
            let (rows, count, length) = if at.is_multiple_of(row) && span_end - at >= row {
                ((span_end - at) / row, groups, run)
            } else if at.is_multiple_of(run) && row_end - at >= run {
                (1, (row_end - at) / run, run)
            } else {
                (1, 1, (at / run * run + run).min(range.end) - at)
            };
            let part = StridedRows {
                start: (at - range.start) as usize,
                rows: rows as usize,
                groups: count as usize,
                first_group: self.of(at),
                run: length as usize,
            };
            at += part.elements() as u64;
            parts.push(part);
        }
        Some(parts)
    }

    /// The start of the group that holds element `index`.
    pub(crate) fn group_start(&self, index: u64) -> u64 {
        let in_row = index % self.row;
        index - in_row + in_row / self.group * self.group
    }

    /// Whether every boundary between these groups is also a boundary between `finer` groups.
    pub(crate) fn is_union_of(&self, finer: &Groups) -> bool {
        if self.are_strided() || finer.are_strided() {
            return false;
        }
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
        if let Some(strided) = &self.strided {
            return strided.of(index);
        }
        index / self.row * self.row.div_ceil(self.group) + index % self.row / self.group
    }

    /// The elements around element `index` that follow each other in its group: all elements
    /// of the group unless groups are strided.
    pub fn around(&self, index: u64) -> Range<u64> {
        if let Some(Strided { run, .. }) = self.strided {
            let start = index / run * run;
            return start..(start + run).min(self.elements);
        }
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
            let end = groups.around(at).end.min(range.end);
            let segment = (groups.of(at), at..end);
            at = end;
            Some(segment)
        })
    }

    /// Slices a run of elements of type `dtype` by groups. `bytes` are the little-endian
    /// elements; `start` is the index of the first one in the tensor.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn channels(dims: &[u64], axes: ChannelAxes) -> Groups {
        Groups::channels(&Shape::new(dims).expect("fits").with_channel_axes(axes))
    }

    fn numbers(groups: &Groups, elements: u64) -> Vec<u64> {
        (0..elements).map(|index| groups.of(index)).collect()
    }

    #[test]
    fn strided_groups_are_numbered_by_output_channel() {
        let conv1d = channels(&[2, 3], ChannelAxes::Second);
        assert_eq!((conv1d.count(), conv1d.are_strided()), (3, true));
        assert_eq!(numbers(&conv1d, 6), [0, 1, 2, 0, 1, 2]);
        let transposed = channels(&[2, 3, 2], ChannelAxes::Second);
        assert_eq!(numbers(&transposed, 12), [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]);
        let experts = channels(&[2, 2, 3], ChannelAxes::FirstAndLast);
        assert_eq!((experts.count(), experts.touched_by(&(0..1))), (6, 0..6));
        assert_eq!(numbers(&experts, 12), [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
        for groups in [conv1d, transposed, experts] {
            let segments: Vec<_> = groups.segments(1..6).collect();
            assert_eq!(segments.first().map(|(_, range)| range.start), Some(1));
            assert_eq!(segments.last().map(|(_, range)| range.end), Some(6));
            for (group, elements) in segments {
                assert!(elements.clone().all(|index| groups.of(index) == group));
            }
        }
        assert!(!channels(&[2, 3], ChannelAxes::First).are_strided());
        assert!(!channels(&[0, 3], ChannelAxes::Second).are_strided());
    }
}
