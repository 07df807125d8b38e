//! How one element, or a group with one scale, is quantized.

use crate::quantization::quantization_type::QuantizationType;
use crate::quantization::scheme::Rounding;

/// The scale, the type of the quantized values, and the rounding of values half-way between
/// two of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    pub scale: f32,
    pub qtype: QuantizationType,
    pub rounding: Rounding,
}
