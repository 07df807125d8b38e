//! A calibration and a scheme, and the scale they give a group of elements.

use crate::quantization::calibration::{Calibration, stored_scale};
use crate::quantization::kernels;
use crate::quantization::preset::Preset;
use crate::quantization::scheme::{QuantizationScheme, Rounding};
use crate::quantization::statistics::Range;
use crate::tensor::FloatType;
use serde::{Deserialize, Serialize};

/// Post-training quantization of weights, as in the Burn Book: a calibration that chooses the
/// range of the values, and a scheme.
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
    /// How scales are chosen.
    pub calibration: Calibration,
    /// Groups and type of the quantized values.
    pub scheme: QuantizationScheme,
}

/// Why a tensor cannot be quantized.
#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each variant describes its fields")]
pub enum NotQuantizable {
    /// Elements are NaN or infinite.
    #[error(
        "it holds {nan} NaN and {inf} Inf, the first at index {first}; such values have no scale"
    )]
    NonFinite { nan: u64, inf: u64, first: u64 },
    /// The scale exceeds the type it is stored in.
    #[error("its largest magnitude {absmax:e} exceeds the range of its scale")]
    ScaleOverflow { absmax: f64 },
    /// The scheme can be analyzed but not saved.
    #[error("{0} values can be measured, not saved")]
    OnlyMeasured(QuantizationScheme),
    /// The shape does not fit the preset.
    #[error("{preset} does not fit it: {why}")]
    DoesNotFit { preset: Preset, why: String },
    /// Output errors need whole blocks of rows.
    #[error(
        "the layer's output cannot be measured: its part has fewer than the 128 rows of a block"
    )]
    PartOfBlocks,
    /// The shape does not fit the scheme.
    #[error("{scheme} does not fit it: {why}")]
    SchemeDoesNotFit { scheme: QuantizationScheme, why: String },
    /// The data has a wrong length.
    #[error("its data has {found} bytes where its shape and type need {expected}")]
    Length { expected: u64, found: u64 },
}

impl NotQuantizable {
    /// The error for a tensor with `elements` additional elements in front.
    pub(crate) fn after(self, elements: u64) -> Self {
        match self {
            Self::NonFinite { nan, inf, first } => {
                Self::NonFinite { nan, inf, first: first + elements }
            }
            other => other,
        }
    }

    /// Checks that all elements are finite.
    ///
    /// # Errors
    ///
    /// [`NotQuantizable::NonFinite`] if they are not.
    pub fn check(range: &Range) -> Result<(), NotQuantizable> {
        match range.first_non_finite {
            Some(first) => Err(NotQuantizable::NonFinite { nan: range.nan, inf: range.inf, first }),
            None => Ok(()),
        }
    }
}

impl Quantizer {
    /// The scale of a group of elements, rounded to `stored`, the type it is stored in.
    ///
    /// # Errors
    ///
    /// If an element is NaN or infinite, or if the scale does not fit `stored`.
    pub fn scale_of(
        &self,
        dtype: FloatType,
        group: &[u8],
        rounding: Rounding,
        stored: FloatType,
    ) -> Result<f32, NotQuantizable> {
        self.scale_for(self.clip_of(dtype, group, rounding)?, stored)
    }

    /// The clip of a group of elements: the magnitude that maps onto the largest quantized
    /// value.
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

    /// The scale that maps `clip` onto the largest quantized value, rounded to `stored`, the
    /// type it is stored in.
    ///
    /// # Errors
    ///
    /// If the scale does not fit `stored`.
    pub fn scale_for(&self, clip: f64, stored: FloatType) -> Result<f32, NotQuantizable> {
        stored_scale(clip, self.scheme.quantization_type().max(), stored)
            .ok_or(NotQuantizable::ScaleOverflow { absmax: clip })
    }
}
