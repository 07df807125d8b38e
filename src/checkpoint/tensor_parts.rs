//! Tensors stored in parts: each part is a box of the tensor, in its own file or its own byte
//! range.

use crate::checkpoint::strided::StridedView;
use std::ops::Range;

/// Maximum number of parts that are compared pairwise, if they do not lie along one axis.
const PAIRS_LIMIT: usize = 1024;

/// The parts of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorParts {
    /// The dimensions of the whole tensor, and bytes of one element.
    dims: Box<[u64]>,
    size: u64,
    parts: Box<[TensorPart]>,
}

/// One part: its bytes, and its position in the tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorPart {
    /// Index of its file in the checkpoint's list of shards.
    pub shard: u32,
    /// Its byte range in that file.
    pub range: Range<u64>,
    /// The elements' strided view of these bytes; `None` if they are contiguous.
    pub view: Option<StridedView>,
    /// Index of its first element in each dimension of the tensor.
    pub offsets: Box<[u64]>,
    /// Its length in each dimension.
    pub sizes: Box<[u64]>,
}

/// Bytes of a part that intersect a range of the tensor.
pub(crate) struct Overlap {
    /// The offset of the first byte in the part.
    pub from: u64,
    /// The offset of the first byte in the whole tensor.
    pub to: u64,
    pub length: u64,
}

impl TensorParts {
    /// Creates the parts of a tensor of `dims`; an error if they leave gaps or overlap.
    pub(crate) fn new(
        dims: &[u64],
        size: u64,
        parts: Vec<TensorPart>,
    ) -> Result<TensorParts, String> {
        let uncovered = || "its parts do not cover it exactly".to_owned();
        let mut covered = 0u64;
        for part in &parts {
            let mut elements = 1u64;
            if part.offsets.len() != dims.len() || part.sizes.len() != dims.len() {
                return Err(uncovered());
            }
            for ((&dim, &offset), &length) in dims.iter().zip(&part.offsets).zip(&part.sizes) {
                if offset.checked_add(length).is_none_or(|end| end > dim) {
                    return Err(uncovered());
                }
                elements = elements.saturating_mul(length);
            }
            covered = covered.saturating_add(elements);
        }
        let all = dims.iter().try_fold(1u64, |all, &dim| all.checked_mul(dim));
        if all != Some(covered) || overlap(&parts)? {
            return Err(uncovered());
        }
        Ok(TensorParts { dims: dims.into(), size, parts: parts.into() })
    }

    pub(crate) fn parts(&self) -> &[TensorPart] {
        &self.parts
    }

    /// Returns the bytes of a part that intersect bytes `range` of the tensor.
    pub(crate) fn overlaps(
        &self,
        part: &TensorPart,
        range: Range<u64>,
    ) -> impl Iterator<Item = Overlap> + use<> {
        // Treat the bytes of an element as an additional dimension, which no part divides.
        let with_bytes = |dims: &[u64], last: u64| [dims, &[last]].concat();
        let whole = with_bytes(&self.dims, self.size);
        let sizes = with_bytes(&part.sizes, self.size);
        let offsets = with_bytes(&part.offsets, 0);
        // Find the runs of bytes that are contiguous in the tensor as well.
        let divided = (0..whole.len()).rev().find(|&axis| sizes.get(axis) != whole.get(axis));
        let outer = divided.unwrap_or(0);
        let product = |dims: &[u64]| dims.iter().product::<u64>();
        let length = product(sizes.get(outer..).unwrap_or_default());
        let count = product(sizes.get(..outer).unwrap_or_default());
        let start = move |run: u64| {
            let mut rest = run;
            let mut at = 0u64;
            let mut stride = 1u64;
            for axis in (0..whole.len()).rev() {
                let offset = offsets.get(axis).copied().unwrap_or(0);
                let place = if axis < outer {
                    let size = sizes.get(axis).copied().unwrap_or(1).max(1);
                    let place = rest % size;
                    rest /= size;
                    place
                } else {
                    0
                };
                at += (offset + place) * stride;
                stride *= whole.get(axis).copied().unwrap_or(1);
            }
            at
        };
        let (mut low, mut high) = (0, if length == 0 { 0 } else { count });
        while low < high {
            let middle = low + (high - low) / 2;
            if start(middle) + length <= range.start { low = middle + 1 } else { high = middle }
        }
        let runs = low..if length == 0 { 0 } else { count };
        runs.map_while(move |run| {
            let first = start(run);
            let (from, to) = (first.max(range.start), (first + length).min(range.end));
            (from < to).then(|| Overlap {
                from: run * length + (from - first),
                to: from,
                length: to - from,
            })
        })
    }
}

