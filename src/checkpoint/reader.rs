//! Reading ranges of tensors on demand, into buffers that are used again.

use super::error::{CheckpointError, Result};
use super::source::Handle;
use super::{Checkpoint, Content, StoredId};
use crate::tensor::{FloatType, TensorId};
use std::ops::Range;

/// One thread's view of a checkpoint: the file it read last stays open, and the buffers
/// grow to the largest range asked for, which callers keep to a few MiB.
pub struct Reader<'c> {
    checkpoint: &'c Checkpoint,
    open: Option<(u32, Handle)>,
    buffer: Vec<u8>,
}

impl<'c> Reader<'c> {
    pub(super) fn new(checkpoint: &'c Checkpoint) -> Self {
        Reader { checkpoint, open: None, buffer: Vec::new() }
    }

    pub fn checkpoint(&self) -> &'c Checkpoint {
        self.checkpoint
    }

    /// The elements `range` of a tensor as little-endian bytes of the given float type.
    /// `None` for a tensor that has no float elements.
    pub fn elements(
        &mut self,
        id: TensorId,
        range: Range<u64>,
    ) -> Result<Option<(FloatType, &[u8])>> {
        let Some(float) = self.checkpoint.float_type(id) else { return Ok(None) };
        let mut buffer = std::mem::take(&mut self.buffer);
        let size = float.size() as u64;
        let read = match self.checkpoint.content(id) {
            Content::Plain(stored) => {
                self.stored_into(*stored, range.start * size..range.end * size, &mut buffer)
            }
            Content::Quantized(layout) => layout.decode(self, range, &mut buffer),
        };
        self.buffer = buffer;
        read?;
        Ok(Some((float, &self.buffer)))
    }

    /// The bytes `range` of a stored tensor.
    pub fn stored(&mut self, id: StoredId, range: Range<u64>) -> Result<&[u8]> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.stored_into(id, range, &mut buffer);
        self.buffer = buffer;
        read?;
        Ok(&self.buffer)
    }

    /// Replaces `out` by the bytes `range` of a stored tensor.
    pub fn stored_into(
        &mut self,
        id: StoredId,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let checkpoint = self.checkpoint;
        let stored = checkpoint.stored(id);
        let source = &checkpoint.shards()[stored.shard as usize].source;
        let handle = match self.open.take() {
            Some((shard, handle)) if shard == stored.shard => handle,
            _ => source.open()?,
        };
        out.resize(range.end.saturating_sub(range.start) as usize, 0);
        let read = source
            .read_exact(&handle, out, stored.range.start + range.start)
            .map_err(|e| CheckpointError { tensor: Some(stored.name.clone()), ..e });
        self.open = Some((stored.shard, handle));
        read
    }
}
