//! A run of consecutive elements, ordered by the groups that share a scale.
//!
//! Elements of strided groups lie apart from each other, mostly one by one. Kernels are fast on
//! consecutive elements of one group, so the elements of such a run are transposed before, and
//! the results are transposed back.

use crate::quantization::groups::{GroupSlice, Groups};
use crate::quantization::strided_rows::StridedRows;
use crate::tensor::FloatType;
use std::borrow::Cow;
use std::ops::Range;

/// The order of a run's elements by their groups.
#[derive(Clone, Debug)]
pub(crate) struct GroupOrder {
    groups: Groups,
    range: Range<u64>,
    /// The parts of a run of strided groups; `None` if the elements of groups follow each other.
    strided: Option<Vec<StridedRows>>,
}

impl GroupOrder {
    /// The order of the elements `range` of a tensor.
    pub(crate) fn new(groups: &Groups, range: Range<u64>) -> GroupOrder {
        let strided = groups.strided_rows(range.clone());
        GroupOrder { groups: *groups, range, strided }
    }

    /// Elements of `size` bytes, given in storage order, in the order of groups.
    pub(crate) fn arranged<'b>(&self, size: usize, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        let Some(parts) = &self.strided else { return Cow::Borrowed(bytes) };
        let mut arranged = vec![0; bytes.len()];
        parts.iter().for_each(|part| part.arrange(size, bytes, &mut arranged));
        Cow::Owned(arranged)
    }

    /// Brings elements of `size` bytes from the order of groups back to storage order.
    pub(crate) fn restore(&self, size: usize, bytes: &mut Vec<u8>) {
        let Some(parts) = &self.strided else { return };
        let mut restored = vec![0; bytes.len()];
        parts.iter().for_each(|part| part.restore(size, bytes, &mut restored));
        *bytes = restored;
    }

    /// The groups of the run, as their numbers and the positions of their elements in the order
    /// of groups.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (u64, Range<usize>)> + use<'_> {
        let start = self.range.start;
        let contiguous = match self.strided {
            None => Some(self.groups.segments(self.range.clone())),
            Some(_) => None,
        };
        let position = move |element: u64| element.saturating_sub(start) as usize;
        let contiguous = contiguous.into_iter().flatten();
        let contiguous = contiguous
            .map(move |(group, range)| (group, position(range.start)..position(range.end)));
        let strided = self.strided.iter().flatten().flat_map(|part| {
            let length = part.rows * part.run;
            (0..part.groups).map(move |number| {
                let at = part.start + number * length;
                (part.first_group + number as u64, at..at + length)
            })
        });
        contiguous.chain(strided)
    }

    /// The index in the tensor of the element at a position in the order of groups.
    pub(crate) fn index(&self, position: usize) -> u64 {
        let parts = self.strided.iter().flatten();
        let part = parts.clone().find(|part| position < part.start + part.elements());
        let position = match part {
            None => position,
            Some(part) => {
                let within = position.saturating_sub(part.start);
                let (item, offset) = (within / part.run, within % part.run);
                let (group, row) = (item / part.rows, item % part.rows);
                part.start + (row * part.groups + group) * part.run + offset
            }
        };
        self.range.start + position as u64
    }
}

/// A run of consecutive elements of a tensor, in the order of groups.
#[derive(Clone, Debug)]
pub(crate) struct GroupedRun<'b> {
    pub order: GroupOrder,
    dtype: FloatType,
    bytes: Cow<'b, [u8]>,
}

impl<'b> GroupedRun<'b> {
    /// Orders the elements of a run. `bytes` are little-endian elements of type `dtype`, the
    /// first of which has the index `start` in the tensor.
    pub(crate) fn new(groups: &Groups, start: u64, dtype: FloatType, bytes: &'b [u8]) -> Self {
        let end = start + (bytes.len() / dtype.size()) as u64;
        let order = GroupOrder::new(groups, start..end);
        let bytes = order.arranged(dtype.size(), bytes);
        GroupedRun { order, dtype, bytes }
    }

    pub(crate) fn dtype(&self) -> FloatType {
        self.dtype
    }

    /// The elements of each group. Positions are those in the order of groups.
    pub(crate) fn slices(&self) -> impl Iterator<Item = GroupSlice<'_>> {
        self.order.groups().map(|(group, positions)| {
            let size = self.dtype.size();
            let bytes = self.bytes.get(positions.start * size..positions.end * size);
            let (start, bytes) = (self.order.index(positions.start), bytes.unwrap_or_default());
            GroupSlice { group, start, positions, bytes }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{ChannelAxes, Shape};

    /// Any run of a tensor, in the order of groups and back.
    #[test]
    fn groups_are_brought_together_and_back() {
        for (dims, axes) in [
            (&[5u64, 7][..], ChannelAxes::Second),
            (&[40, 70], ChannelAxes::Second),
            (&[4, 3, 2, 2], ChannelAxes::Second),
            (&[3, 4, 5], ChannelAxes::FirstAndLast),
            (&[3, 4, 5], ChannelAxes::First),
            (&[3, 4, 5], ChannelAxes::FirstTwo),
        ] {
            let shape = Shape::new(dims).expect("fits").with_channel_axes(axes);
            let groups = Groups::channels(&shape);
            let elements = shape.elements();
            for (start, end) in [(0, elements), (1, elements - 1), (7, 8), (3, 29), (13, 60)] {
                let range = start..end.min(elements);
                let bytes: Vec<u8> =
                    range.clone().flat_map(|index| (index as u16).to_le_bytes()).collect();
                let order = GroupOrder::new(&groups, range.clone());
                let arranged = order.arranged(2, &bytes).into_owned();
                let mut seen = 0;
                for (group, positions) in order.groups() {
                    for position in positions {
                        let raw = [arranged[2 * position], arranged[2 * position + 1]];
                        let index = u64::from(u16::from_le_bytes(raw));
                        assert_eq!((order.index(position), groups.of(index)), (index, group));
                        seen += 1;
                    }
                }
                assert_eq!(seen, range.end - range.start, "{dims:?} {axes:?} {range:?}");
                let mut restored = arranged;
                order.restore(2, &mut restored);
                assert_eq!(restored, bytes, "{dims:?} {axes:?} {range:?}");
            }
        }
    }

    #[test]
    fn whole_rows_give_each_group_one_slice() {
        let shape = Shape::new([300, 50]).expect("fits").with_channel_axes(ChannelAxes::Second);
        let order = GroupOrder::new(&Groups::channels(&shape), 0..15_000);
        assert_eq!(order.groups().count(), 50);
        assert!(order.groups().all(|(_, positions)| positions.len() == 300));
    }
}
