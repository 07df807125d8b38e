//! Tensors whose elements are not contiguous: transposed, sliced, or in column-major order.

use crate::checkpoint::error::Result;
use crate::tensor::Shape;
use std::ops::Range;

/// Bytes read at a time if there are gaps between the elements.
const READ_BYTES: u64 = 1 << 18;

/// Gaps up to this many bytes are read and discarded rather than skipped.
const MAX_GAP: u64 = 256;

/// Maximum total bytes of a view that repeats elements, unless its storage is larger.
const REPEATED_LIMIT: u64 = 256 << 20;

/// Maps the elements of a tensor to byte offsets: element `[i, j, …]` is at byte `offset + i *
/// strides[0] + j * strides[1] + …`.
#[derive(Clone, Debug, PartialEq)]
pub struct StridedView {
    shape: Shape,
    size: u64,
    offset: u64,
    strides: Box<[u64]>,
}

/// Fills a buffer with the bytes from an offset.
pub(crate) type Read<'r> = dyn FnMut(u64, &mut [u8]) -> Result<()> + 'r;

impl StridedView {
    /// Creates a view of elements of `size` bytes in a storage of `length` bytes. `offset` and
    /// `strides` count elements. Elements may be repeated (stride 0).
    ///
    /// # Errors
    ///
    /// A message if the view reaches outside the storage, repeats too many elements, or has a wrong
    /// number of strides.
    pub fn new(
        shape: Shape,
        size: u64,
        offset: u64,
        strides: &[u64],
        length: u64,
    ) -> Result<StridedView, String> {
        let rank = shape.rank();
        if strides.len() != rank {
            return Err(format!("it has {} strides for {rank} dimensions", strides.len()));
        }
        let outside = || format!("its strides lead out of its storage of {length} bytes");
        if shape.elements() > 0 {
            let last = shape.dims().iter().zip(strides).try_fold(offset, |at, (&dim, &stride)| {
                at.checked_add((dim - 1).checked_mul(stride)?)
            });
            let end = last.and_then(|last| last.checked_add(1)?.checked_mul(size));
            if end.is_none_or(|end| end > length) {
                return Err(outside());
            }
        }
        // Elements may be repeated, so the size of the view must be limited separately.
        let bytes = shape.elements().checked_mul(size);
        if bytes.is_none_or(|bytes| bytes > length.max(REPEATED_LIMIT)) {
            return Err(format!(
                "it repeats elements of its storage: {} elements of {size} bytes in {length} bytes",
                shape.elements()
            ));
        }
        // The stride of a dimension of length 0 or 1 is arbitrary and never used.
        let strides = shape.dims().iter().zip(strides);
        let strides =
            strides.map(|(&dim, &s)| if dim > 1 { s.saturating_mul(size) } else { 0 }).collect();
        Ok(StridedView { offset: offset.saturating_mul(size), shape, size, strides })
    }

    /// Creates a view of contiguous elements in row-major order.
    pub(crate) fn contiguous(shape: Shape, size: u64, length: u64) -> Result<StridedView, String> {
        let mut strides = vec![1; shape.rank()];
        let mut apart = 1u64;
        for (stride, &dim) in strides.iter_mut().zip(shape.dims()).rev() {
            *stride = apart;
            apart = apart.saturating_mul(dim);
        }
        StridedView::new(shape, size, 0, &strides, length)
    }

    /// Creates a view of contiguous elements in column-major (Fortran) order.
    pub(crate) fn column_major(
        shape: Shape,
        size: u64,
        length: u64,
    ) -> Result<StridedView, String> {
        let mut apart = 1u64;
        let mut strides = Vec::with_capacity(shape.rank());
        for &dim in shape.dims() {
            strides.push(apart);
            apart = apart.saturating_mul(dim);
        }
        StridedView::new(shape, size, 0, &strides, length)
    }

    /// Returns whether elements are repeated, as by PyTorch's `expand`.
    pub fn repeats(&self) -> bool {
        self.shape.dims().iter().zip(&self.strides).any(|(&dim, &stride)| dim > 1 && stride == 0)
    }

