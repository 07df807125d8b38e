//! Schemes that GGUF stores in ggml's block types.

use crate::quantization::{Calibration, QuantizationScheme, Quantizer};
use crate::tensor::BlockType;

/// int8 in blocks of 32: Q8_0.
pub(crate) const INT8_BLOCKS: QuantizationScheme = QuantizationScheme::per_block(32);

/// Returns the block type that stores a scheme; `None` if there is none.
pub(crate) fn block_type(scheme: QuantizationScheme) -> Option<BlockType> {
    match scheme {
        QuantizationScheme::Ggml(block) => Some(block),
        INT8_BLOCKS => Some(BlockType::Q8_0),
        _ => None,
    }
}

/// Returns the quantizer that produces a block type.
pub(crate) fn quantizer(block: BlockType) -> Quantizer {
    let scheme = match block {
        BlockType::Q8_0 => INT8_BLOCKS,
        other => QuantizationScheme::Ggml(other),
    };
    Quantizer { calibration: Calibration::MinMax, scheme }
}
