//! Tensors stored in ggml's block types.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::format::PackedFormat;
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::quantization::ggml::codec;
use crate::tensor::{BlockType, FloatType};
use std::ops::Range;

/// A tensor stored in blocks of a ggml type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockTensor {
    stored: StoredId,
    block: BlockType,
    decode: Decode,
}

/// Decodes one block into its elements.
type Decode = fn(&[u8], &mut [f32]);

/// Number of elements in the largest block type.
const MAX_BLOCK_ELEMENTS: usize = 256;

impl BlockTensor {
    /// Returns `None` for a block type that is known by name only and not decoded.
    pub(crate) fn new(stored: StoredId, block: BlockType) -> Option<BlockTensor> {
        Some(BlockTensor { stored, block, decode: codec(block)?.decode })
    }

    /// Returns the bytes of the blocks that contain the elements `range`.
    fn bytes_of(&self, range: &Range<u64>) -> Range<u64> {
        let (elements, bytes) = (self.block.elements(), self.block.bytes());
        range.start / elements * bytes..range.end.div_ceil(elements) * bytes
    }
}

impl PackedFormat for BlockTensor {
    fn name(&self) -> String {
        self.block.name().to_owned()
    }

    fn original(&self) -> FloatType {
        FloatType::F32
    }

    fn parts(&self) -> Vec<StoredId> {
        vec![self.stored]
    }

    fn decode(
        &self,
        reader: &mut StoredReader,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut stored = Vec::new();
        reader.stored_into(self.stored, self.bytes_of(&range), &mut stored)?;
        out.clear();
        out.reserve((range.end.saturating_sub(range.start) * 4) as usize);
        let mut values = [0f32; MAX_BLOCK_ELEMENTS];
        let values = values.get_mut(..self.block.elements() as usize).unwrap_or_default();
        let mut first = range.start / self.block.elements() * self.block.elements();
        for block in stored.chunks_exact(self.block.bytes() as usize) {
            (self.decode)(block, values);
            let from = range.start.saturating_sub(first) as usize;
            let to = (range.end - first).min(values.len() as u64) as usize;
            for value in values.get(from..to).unwrap_or_default() {
                out.extend_from_slice(&value.to_le_bytes());
            }
            first += values.len() as u64;
        }
        Ok(())
    }
}
