//! Converts quantized values back to floats.

use crate::quantization::grouped_run::GroupOrder;
use crate::quantization::groups::Groups;
use crate::quantization::kernels;
use crate::quantization::quantize_weights::QuantizedTensor;
use crate::tensor::FloatType;

/// Restores float weights from quantized ones: the Burn Book's `Dequantize` mapper.
///
/// [`Dequantize::map_tensor`] maps one tensor in memory and `Checkpoint::map` a tensor of a
/// checkpoint; `job::save` writes a whole checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dequantize {
    /// The type of the result; `None` for the type each tensor had before quantization.
    pub to: Option<FloatType>,
}

impl Dequantize {
    /// The little-endian elements of `tensor` as floats: `scale * value`, with the product
    /// rounded to f32 (to f64 for F64).
    pub fn map_tensor(&self, tensor: &QuantizedTensor) -> Vec<u8> {
        let to = self.to.unwrap_or(tensor.original);
        let groups = tensor.scheme.groups(&tensor.shape);
        let mut out = Vec::new();
        dequantize_groups(&groups, 0, &tensor.values, &tensor.scales, to, &mut out);
        out
    }
}

/// Replaces `out` by the dequantized `values`, little-endian elements of type `to`.
///
/// The first of `values` has the index `start` in the tensor, and `scales` are those of the
/// groups that the values lie in ([`Groups::touched_by`]). A missing scale counts as NaN.
pub(crate) fn dequantize_groups(
    groups: &Groups,
    start: u64,
    values: &[i8],
    scales: &[f32],
    to: FloatType,
    out: &mut Vec<u8>,
) {
    let size = to.size();
    let range = start..start + values.len() as u64;
    let first = groups.touched_by(&range).start;
    out.resize(values.len() * size, 0);
    let order = GroupOrder::new(groups, range);
    let values = order.arranged(1, bytemuck::cast_slice(values));
    let values: &[i8] = bytemuck::cast_slice(&values);
    for (group, positions) in order.groups() {
        let scale = scales.get((group - first) as usize).copied().unwrap_or(f32::NAN);
        let bytes = positions.start * size..positions.end * size;
        if let (Some(values), Some(out)) = (values.get(positions), out.get_mut(bytes)) {
            kernels::dequantize(values, scale, to, out);
        }
    }
    order.restore(size, out);
}
