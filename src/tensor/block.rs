//! ggml's block types: a fixed number of elements packed with their scales.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! blocks {
    ($($id:literal $variant:ident $name:literal $elements:literal $bytes:literal,)*) => {
        /// A type whose elements are stored in blocks of a fixed number of elements and bytes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[allow(non_camel_case_types)]
        pub enum BlockType {
            $(
                #[doc = concat!("`", $name, "` of ggml.")]
                $variant,
            )*
        }

        impl BlockType {
            /// All block types.
            pub const ALL: &'static [BlockType] = &[$(BlockType::$variant,)*];

            /// Returns the type with the given number in GGUF files.
            pub fn from_ggml(id: u32) -> Option<BlockType> {
                match id {
                    $($id => Some(BlockType::$variant),)*
                    _ => None,
                }
            }

            /// The number in GGUF files.
            pub fn ggml(self) -> u32 {
                match self {
                    $(BlockType::$variant => $id,)*
                }
            }

            /// The name in ggml.
            pub fn name(self) -> &'static str {
                match self {
                    $(BlockType::$variant => $name,)*
                }
            }

            /// Elements of one block.
            pub fn elements(self) -> u64 {
                match self {
                    $(BlockType::$variant => $elements,)*
                }
            }

            /// Bytes of one block.
            pub fn bytes(self) -> u64 {
                match self {
                    $(BlockType::$variant => $bytes,)*
                }
            }
        }
    };
}

// Numbers as in ggml.h; sizes as in its block structs.
blocks! {
    2 Q4_0 "Q4_0" 32 18,
    3 Q4_1 "Q4_1" 32 20,
    // Numbers 4, 5, 31 to 33 and 36 to 38 were removed from ggml; files with them exist.
    4 Q4_2 "Q4_2" 16 10,
    5 Q4_3 "Q4_3" 16 12,
    6 Q5_0 "Q5_0" 32 22,
    7 Q5_1 "Q5_1" 32 24,
    8 Q8_0 "Q8_0" 32 34,
    9 Q8_1 "Q8_1" 32 40,
    10 Q2_K "Q2_K" 256 84,
    11 Q3_K "Q3_K" 256 110,
    12 Q4_K "Q4_K" 256 144,
    13 Q5_K "Q5_K" 256 176,
    14 Q6_K "Q6_K" 256 210,
    15 Q8_K "Q8_K" 256 292,
    16 IQ2_XXS "IQ2_XXS" 256 66,
    17 IQ2_XS "IQ2_XS" 256 74,
    18 IQ3_XXS "IQ3_XXS" 256 98,
    19 IQ1_S "IQ1_S" 256 50,
    20 IQ4_NL "IQ4_NL" 32 18,
    21 IQ3_S "IQ3_S" 256 110,
    22 IQ2_S "IQ2_S" 256 82,
    23 IQ4_XS "IQ4_XS" 256 136,
    29 IQ1_M "IQ1_M" 256 56,
    31 Q4_0_4_4 "Q4_0_4_4" 32 18,
    32 Q4_0_4_8 "Q4_0_4_8" 32 18,
    33 Q4_0_8_8 "Q4_0_8_8" 32 18,
    34 TQ1_0 "TQ1_0" 256 54,
    35 TQ2_0 "TQ2_0" 256 66,
    36 IQ4_NL_4_4 "IQ4_NL_4_4" 32 18,
    37 IQ4_NL_4_8 "IQ4_NL_4_8" 32 18,
    38 IQ4_NL_8_8 "IQ4_NL_8_8" 32 18,
    39 MXFP4 "MXFP4" 32 17,
    40 NVFP4 "NVFP4" 64 36,
    41 Q1_0 "Q1_0" 128 18,
    42 Q2_0 "Q2_0" 64 18,
}

impl BlockType {
    /// Returns whether ggml writes the type to files. The others were removed from ggml, or exist
    /// in memory only.
    pub fn is_written(self) -> bool {
        !matches!(
            self,
            BlockType::Q4_2
                | BlockType::Q4_3
                | BlockType::Q8_1
                | BlockType::Q8_K
                | BlockType::Q4_0_4_4
                | BlockType::Q4_0_4_8
                | BlockType::Q4_0_8_8
                | BlockType::IQ4_NL_4_4
                | BlockType::IQ4_NL_4_8
                | BlockType::IQ4_NL_8_8
        )
    }

    /// Returns the type that llama.cpp uses for rows of `row_len` elements: this one if its blocks
    /// divide the rows, else one with smaller blocks. `None` if neither divides them.
    pub fn fitting(self, row_len: u64) -> Option<BlockType> {
        let divides = |block: BlockType| row_len > 0 && row_len.is_multiple_of(block.elements());
        if divides(self) {
            return Some(self);
        }
        let smaller = match self {
            BlockType::IQ1_S
            | BlockType::IQ1_M
            | BlockType::IQ2_XXS
            | BlockType::IQ2_XS
            | BlockType::IQ2_S
            | BlockType::IQ3_XXS
            | BlockType::IQ3_S
            | BlockType::IQ4_XS => BlockType::IQ4_NL,
            BlockType::Q2_0
            | BlockType::Q2_K
            | BlockType::Q3_K
            | BlockType::TQ1_0
            | BlockType::TQ2_0 => BlockType::Q4_0,
            BlockType::Q4_K => BlockType::Q5_0,
            BlockType::Q5_K => BlockType::Q5_1,
            BlockType::Q6_K => BlockType::Q8_0,
            _ => return None,
        };
        divides(smaller).then_some(smaller)
    }
}

impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
