//! The schemes that GGUF stores in ggml's blocks.

use crate::quantization::{Calibration, QuantizationScheme, Quantizer};
use crate::tensor::BlockType;

/// int8 in blocks of 32, which is Q8_0.
pub(crate) const INT8_BLOCKS: QuantizationScheme = QuantizationScheme::per_block(32);

/// The block type that a scheme is stored in; `None` if it has no block type.
pub(crate) fn block_type(scheme: QuantizationScheme) -> Option<BlockType> {
    match scheme {
        QuantizationScheme::Ggml(block) => Some(block),
        INT8_BLOCKS => Some(BlockType::Q8_0),
        _ => None,
    }
}

/// The quantizer that blocks of a type are made by.
pub(crate) fn quantizer(block: BlockType) -> Quantizer {
    let scheme = match block {
        BlockType::Q8_0 => INT8_BLOCKS,
        other => QuantizationScheme::Ggml(other),
    };
    Quantizer { calibration: Calibration::MinMax, scheme }
}