/// Returns whether two parts overlap; an error if there are too many to compare.
fn overlap(parts: &[TensorPart]) -> Result<bool, String> {
    let disjoint = |a: &TensorPart, b: &TensorPart| {
        let ranges = |part: &TensorPart, axis: usize| {
            let offset = part.offsets.get(axis).copied().unwrap_or(0);
            offset..offset + part.sizes.get(axis).copied().unwrap_or(0)
        };
        (0..a.offsets.len()).any(|axis| {
            let (a, b) = (ranges(a, axis), ranges(b, axis));
            a.end <= b.start || b.end <= a.start
        })
    };
    let mut sorted: Vec<&TensorPart> = parts.iter().collect();
    sorted.sort_by(|a, b| a.offsets.cmp(&b.offsets));
    // Along one axis only neighbours can overlap.
    let one_axis = parts.first().is_some_and(|first| {
        let differs = |axis: usize| {
            parts.iter().any(|part| {
                part.offsets.get(axis) != first.offsets.get(axis)
                    || part.sizes.get(axis) != first.sizes.get(axis)
            })
        };
        (0..first.offsets.len()).filter(|&axis| differs(axis)).count() <= 1
    });
    if one_axis {
        return Ok(!sorted.is_sorted_by(|a, b| disjoint(a, b)));
    }
    if parts.len() > PAIRS_LIMIT {
        return Err(format!("it has {} parts, more than {PAIRS_LIMIT}", parts.len()));
    }
    let rest = |place: usize| sorted.get(place + 1..).unwrap_or_default();
    Ok(sorted.iter().enumerate().any(|(i, a)| rest(i).iter().any(|b| !disjoint(a, b))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(offsets: &[u64], sizes: &[u64]) -> TensorPart {
        TensorPart {
            shard: 0,
            range: 0..0,
            view: None,
            offsets: offsets.into(),
            sizes: sizes.into(),
        }
    }

    proptest! {
        /// Checks every range of bytes of small tensors that are cut along a grid.
        #[test]
        fn parts_make_up_the_whole(
            dims in prop::collection::vec(1u64..5, 0..4),
            cuts in prop::collection::vec(0u64..5, 4),
            size in 1u64..4,
            bounds in (0.0f64..=1.0, 0.0f64..=1.0),
        ) {
            let mut boxes = vec![(Vec::new(), Vec::new())];
            for (axis, &dim) in dims.iter().enumerate() {
                let cut = cuts[axis].min(dim);
                let halves = [(0, cut), (cut, dim - cut)];
                boxes = boxes.iter().flat_map(|(offsets, sizes)| {
                    halves.into_iter().filter(|(_, length)| *length > 0).map(move |(offset, length)| {
                        ([offsets as &[u64], &[offset]].concat(), [sizes as &[u64], &[length]].concat())
                    })
                }).collect();
            }
            let parts: Vec<TensorPart> = boxes.iter().map(|(o, s)| part(o, s)).collect();
            let chunks = TensorParts::new(&dims, size, parts).expect("covers");
            let bytes = dims.iter().product::<u64>() * size;
            let bound = |share: f64| (share * bytes as f64) as u64;
            let range = bound(bounds.0.min(bounds.1))..bound(bounds.0.max(bounds.1));
            let mut seen = vec![0; (range.end - range.start) as usize];
            for part in &chunks.parts {
                for overlap in chunks.overlaps(part, range.clone()) {
                    for k in 0..overlap.length {
                        // The position of the byte in the tensor, from its position in the part.
                        let (mut rest, mut at, mut stride) = ((overlap.from + k) / size, 0, 1);
                        for axis in (0..dims.len()).rev() {
                            at += (rest % part.sizes[axis] + part.offsets[axis]) * stride;
                            rest /= part.sizes[axis];
                            stride *= dims[axis];
                        }
                        let at = at * size + (overlap.from + k) % size;
                        prop_assert_eq!(at, overlap.to + k);
                        seen[(at - range.start) as usize] += 1;
                    }
                }
            }
            prop_assert!(seen.iter().all(|&count| count == 1));
        }
    }

    #[test]
    fn parts_that_leave_a_gap_or_overlap_are_refused() {
        let made = |parts: &[(&[u64], &[u64])]| {
            TensorParts::new(&[4, 2], 4, parts.iter().map(|(o, s)| part(o, s)).collect())
        };
        assert!(made(&[(&[0, 0], &[2, 2]), (&[2, 0], &[2, 2])]).is_ok());
        for parts in [
            &[(&[0, 0][..], &[2, 2][..])][..],
            &[(&[0, 0], &[2, 2]), (&[1, 0], &[2, 2])],
            &[(&[0, 0], &[2, 2]), (&[3, 0], &[2, 2])],
            &[(&[0, 0], &[4, 1]), (&[0, 0], &[4, 1])],
            &[(&[0], &[4])],
            &[],
        ] {
            assert!(made(parts).expect_err("refused").contains("cover"));
        }
    }
}
