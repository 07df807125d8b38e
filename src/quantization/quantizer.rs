//! Quantizing one tensor that lies in memory.

use crate::quantization::kernels;
use crate::quantization::{
    Calibration, QuantizationScheme, QuantizationType, Range, Rounding, stored_scale,
};
use crate::tensor::{FloatType, Shape};
use serde::{Deserialize, Serialize};

/// Post-training quantization of weights, in the Burn Book's words: a calibration that
/// finds the range of the values and a scheme that says what they become.
///
/// ```
/// use quantscope::quantization::*;
/// use quantscope::tensor::{FloatType, Shape};
///
/// let quantizer = Quantizer {
///     calibration: Calibration::MinMax,
///     scheme: QuantizationScheme::PerTensor(QuantizationMode::Symmetric, QuantizationType::QInt8),
/// };
/// let weights: Vec<u8> = [1.27f32, -0.5, 0.0].iter().flat_map(|x| x.to_le_bytes()).collect();
/// let quantized = quantizer.quantize_weights(FloatType::F32, &Shape::vector(3), &weights)?;
/// assert_eq!(quantized.values, [127, -50, 0]);
/// # Ok::<(), NotQuantizable>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantizer {
    pub calibration: Calibration,
    pub scheme: QuantizationScheme,
}

/// Why a tensor has no quantized form.
#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
pub enum NotQuantizable {
    #[error(
        "it holds {nan} NaN and {inf} infinite values, the first at index {first}; such values have no scale"
    )]
    NonFinite { nan: u64, inf: u64, first: u64 },
    #[error("its largest magnitude {absmax:e} is beyond what its scale can hold")]
    ScaleOverflow { absmax: f64 },
    #[error("{0} values can be measured, not saved")]
    OnlyMeasured(QuantizationScheme),
    #[error("its data has {found} bytes where its shape and type need {expected}")]
    Length { expected: u64, found: u64 },
}

impl NotQuantizable {
    /// The same of a tensor that has `elements` more in front.
    pub(crate) fn after(self, elements: u64) -> Self {
        match self {
            Self::NonFinite { nan, inf, first } => {
                Self::NonFinite { nan, inf, first: first + elements }
            }
            other => other,
        }
    }

    /// An error if `range` holds anything that is not finite.
    pub fn check(range: &Range) -> Result<(), NotQuantizable> {
        match range.first_non_finite {
            Some(first) => Err(NotQuantizable::NonFinite { nan: range.nan, inf: range.inf, first }),
            None => Ok(()),
        }
    }
}

/// A quantized tensor: `scales[group] * values[i]` is the value of element `i`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedTensor {
    pub shape: Shape,
    pub scheme: QuantizationScheme,
    /// The type it had before, which `Dequantize` gives back.
    pub original: FloatType,
    pub values: Vec<i8>,
    /// One per group of the scheme, in order.
    pub scales: Vec<f32>,
}

impl Quantizer {
    /// Quantizes the little-endian elements `bytes` of a tensor of `shape`, halves rounded
    /// to even.
    pub fn quantize_weights(
        &self,
        dtype: FloatType,
        shape: &Shape,
        bytes: &[u8],
    ) -> Result<QuantizedTensor, NotQuantizable> {
        self.quantize_weights_rounding(dtype, shape, bytes, Rounding::HalfEven)
    }

    /// The same, rounding halves as `rounding` says.
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
        if self.scheme.quantization_type() != QuantizationType::QInt8 {
            return Err(NotQuantizable::OnlyMeasured(self.scheme));
        }
        NotQuantizable::check(&kernels::range(dtype, bytes))?;
        let mut values = vec![0i8; bytes.len() / dtype.size()];
        let mut scales = Vec::new();
        for (_, segment) in self.scheme.groups(shape).segments(0..shape.elements()) {
            let elements = segment.start as usize..segment.end as usize;
            let group = &bytes[elements.start * dtype.size()..elements.end * dtype.size()];
            let scale = self.scale_of(dtype, group, rounding, FloatType::F32)?;
            kernels::quantize(dtype, group, scale, rounding, &mut values[elements]);
            scales.push(scale);
        }
        Ok(QuantizedTensor {
            shape: shape.clone(),
            scheme: self.scheme,
            original: dtype,
            values,
            scales,
        })
    }

    /// The scale of a group of elements, as it is stored in the type `stored`.
    pub fn scale_of(
        &self,
        dtype: FloatType,
        group: &[u8],
        rounding: Rounding,
        stored: FloatType,
    ) -> Result<f32, NotQuantizable> {
        self.scale_for(self.clip_of(dtype, group, rounding)?, stored)
    }

    /// The magnitude that is mapped onto the largest quantized value of a group of elements.
    pub(super) fn clip_of(
        &self,
        dtype: FloatType,
        group: &[u8],
        rounding: Rounding,
    ) -> Result<f64, NotQuantizable> {
        let range = kernels::range(dtype, group);
        NotQuantizable::check(&range)?;
        let qtype = self.scheme.quantization_type();
        Ok(self.calibration.clip(dtype, group, range.absmax(), qtype, rounding))
    }

    /// The scale for magnitudes up to `clip`, as it is stored in the type `stored`.
    pub fn scale_for(&self, clip: f64, stored: FloatType) -> Result<f32, NotQuantizable> {
        stored_scale(clip, self.scheme.quantization_type().max(), stored)
            .ok_or(NotQuantizable::ScaleOverflow { absmax: clip })
    }
}
