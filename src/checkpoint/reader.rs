//! Reads ranges of tensors on demand into reused buffers.

use crate::checkpoint::checkpoint::{Checkpoint, Content};
use crate::checkpoint::error::Result;
use crate::checkpoint::io::source::BorrowedBytes;
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::quantization::{Dequantize, kernels};
use crate::tensor::{FloatType, TensorId};
use std::fs::File;
use std::ops::Range;

/// One thread's access to a checkpoint's data. Recently read files stay open. The buffers grow to
/// the largest requested range, which callers keep to a few MiB.
pub struct Reader<'c> {
    checkpoint: &'c Checkpoint,
    stored: StoredReader<'c>,
    buffer: Vec<u8>,
}

impl Checkpoint {
    /// Creates a reader; each thread needs its own.
    pub fn reader(&self) -> Reader<'_> {
        let stored = StoredReader::new(self.shards(), self.stored_list());
        Reader { checkpoint: self, stored, buffer: Vec::new() }
    }

    /// Maps all elements of a tensor and returns them little-endian: a packed tensor in the
    /// mapper's type or its original type, any other tensor unchanged. `None` for a tensor without
    /// float elements.
    pub fn map(&self, id: TensorId, mapper: Dequantize) -> Result<Option<(FloatType, Vec<u8>)>> {
        let mut reader = self.reader();
        let elements = 0..self.tensor(id).parameters();
        let Some((from, bytes)) = reader.elements(id, elements)? else { return Ok(None) };
        let to = self.packed_format(id).map_or(from, |it| mapper.to.unwrap_or(it.original()));
        let mut mapped = Vec::new();
        kernels::convert(from, bytes, to, &mut mapped);
        Ok(Some((to, mapped)))
    }
}

impl<'c> Reader<'c> {
    /// Makes the reader fetch only the requested bytes from servers, for reads that are far apart.
    /// Other readers also fetch the bytes around and after them.
    pub(crate) fn direct(mut self) -> Self {
        self.stored.read_directly();
        self
    }

