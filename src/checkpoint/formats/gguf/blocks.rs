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
        let elements = self.block.elements();
        let mut values = vec![0f32; stored.len() / self.block.bytes() as usize * elements as usize];
        (self.decode)(&stored, &mut values);
        let first = range.start / elements * elements;
        let (from, to) = (range.start - first, range.end.saturating_sub(first));
        out.clear();
        let wanted = values.get(from as usize..to as usize).unwrap_or_default();
        out.extend(wanted.iter().flat_map(|value| value.to_le_bytes()));
        Ok(())
    }
}
