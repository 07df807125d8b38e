//! Quantizing one tensor in memory.

use crate::quantization::channel_major::channel_major;
use crate::quantization::group_scales::{GroupScales, ScaledGroup};
use crate::quantization::kernels;
use crate::quantization::quantizer::{NotQuantizable, Quantizer};
use crate::quantization::scheme::{QuantizationScheme, Rounding};
use crate::tensor::{FloatType, Shape};

/// A tensor of int8 values: element `i` is `scales[group] * values[i]`, where `group` is the
/// number of the group that holds element `i`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedTensor {
    /// The shape of the tensor.
    pub shape: Shape,
    /// The scheme, which determines the groups.
    pub scheme: QuantizationScheme,
    /// The type of the elements before quantization, which [`Dequantize`] restores.
    ///
    /// [`Dequantize`]: crate::quantization::Dequantize
    pub original: FloatType,
    /// One value for each element, in storage order.
    pub values: Vec<i8>,
    /// One scale for each group of the scheme, in order.
    pub scales: Vec<f32>,
}

impl Quantizer {
    /// Quantizes the little-endian elements `bytes` of a tensor of shape `shape`. A value
    /// half-way between two integers is rounded to the even one.
    ///
    /// # Errors
    ///
    /// See [`Quantizer::quantize_weights_rounding`].
    pub fn quantize_weights(
        &self,
        dtype: FloatType,
        shape: &Shape,
        bytes: &[u8],
    ) -> Result<QuantizedTensor, NotQuantizable> {
        self.quantize_weights_rounding(dtype, shape, bytes, Rounding::HalfEven)
    }

    /// Quantizes the little-endian elements `bytes` of a tensor of shape `shape`.
    ///
    /// # Errors
    ///
    /// If `bytes` has the wrong length for the shape, if the scheme is not one of int8, if an
    /// element is NaN or infinite, or if a scale is beyond f32.
    pub fn quantize_weights_rounding(
        &self,
        dtype: FloatType,
        shape: &Shape,
        bytes: &[u8],
        rounding: Rounding,
    ) -> Result<QuantizedTensor, NotQuantizable> {
        let expected = shape.elements().saturating_mul(dtype.size() as u64);
        if expected != bytes.len() as u64 {
            return Err(NotQuantizable::Length { expected, found: bytes.len() as u64 });
        }
        if !self.scheme.is_scaled_int8() {
            return Err(NotQuantizable::OnlyMeasured(self.scheme));
        }
        NotQuantizable::check(&kernels::range(dtype, bytes))?;
        let mut values = vec![0u8; bytes.len() / dtype.size()];
        let mut scales = Vec::new();
        // Elements of strided groups do not lie side by side, so their scales are computed first.
        let known = if self.scheme.groups(shape).are_strided() {
            channel_major(bytes, dtype.size(), shape)
        } else {
            None
        };
        let known = known.map(|(major, elements)| {
            let groups = GroupScales::new(*self, rounding, &major, None);
            let run = groups.run(0, dtype, &elements);
            groups.scaled(&run).map(|group| group.scale).collect()
        });
        let known: Option<Vec<f32>> = known.transpose()?;
        let group_scales = GroupScales::new(*self, rounding, shape, None).known(known.as_deref());
        let run = group_scales.run(0, dtype, bytes);
        for ScaledGroup { slice, scale } in group_scales.scaled(&run) {
            let scale = scale?;
            let values = values.get_mut(slice.positions).unwrap_or_default();
            let values = bytemuck::cast_slice_mut(values);
            kernels::quantize(dtype, slice.bytes, scale, rounding, values);
            scales.push(scale);
        }
        run.order.restore(1, &mut values);
        let values = values.into_iter().map(u8::cast_signed).collect();
        let scales = known.unwrap_or(scales);
        let (shape, scheme) = (shape.clone(), self.scheme);
        Ok(QuantizedTensor { shape, scheme, original: dtype, values, scales })
    }
}
