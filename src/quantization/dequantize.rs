//! From quantized values back to floats.

use crate::quantization::{QuantizedTensor, kernels};
use crate::tensor::FloatType;

/// Gives float weights back after loading quantized ones: the Burn Book's `Dequantize`
/// mapper. DoneLatch one tensor in memory it is [`Dequantize::map_tensor`], over the tensors of a
/// checkpoint `Checkpoint::map`; `job::save` writes a whole checkpoint through it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dequantize {
    /// The type of the result; `None` for the one each tensor had before.
    pub to: Option<FloatType>,
}

impl Dequantize {
    /// The little-endian elements of `tensor` as floats: `scale * q`, the product rounded
    /// to f32.
    pub fn map_tensor(&self, tensor: &QuantizedTensor) -> Vec<u8> {
        let to = self.to.unwrap_or(tensor.original);
        let mut out = vec![0; tensor.values.len() * to.size()];
        for (group, segment) in
            tensor.scheme.groups(&tensor.shape).segments(0..tensor.values.len() as u64)
        {
            let (start, end) = (segment.start as usize, segment.end as usize);
            let scale = tensor.scales.get(group as usize).copied().unwrap_or(f32::NAN);
            let elements = &mut out[start * to.size()..end * to.size()];
            kernels::dequantize(&tensor.values[start..end], scale, to, elements);
        }
        out
    }
}
