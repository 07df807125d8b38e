//! Encoding elements in ggml's Q8_0 blocks.

use crate::quantization::ggml::{BlockError, quantize_rows};
use crate::quantization::{Calibration, QuantizationScheme, Quantizer, kernels};
use crate::tensor::{BlockType, FloatType};

/// Elements of a block.
pub(crate) const Q8_0_ELEMENTS: usize = 32;

/// Q8_0 as a quantizer: a scale for each block of 32 elements.
pub(crate) const QUANTIZER: Quantizer = Quantizer {
    calibration: Calibration::MinMax,
    scheme: QuantizationScheme::per_block(Q8_0_ELEMENTS as u32),
};

/// Replaces the contents of `out` by the blocks of `elements`, which are whole blocks.
///
/// # Errors
/// If a block has no finite scale.
pub(crate) fn encode(
    dtype: FloatType,
    elements: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), BlockError> {
    let mut f32_bytes = Vec::new();
    kernels::convert(dtype, elements, FloatType::F32, &mut f32_bytes);
    let values: Vec<f32> =
        f32_bytes.as_chunks().0.iter().map(|&raw| f32::from_le_bytes(raw)).collect();
    out.clear();
    quantize_rows(BlockType::Q8_0, &values, Q8_0_ELEMENTS, None, out)
}
