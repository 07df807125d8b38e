//! Encoding elements in ggml's Q8_0 blocks.

use crate::checkpoint::formats::gguf::{Q8_0_ELEMENTS, quantize_q8_0};
use crate::quantization::{Calibration, NotQuantizable, QuantizationScheme, Quantizer, kernels};
use crate::tensor::FloatType;

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
) -> Result<(), NotQuantizable> {
    let mut f32_bytes = Vec::new();
    kernels::convert(dtype, elements, FloatType::F32, &mut f32_bytes);
    out.clear();
    for block in f32_bytes.chunks(Q8_0_ELEMENTS * 4) {
        let mut values = [0f32; Q8_0_ELEMENTS];
        for (value, raw) in values.iter_mut().zip(block.as_chunks().0) {
            *value = f32::from_le_bytes(*raw);
        }
        if quantize_q8_0(&values, out).is_none() {
            let range = kernels::range(dtype, elements);
            NotQuantizable::check(&range)?;
            return Err(NotQuantizable::ScaleOverflow { absmax: range.absmax() });
        }
    }
    Ok(())
}
