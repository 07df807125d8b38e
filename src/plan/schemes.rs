//! The schemes that can be saved.

use crate::quantization::QuantizationScheme;

/// What a budget chooses from in a format that holds any scheme, smallest first.
pub const SCHEMES: [QuantizationScheme; 5] = [
    QuantizationScheme::PER_TENSOR,
    QuantizationScheme::PER_CHANNEL,
    QuantizationScheme::per_block(128),
    QuantizationScheme::per_block(64),
    QuantizationScheme::per_block(32),
];
