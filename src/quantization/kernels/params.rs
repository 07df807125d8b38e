//! Parameters for quantizing one element or one group.

use crate::quantization::quantization_type::QuantizationType;
use crate::quantization::scheme::Rounding;

/// The scale, the type of the quantized values, and the rounding of ties.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    /// The scale.
    pub scale: f32,
    /// The type of the quantized values.
    pub qtype: QuantizationType,
    /// The rounding of ties.
    pub rounding: Rounding,
}