    /// Returns whether the elements are contiguous in row-major order.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = self.size;
        self.shape.dims().iter().zip(&self.strides).rev().all(|(&dim, &stride)| {
            let fits = dim == 1 || stride == expected;
            expected = expected.saturating_mul(dim);
            fits
        })
    }

    /// Offset of the first element in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of all elements if they were contiguous.
    pub fn bytes(&self) -> u64 {
        self.shape.elements() * self.size
    }

    /// Returns the same elements with the order of the dimensions reversed.
    pub fn transposed(&self) -> StridedView {
        self.permuted(&(0..self.shape.rank()).rev().collect::<Vec<_>>())
    }

    /// Returns the same elements with the dimensions in this order.
    pub(crate) fn permuted(&self, order: &[usize]) -> StridedView {
        let dims: Vec<u64> =
            order.iter().filter_map(|&axis| self.shape.dims().get(axis).copied()).collect();
        let strides = order.iter().filter_map(|&axis| self.strides.get(axis).copied()).collect();
        // The product does not depend on the order.
        let shape = Shape::new(dims).unwrap_or_else(|| Shape::vector(0));
        StridedView { shape, strides, ..*self }
    }

    /// Replaces the content of `out` by bytes `range` of the elements in row-major order.
    pub(crate) fn gather(
        &self,
        range: Range<u64>,
        out: &mut Vec<u8>,
        read: &mut Read,
    ) -> Result<()> {
        let whole = range.start / self.size..range.end.div_ceil(self.size);
        out.clear();
        out.resize((whole.end.saturating_sub(whole.start) * self.size) as usize, 0);
        let mut gather = Gather { size: self.size, out, read, buffer: Vec::new() };
        gather.slices(self.shape.dims(), &self.strides, self.offset, whole.clone(), 0)?;
        out.drain(..(range.start - whole.start * self.size) as usize);
        out.truncate((range.end - range.start) as usize);
        Ok(())
    }
}

struct Gather<'g, 'r> {
    size: u64,
    out: &'g mut [u8],
    read: &'g mut Read<'r>,
    buffer: Vec<u8>,
}

/// One dimension: its length and its strides in bytes, in the file (`from`) and in the output
/// (`to`).
#[derive(Clone, Copy, PartialEq)]
struct Axis {
    length: u64,
    from: u64,
    to: u64,
}

impl Gather<'_, '_> {
    /// Gathers elements `range` of the box `dims` from `from` to `to`. Whole slices of the first
    /// dimension are gathered at once, partial ones recursively.
    fn slices(
        &mut self,
        dims: &[u64],
        strides: &[u64],
        from: u64,
        range: Range<u64>,
        to: u64,
    ) -> Result<()> {
        let (Some((_, inner_dims)), Some((&stride, inner_strides))) =
            (dims.split_first(), strides.split_first())
        else {
            return if range.is_empty() { Ok(()) } else { self.whole(&[], &[], from, to) };
        };
        let inner = inner_dims.iter().product::<u64>().max(1);
        let mut at = range.start;
        while at < range.end {
            let slice = at / inner;
            let whole = (range.end - at) / inner;
            let done = if at.is_multiple_of(inner) && whole > 0 {
                let dims: Vec<u64> = [&[whole], inner_dims].concat();
                let to = to + (at - range.start) * self.size;
                self.whole(&dims, strides, from + slice * stride, to)?;
                whole * inner
            } else {
                let end = (range.end - slice * inner).min(inner);
                let part = at % inner..end;
                let done = end - part.start;
                let to = to + (at - range.start) * self.size;
                self.slices(inner_dims, inner_strides, from + slice * stride, part, to)?;
                done
            };
            at += done;
        }
        Ok(())
    }

    /// Gathers all elements of a box. The innermost loop runs along the dimension with the smallest
    /// stride in the file.
    fn whole(&mut self, dims: &[u64], strides: &[u64], from: u64, to: u64) -> Result<()> {
        let mut axes: Vec<Axis> = Vec::with_capacity(dims.len());
        let mut apart = self.size;
        for (&length, &stride) in dims.iter().zip(strides).rev() {
            let axis = Axis { length, from: stride, to: apart };
            apart *= length;
            match axes.last_mut() {
                // Merge two dimensions that are contiguous in the file and in the output.
                Some(inner) if stride == inner.length * inner.from && length > 1 => {
                    inner.length *= length;
                }
                _ if length == 1 => {}
                _ => axes.push(axis),
            }
        }
        let run = axes.iter().copied().min_by_key(|axis| axis.from);
        let run = run.unwrap_or(Axis { length: 1, from: self.size, to: self.size });
        axes.retain(|axis| *axis != run);
        // Smallest stride first, so that deflated data is read as far as possible in its order.
        axes.sort_by_key(|axis| axis.from);
        // Step through all indexes of the other dimensions.
        let mut index = vec![0u64; axes.len()];
        let (mut from, mut to) = (from, to);
        loop {
            self.run(run, from, to)?;
            let mut moved = false;
            for (i, axis) in index.iter_mut().zip(&axes) {
                *i += 1;
                if *i < axis.length {
                    from += axis.from;
                    to += axis.to;
                    moved = true;
                    break;
                }
                from -= axis.from * (*i - 1);
                to -= axis.to * (*i - 1);
                *i = 0;
            }
            if !moved {
                return Ok(());
            }
        }
    }

