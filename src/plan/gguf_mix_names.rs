//! The names of llama.cpp's mixes.

use crate::tensor::BlockType;
use std::fmt;
use std::str::FromStr;

/// A mix of block types with its name in `llama-quantize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgufMix(&'static MixRow);

#[derive(Debug, PartialEq, Eq)]
struct MixRow {
    name: &'static str,
    /// The number in `general.file_type`.
    file_type: u32,
    /// The type of tensors to which no rule applies.
    base: BlockType,
}

macro_rules! mixes {
    ($($name:ident $file_type:literal $base:ident,)*) => {
        const MIXES: &[MixRow] = &[
            $(MixRow { name: stringify!($name), file_type: $file_type, base: BlockType::$base },)*
        ];
    };
}

mixes! {
    Q4_0 2 Q4_0,
    Q4_1 3 Q4_1,
    Q8_0 7 Q8_0,
    Q5_0 8 Q5_0,
    Q5_1 9 Q5_1,
    Q2_K 10 Q2_K,
    Q3_K_S 11 Q3_K,
    Q3_K_M 12 Q3_K,
    Q3_K_L 13 Q3_K,
    Q4_K_S 14 Q4_K,
    Q4_K_M 15 Q4_K,
    Q5_K_S 16 Q5_K,
    Q5_K_M 17 Q5_K,
    Q6_K 18 Q6_K,
    IQ2_XXS 19 IQ2_XXS,
    IQ2_XS 20 IQ2_XS,
    Q2_K_S 21 Q2_K,
    IQ3_XS 22 IQ3_S,
    IQ3_XXS 23 IQ3_XXS,
    IQ1_S 24 IQ1_S,
    IQ4_NL 25 IQ4_NL,
    IQ3_S 26 IQ3_S,
    IQ3_M 27 IQ3_S,
    IQ2_S 28 IQ2_XS,
    IQ2_M 29 IQ2_S,
    IQ4_XS 30 IQ4_XS,
    IQ1_M 31 IQ1_M,
    TQ1_0 36 TQ1_0,
    TQ2_0 37 TQ2_0,
    MXFP4_MOE 38 MXFP4,
    NVFP4 39 NVFP4,
    Q1_0 40 Q1_0,
    Q2_0 41 Q2_0,
}

/// The error for a text that is not the name of a mix.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("unknown mix '{0}': expected one of llama.cpp's, such as Q4_K_M")]
pub struct UnknownMix(String);

impl FromStr for GgufMix {
    type Err = UnknownMix;

    /// Parses the name of a mix, which is in capitals. The same name in small letters is a block
    /// type.
    fn from_str(text: &str) -> Result<GgufMix, UnknownMix> {
        let row = MIXES.iter().find(|row| row.name == text);
        row.map(GgufMix).ok_or_else(|| UnknownMix(text.to_owned()))
    }
}

impl fmt::Display for GgufMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.name)
    }
}

impl GgufMix {
    /// All mixes.
    pub fn all() -> impl Iterator<Item = GgufMix> {
        MIXES.iter().map(GgufMix)
    }

    /// The mix named like a block type, or whose tensors are mostly of that type.
    pub(crate) fn mostly(block: BlockType) -> Option<GgufMix> {
        let medium = MIXES.iter().find(|row| row.name.strip_suffix("_M") == Some(block.name()));
        let same = || MIXES.iter().find(|row| row.name == block.name() && row.base == block);
        let based = || MIXES.iter().find(|row| row.base == block);
        medium.or_else(same).or_else(based).map(GgufMix)
    }

    pub(super) fn name(self) -> &'static str {
        self.0.name
    }

    /// The number in `general.file_type`.
    pub(super) fn file_type(self) -> u32 {
        self.0.file_type
    }

    /// The type of tensors to which no rule applies.
    pub(super) fn base(self) -> BlockType {
        self.0.base
    }
}
