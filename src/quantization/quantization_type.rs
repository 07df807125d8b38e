//! The types that elements are quantized to.

use serde::{Deserialize, Serialize};

/// The type of quantized elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum QuantizationType {
    /// Integers from −127 to 127.
    QInt8,
    /// Integers from −7 to 7; presets have −8 too.
    QInt4,
    /// 8-bit floats with 4 exponent and 3 significand bits, up to ±448.
    F8E4M3,
    /// 4-bit floats with 2 exponent bits and 2 significand bits, up to ±6: 0, 0.5, 1, 1.5, 2, 3,
    /// 4 and 6. Presets have it.
    F4E2M1,
}

impl QuantizationType {
    /// The largest value, which the clip is mapped onto.
    pub fn max(self) -> f32 {
        match self {
            QuantizationType::QInt8 => 127.0,
            QuantizationType::QInt4 => 7.0,
            QuantizationType::F8E4M3 => 448.0,
            QuantizationType::F4E2M1 => 6.0,
        }
    }

    /// The name in schemes and documents.
    pub fn name(self) -> &'static str {
        match self {
            QuantizationType::QInt8 => "int8",
            QuantizationType::QInt4 => "int4",
            QuantizationType::F8E4M3 => "fp8",
            QuantizationType::F4E2M1 => "fp4",
        }
    }

    /// Bits of a stored element.
    pub fn bits(self) -> u64 {
        match self {
            QuantizationType::QInt8 | QuantizationType::F8E4M3 => 8,
            QuantizationType::QInt4 | QuantizationType::F4E2M1 => 4,
        }
    }

    /// Number of distinct values.
    pub fn levels(self) -> u32 {
        match self {
            QuantizationType::QInt8 => 255,
            QuantizationType::QInt4 => 15,
            QuantizationType::F8E4M3 => 253,
            QuantizationType::F4E2M1 => 15,
        }
    }
}