    /// The checkpoint that is read.
    pub fn checkpoint(&self) -> &'c Checkpoint {
        self.checkpoint
    }

    /// Reads the elements `range` of a tensor as little-endian bytes of the returned float type.
    /// `None` for a tensor without float elements.
    pub fn elements(
        &mut self,
        id: TensorId,
        range: Range<u64>,
    ) -> Result<Option<(FloatType, &[u8])>> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.elements_into(id, range, &mut buffer);
        self.buffer = buffer;
        Ok(read?.map(|float| (float, self.buffer.as_slice())))
    }

    /// Calls `read` with the elements `range` of a tensor as little-endian bytes of the given
    /// float type: mapped memory where possible, else a copy. `None` for a tensor that has no
    /// float elements.
    pub fn with_bytes<T>(
        &mut self,
        id: TensorId,
        range: Range<u64>,
        read: impl FnOnce(FloatType, &[u8]) -> T,
    ) -> Result<Option<T>> {
        let Some(float) = self.checkpoint.float_type(id) else { return Ok(None) };
        if let Some(borrowed) = self.borrow_bytes(id, range.clone())? {
            return borrowed.with_bytes(|bytes| read(float, bytes)).map(Some);
        }
        let copied = self.elements(id, range)?;
        Ok(copied.map(|(float, bytes)| read(float, bytes)))
    }

    /// Like [`Reader::with_bytes`], for the elements `range` of the tensor's transpose. `None` for a
    /// tensor that is not stored as floats.
    pub fn with_transposed_bytes<T>(
        &mut self,
        id: TensorId,
        range: Range<u64>,
        read: impl FnOnce(FloatType, &[u8]) -> T,
    ) -> Result<Option<T>> {
        let Content::Plain(stored) = *self.checkpoint.content(id) else { return Ok(None) };
        let Some(float) = self.checkpoint.float_type(id) else { return Ok(None) };
        let size = float.size() as u64;
        let mut buffer = std::mem::take(&mut self.buffer);
        let result =
            self.transposed_into(stored, range.start * size..range.end * size, &mut buffer);
        self.buffer = buffer;
        result?;
        Ok(Some(read(float, &self.buffer)))
    }

    /// Like [`Reader::with_bytes`], for the elements `range` of the tensor with the axes of its
    /// output channels first, as [`Shape::channel_major`] orders them.
    ///
    /// [`Shape::channel_major`]: crate::tensor::Shape::channel_major
    pub(crate) fn with_channel_major_bytes<T>(
        &mut self,
        id: TensorId,
        range: Range<u64>,
        read: impl FnOnce(FloatType, &[u8]) -> T,
    ) -> Result<Option<T>> {
        if self.checkpoint.channel_major(id).is_none() {
            return self.with_bytes(id, range, read);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.channel_major_into(id, range, &mut buffer);
        self.buffer = buffer;
        Ok(result?.map(|float| read(float, &self.buffer)))
    }

    /// Replaces `out` by the elements `range` of a tensor with the axes of its output channels
    /// first.
    pub(crate) fn channel_major_into(
        &mut self,
        id: TensorId,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<Option<FloatType>> {
        let major = self.checkpoint.channel_major(id);
        let (Some((_, order)), Content::Plain(stored), Some(float)) =
            (major, self.checkpoint.content(id), self.checkpoint.float_type(id))
        else {
            return self.elements_into(id, range, out);
        };
        let size = float.size() as u64;
        let bytes = range.start * size..range.end * size;
        self.stored.permuted_into(*stored, &order, bytes, out)?;
        Ok(Some(float))
    }

    /// The elements `range` of a tensor without a copy; `None` if they have to be read.
    pub fn borrow_bytes(
        &mut self,
        id: TensorId,
        range: Range<u64>,
    ) -> Result<Option<BorrowedBytes<'_>>> {
        let Some(float) = self.checkpoint.float_type(id) else { return Ok(None) };
        let Content::Plain(stored) = *self.checkpoint.content(id) else { return Ok(None) };
        let size = float.size() as u64;
        self.stored.borrow_bytes(stored, range.start * size..range.end * size)
    }

    /// Replaces `out` by the elements `range` of a tensor, as [`Reader::elements`] returns them.
    pub fn elements_into(
        &mut self,
        id: TensorId,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<Option<FloatType>> {
        let Some(float) = self.checkpoint.float_type(id) else { return Ok(None) };
        let size = float.size() as u64;
        match self.checkpoint.content(id) {
            Content::Plain(stored) => {
                self.stored_into(*stored, range.start * size..range.end * size, out)?;
            }
            Content::Packed(format) => format.decode(&mut self.stored, range, out)?,
        }
        Ok(Some(float))
    }

    /// Replaces `out` by the bytes `range` of the transpose of a stored tensor.
    pub fn transposed_into(
        &mut self,
        id: StoredId,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.stored.transposed_into(id, range, out)
    }

    /// The bytes `range` of a stored tensor.
    pub fn stored(&mut self, id: StoredId, range: Range<u64>) -> Result<&[u8]> {
        self.stored.stored_into(id, range, &mut self.buffer)?;
        Ok(&self.buffer)
    }

    /// Replaces `out` by the bytes `range` of a stored tensor's elements.
    pub fn stored_into(
        &mut self,
        id: StoredId,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.stored.stored_into(id, range, out)
    }

    /// Access to the stored tensors that packed tensors consist of.
    pub fn stored_reader(&mut self) -> &mut StoredReader<'c> {
        &mut self.stored
    }

    /// Calls `work` with the file that holds a stored tensor's elements contiguously, and the
    /// offset of the first. `None` if there is no such file.
    pub fn in_file<T>(
        &mut self,
        id: StoredId,
        work: impl FnOnce(&File, u64) -> T,
    ) -> Result<Option<T>> {
        self.stored.in_file(id, work)
    }
}
