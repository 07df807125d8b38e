//! Quantizes a weight in memory to the stored tensors of a preset.

use crate::quantization::kernels;
use crate::quantization::preset::Preset;
use crate::quantization::preset_parts::{PresetPart, StoredPart};
use crate::quantization::presets::coder::{EncodedRows, PresetCoder};
use crate::quantization::quantizer::NotQuantizable;
use crate::tensor::{FloatType, Shape};

/// Returns the stored tensors of a weight with their bytes. `bytes` are the little-endian elements
/// of a tensor of `shape`. `absmax` is the largest magnitude of all tensors that share its global
/// scale; `None` if it shares none.
///
/// # Errors
///
/// `bytes` has the wrong length for the shape, an element is NaN or infinite, or a scale is beyond
/// its type.
pub fn encode(
    preset: Preset,
    dtype: FloatType,
    shape: &Shape,
    bytes: &[u8],
    absmax: Option<f64>,
) -> Result<Vec<(StoredPart, Vec<u8>)>, NotQuantizable> {
    let expected = shape.elements().saturating_mul(dtype.size() as u64);
    if expected != bytes.len() as u64 {
        return Err(NotQuantizable::Length { expected, found: bytes.len() as u64 });
    }
    let absmax = absmax.unwrap_or_else(|| kernels::range(dtype, bytes).absmax());
    let coder = PresetCoder::new(preset, dtype, shape, absmax);
    let mut rows = EncodedRows::default();
    coder.encode(bytes, &mut rows)?;
    let EncodedRows { values, scales, zero_points } = rows;
    let (mut values, mut scales, mut zero_points) = (Some(values), Some(scales), Some(zero_points));
    let parts = preset.parts(dtype, shape).into_iter().map(|part| {
        let bytes = match part.part {
            PresetPart::Values => values.take(),
            PresetPart::Scales => scales.take(),
            PresetPart::ZeroPoints => zero_points.take(),
            PresetPart::GlobalScale => Some(coder.global_bytes(part.dtype.float())),
            PresetPart::Shape => Some(shape_bytes(shape)),
            // No preset of compressed-tensors has biases.
            PresetPart::Biases => None,
        };
        (part, bytes.unwrap_or_default())
    });
    Ok(parts.collect())
}

/// Returns the bytes of [`PresetPart::Shape`].
pub(crate) fn shape_bytes(shape: &Shape) -> Vec<u8> {
    let dims = [shape.channels(), shape.channel_len()];
    dims.iter().flat_map(|&dim| (dim as i64).to_le_bytes()).collect()
}
