//! Element types with their safetensors names, and ggml's block types.

use super::BlockType;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

macro_rules! dtypes {
    ($($variant:ident $name:literal $bits:literal,)*) => {
        /// The type of a tensor's elements. Tensors of an unknown type are listed and copied,
        /// but not computed with.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DType {
            $(
                #[doc = concat!("`", $name, "` of safetensors.")]
                $variant,
            )*
            /// A block type of ggml.
            Block(BlockType),
            /// A type that is only known by its name.
            Other(Arc<str>),
        }

        impl DType {
            /// Every type of the safetensors format.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];

            /// Returns the type with the given safetensors name; `Other` for an unknown name.
            pub fn from_name(name: &str) -> DType {
                match name {
                    $($name => DType::$variant,)*
                    other => DType::Other(other.into()),
                }
            }

            /// The safetensors name.
            pub fn name(&self) -> &str {
                match self {
                    $(DType::$variant => $name,)*
                    DType::Block(block) => block.name(),
                    DType::Other(name) => name,
                }
            }

            /// Bits per element; `None` for blocks and for a type known only by its name.
            pub fn bits(&self) -> Option<u64> {
                match self {
                    $(DType::$variant => Some($bits),)*
                    DType::Block(_) | DType::Other(_) => None,
                }
            }
        }
    };
}

dtypes! {
    Bool "BOOL" 8,
    F4 "F4" 4,
    F6E2M3 "F6_E2M3" 6,
    F6E3M2 "F6_E3M2" 6,
    U8 "U8" 8,
    I8 "I8" 8,
    F8E5M2 "F8_E5M2" 8,
    F8E4M3 "F8_E4M3" 8,
    F8E8M0 "F8_E8M0" 8,
    F8E4M3Fnuz "F8_E4M3FNUZ" 8,
    F8E5M2Fnuz "F8_E5M2FNUZ" 8,
    I16 "I16" 16,
    U16 "U16" 16,
    F16 "F16" 16,
    BF16 "BF16" 16,
    I32 "I32" 32,
    U32 "U32" 32,
    F32 "F32" 32,
    C64 "C64" 64,
    F64 "F64" 64,
    I64 "I64" 64,
    U64 "U64" 64,
}

impl DType {
    /// The floating type that is measured and quantized, if this is one.
    pub fn float(&self) -> Option<FloatType> {
        match self {
            DType::F64 => Some(FloatType::F64),
            DType::F32 => Some(FloatType::F32),
            DType::F16 => Some(FloatType::F16),
            DType::BF16 => Some(FloatType::BF16),
            _ => None,
        }
    }

    /// Bytes of `elements` elements; `None` when the type is unknown, the count does not
    /// fill whole bytes or blocks, or the product overflows.
    pub fn bytes_for(&self, elements: u64) -> Option<u64> {
        if let DType::Block(block) = self {
            let whole = elements.is_multiple_of(block.elements());
            return (elements / block.elements()).checked_mul(block.bytes()).filter(|_| whole);
        }
        let bits = self.bits()?.checked_mul(elements)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A floating type whose elements are read as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FloatType {
    /// IEEE 754 double precision.
    F64,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16: the upper half of an F32.
    BF16,
}

impl FloatType {
    /// All float types.
    pub const ALL: [FloatType; 4] =
        [FloatType::F64, FloatType::F32, FloatType::F16, FloatType::BF16];

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            FloatType::F64 => 8,
            FloatType::F32 => 4,
            FloatType::F16 | FloatType::BF16 => 2,
        }
    }

    /// The corresponding element type.
    pub fn dtype(self) -> DType {
        match self {
            FloatType::F64 => DType::F64,
            FloatType::F32 => DType::F32,
            FloatType::F16 => DType::F16,
            FloatType::BF16 => DType::BF16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_type() {
        for dtype in DType::ALL {
            assert_eq!(&DType::from_name(dtype.name()), dtype);
        }
        assert_eq!(DType::from_name("F3_NEW").name(), "F3_NEW");
        assert_eq!(DType::from_name("F3_NEW").bits(), None);
    }

    #[test]
    fn sizes_that_are_not_whole_bytes_are_refused() {
        assert_eq!(DType::F4.bytes_for(6), Some(3));
        assert_eq!(DType::F4.bytes_for(5), None);
        assert_eq!(DType::F6E2M3.bytes_for(4), Some(3));
        assert_eq!(DType::F64.bytes_for(u64::MAX / 8), None);
        assert_eq!(DType::Block(BlockType::Q4_K).bytes_for(512), Some(288));
        assert_eq!(DType::Block(BlockType::Q8_0).bytes_for(33), None);
        assert_eq!(DType::Block(BlockType::Q8_K).bytes_for(u64::MAX / 256 * 256), None);
    }
}