    fn run(&mut self, run: Axis, from: u64, to: u64) -> Result<()> {
        let size = self.size as usize;
        let start = to as usize;
        if run.from == self.size && run.to == self.size {
            let end = start + run.length as usize * size;
            let out = self.out.get_mut(start..end).unwrap_or_default();
            return (self.read)(from, out);
        }
        let at_once = if run.from <= MAX_GAP { (READ_BYTES / run.from.max(1)).max(1) } else { 1 };
        let mut done = 0;
        while done < run.length {
            let count = at_once.min(run.length - done);
            let span = (count - 1) * run.from + self.size;
            self.buffer.resize(span as usize, 0);
            (self.read)(from + done * run.from, &mut self.buffer)?;
            for k in 0..count {
                let at = (k * run.from) as usize;
                let to = start + ((done + k) * run.to) as usize;
                let element = self.buffer.get(at..at + size);
                if let (Some(element), Some(out)) = (element, self.out.get_mut(to..to + size)) {
                    out.copy_from_slice(element);
                }
            }
            done += count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shape(dims: &[u64]) -> Shape {
        Shape::new(dims).expect("fits")
    }

    fn gathered(view: &StridedView, range: Range<u64>, data: &[u8]) -> Vec<u8> {
        let mut out = vec![1, 2, 3];
        view.gather(range, &mut out, &mut |at, out| {
            out.copy_from_slice(&data[at as usize..at as usize + out.len()]);
            Ok(())
        })
        .expect("reads");
        out
    }

    proptest! {
        /// Checks every range of small tensors with any permutation and any step.
        #[test]
        fn elements_come_in_row_major_order(
            dims in prop::collection::vec(1u64..6, 0..4),
            step in 1u64..3,
            shuffle in any::<u64>(),
            offset in 0u64..5,
            cut in (0.0f64..=1.0, 0.0f64..=1.0),
        ) {
            let mut order: Vec<usize> = (0..dims.len()).collect();
            order.sort_by_key(|&i| shuffle.rotate_left(i as u32 * 11) & 255);
            let mut strides = vec![0; dims.len()];
            let mut apart = step;
            for &i in &order {
                strides[i] = apart;
                apart *= dims[i];
            }
            let data: Vec<u8> = (0..(offset + apart + 1) * 2).map(|i| i as u8).collect();
            let view = StridedView::new(shape(&dims), 2, offset, &strides, data.len() as u64).expect("fits");
            let mut expected: Vec<u8> = Vec::new();
            for n in 0..shape(&dims).elements() {
                let (mut rest, mut at) = (n, offset);
                for (&dim, &stride) in dims.iter().zip(&strides).rev() {
                    at += rest % dim * stride;
                    rest /= dim;
                }
                expected.extend(&data[at as usize * 2..at as usize * 2 + 2]);
            }
            let bound = |share: f64| (share * expected.len() as f64) as u64;
            let range = bound(cut.0.min(cut.1))..bound(cut.0.max(cut.1));
            let part = expected[range.start as usize..range.end as usize].to_vec();
            prop_assert_eq!(gathered(&view, range, &data), part);
        }
    }

    #[test]
    fn a_transposed_matrix_is_read_by_its_columns() {
        let data: Vec<u8> = (0..12).collect();
        let view = StridedView::new(shape(&[3, 4]), 1, 0, &[4, 1], 12).expect("fits");
        assert!(view.is_contiguous());
        let view = view.transposed();
        assert!(!view.is_contiguous());
        assert_eq!(gathered(&view, 0..12, &data), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
        assert_eq!(gathered(&view, 4..8, &data), [5, 9, 2, 6]);
    }

    #[test]
    fn a_view_that_leaves_or_repeats_its_storage_is_refused() {
        let refused = |dims: &[u64], offset, strides: &[u64], length| {
            StridedView::new(shape(dims), 4, offset, strides, length).expect_err("refused")
        };
        assert!(refused(&[3, 4], 0, &[4, 1], 47).contains("out of its storage"));
        assert!(refused(&[3, 4], 1, &[4, 1], 48).contains("out of its storage"));
        assert!(refused(&[2], u64::MAX, &[1], 48).contains("out of its storage"));
        assert!(refused(&[2, 2], 0, &[u64::MAX, u64::MAX], 48).contains("out of its storage"));
        assert!(refused(&[1 << 30], 0, &[0], 48).contains("repeats"));
        let repeated = StridedView::new(shape(&[2, 3]), 1, 1, &[1, 0], 3).expect("fits");
        assert!(repeated.repeats() && !repeated.is_contiguous());
        assert_eq!(gathered(&repeated, 0..6, &[7, 8, 9]), [8, 8, 8, 9, 9, 9]);
        assert!(refused(&[2, 2], 0, &[1], 48).contains("strides"));
        assert!(StridedView::new(shape(&[0, 9]), 4, 0, &[9, 1], 0).is_ok());
    }
}
