//! Parameters for quantizing one element or one group.

use crate::quantization::quantization_type::QuantizationType;
use crate::quantization::scheme::Rounding;

/// The scale, the type of the quantized values, and the rounding of ties.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    pub scale: f32,
    pub qtype: QuantizationType,
    pub rounding: Rounding,
}
