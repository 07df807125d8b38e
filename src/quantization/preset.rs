//! The table of presets.

use crate::quantization::quantization_type::QuantizationType;
use crate::quantization::scale_tiles;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A preset of compressed-tensors under the name that its users know, or a scheme of ComfyUI. The
/// number of a preset with groups is the number of columns that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Preset {
    /// int8 weights with a scale per channel, int8 activations.
    W8A8,
    /// int8 weights in groups.
    W8A16(u32),
    /// int4 weights in groups.
    W4A16(u32),
    /// int4 weights in groups with zero points.
    W4A16Asym(u32),
    /// FP8 weights with a scale per channel, FP8 activations with a scale per token.
    Fp8Dynamic,
    /// FP8 weights with a scale per block of 128×128, FP8 activations in groups of 128.
    Fp8Block,
    /// FP4 weights in groups of 16 with FP8 scales and one global scale.
    Nvfp4A16,
    /// FP4 weights in groups of 32 whose scales are powers of two.
    Mxfp4A16,
    /// FP8 weights in groups of 32 whose scales are powers of two.
    Mxfp8A16,
    /// FP8 weights with one scale per tensor; in compressed-tensors FP8 activations with one recorded
    /// scale per layer.
    Fp8,
    /// FP4 weights in groups of 16 with FP8 scales and one global scale, with the arithmetic and
    /// the order of ComfyUI.
    Nvfp4ComfyUi,
}

/// The elements of a matrix that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresetGroup {
    /// The tensor.
    Tensor,
    /// A row.
    Channel,
    /// A run of this many columns.
    Columns(u32),
    /// A block of this many rows and columns; those at the edges may be smaller.
    Block(u32),
}

/// The number of columns in a group where none is named.
const DEFAULT_GROUP: u32 = 128;

/// ComfyUI pads a matrix in NVFP4 to multiples of this many rows and columns.
const COMFYUI_UNIT: u64 = 16;

/// Rows and columns of a block of [`Preset::Fp8Block`].
const FP8_BLOCK: u32 = 128;

impl Preset {
    /// The presets of compressed-tensors that need weights only, each with its default group.
    pub const ALL: [Preset; 9] = [
        Preset::W8A8,
        Preset::W8A16(DEFAULT_GROUP),
        Preset::W4A16(DEFAULT_GROUP),
        Preset::W4A16Asym(DEFAULT_GROUP),
        Preset::Fp8Dynamic,
        Preset::Fp8Block,
        Preset::Nvfp4A16,
        Preset::Mxfp4A16,
        Preset::Mxfp8A16,
    ];

    /// The schemes of ComfyUI beside int8, smallest first.
    pub const COMFYUI: [Preset; 2] = [Preset::Nvfp4ComfyUi, Preset::Fp8];

    /// The name without the group.
    pub fn name(self) -> &'static str {
        match self {
            Preset::W8A8 => "W8A8",
            Preset::W8A16(_) => "W8A16",
            Preset::W4A16(_) => "W4A16",
            Preset::W4A16Asym(_) => "W4A16_ASYM",
            Preset::Fp8Dynamic => "FP8_DYNAMIC",
            Preset::Fp8Block => "FP8_BLOCK",
            Preset::Nvfp4A16 => "NVFP4A16",
            Preset::Mxfp4A16 => "MXFP4A16",
            Preset::Mxfp8A16 => "MXFP8A16",
            Preset::Fp8 => "FP8",
            Preset::Nvfp4ComfyUi => "NVFP4_COMFYUI",
        }
    }

    /// The name of the stored format in `quantization_config`, or in ComfyUI's marker.
    pub fn format(self) -> &'static str {
        match self {
            Preset::W8A8 => "int-quantized",
            Preset::W8A16(_) | Preset::W4A16(_) | Preset::W4A16Asym(_) => "pack-quantized",
            Preset::Fp8 | Preset::Fp8Dynamic | Preset::Fp8Block => "float-quantized",
            Preset::Nvfp4A16 => "nvfp4-pack-quantized",
            Preset::Mxfp4A16 => "mxfp4-pack-quantized",
            Preset::Mxfp8A16 => "mxfp8-quantized",
            Preset::Nvfp4ComfyUi => "nvfp4",
        }
    }

    /// The type of the quantized elements.
    pub fn quantization_type(self) -> QuantizationType {
        match self {
            Preset::W8A8 | Preset::W8A16(_) => QuantizationType::QInt8,
            Preset::W4A16(_) | Preset::W4A16Asym(_) => QuantizationType::QInt4,
            Preset::Fp8 | Preset::Fp8Dynamic | Preset::Fp8Block | Preset::Mxfp8A16 => {
                QuantizationType::F8E4M3
            }
            Preset::Nvfp4A16 | Preset::Nvfp4ComfyUi | Preset::Mxfp4A16 => QuantizationType::F4E2M1,
        }
    }

    /// The elements that share a scale.
    pub fn group(self) -> PresetGroup {
        match self {
            Preset::Fp8 => PresetGroup::Tensor,
            Preset::W8A8 | Preset::Fp8Dynamic => PresetGroup::Channel,
            Preset::W8A16(columns) | Preset::W4A16(columns) | Preset::W4A16Asym(columns) => {
                PresetGroup::Columns(columns)
            }
            Preset::Fp8Block => PresetGroup::Block(FP8_BLOCK),
            Preset::Nvfp4A16 | Preset::Nvfp4ComfyUi => PresetGroup::Columns(16),
            Preset::Mxfp4A16 | Preset::Mxfp8A16 => PresetGroup::Columns(32),
        }
    }

    /// Whether all groups of a tensor share a global scale, which follows from its largest
    /// magnitude.
    pub fn has_global_scale(self) -> bool {
        matches!(self, Preset::Nvfp4A16 | Preset::Nvfp4ComfyUi | Preset::Fp8)
    }

    /// Whether compressed-tensors dequantizes in BF16, whatever type the weight had.
    pub(crate) fn restores_in_bf16(self) -> bool {
        self == Preset::Nvfp4A16
    }

    /// Whether the tensors that a loader merges share that global scale.
    pub fn shares_global_scale(self) -> bool {
        self == Preset::Nvfp4A16
    }

    /// Rows that must be encoded together, counted from the start of a matrix.
    pub(crate) fn rows_together(self) -> u64 {
        match self {
            Preset::Fp8Block => FP8_BLOCK.into(),
            Preset::Nvfp4ComfyUi => scale_tiles::ROWS,
            // A word holds the zero points of eight rows.
            Preset::W4A16Asym(_) => 8,
            _ => 1,
        }
    }

    /// Why a tensor of `shape` cannot have this preset, if so.
    pub fn obstacle(self, shape: &Shape) -> Option<String> {
        let PresetGroup::Columns(group) = self.group() else { return None };
        let columns = shape.channel_len();
        if self == Preset::Nvfp4ComfyUi {
            let has_unit = |length: u64| length.is_multiple_of(COMFYUI_UNIT);
            let fits = has_unit(columns) && has_unit(shape.channels());
            return (!fits).then(|| {
                format!("its rows and columns are not multiples of {COMFYUI_UNIT}: {shape}")
            });
        }
        if columns.is_multiple_of(group.into()) {
            return None;
        }
        let smaller = [64, 32, 16, 8].into_iter().find(|&n| columns.is_multiple_of(n));
        let advice = match (self.has_group_choice(), smaller) {
            (true, Some(smaller)) => format!("; {}:{smaller} fits", self.name()),
            _ => String::new(),
        };
        Some(format!("groups of {group} do not divide its {columns} columns{advice}"))
    }

    /// Returns the preset with groups of `columns`. A preset whose group size cannot be chosen is
    /// returned unchanged.
    pub fn with_group(self, columns: u32) -> Preset {
        match self {
            Preset::W8A16(_) => Preset::W8A16(columns),
            Preset::W4A16(_) => Preset::W4A16(columns),
            Preset::W4A16Asym(_) => Preset::W4A16Asym(columns),
            other => other,
        }
    }

    /// Whether the number of columns in a group can be chosen.
    fn has_group_choice(self) -> bool {
        matches!(self, Preset::W8A16(_) | Preset::W4A16(_) | Preset::W4A16Asym(_))
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.has_group_choice(), self.group()) {
            (true, PresetGroup::Columns(group)) if group != DEFAULT_GROUP => {
                f.pad(&format!("{}:{group}", self.name()))
            }
            _ => f.pad(self.name()),
        }
    }
}

/// A text that is not the name of a preset.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("unknown preset '{0}'")]
pub struct UnknownPreset(String);

impl FromStr for Preset {
    type Err = UnknownPreset;

    /// Parses a name, with `:N` after it for groups of N columns, a multiple of 8.
    fn from_str(text: &str) -> Result<Preset, UnknownPreset> {
        let unknown = || UnknownPreset(text.to_owned());
        let (name, group) = match text.split_once(':') {
            None => (text, None),
            Some((name, group)) => (name, Some(group.parse::<u32>().map_err(|_| unknown())?)),
        };
        let known = |preset: &Preset| preset.name().eq_ignore_ascii_case(name);
        let all = Preset::ALL.into_iter().chain(Preset::COMFYUI);
        let preset = all.into_iter().find(known).ok_or_else(unknown)?;
        match (preset, group) {
            (preset, None) => Ok(preset),
            // Groups fill whole words of eight codes.
            (_, Some(group)) if group == 0 || group % 8 != 0 => Err(unknown()),
            (Preset::W8A16(_), Some(group)) => Ok(Preset::W8A16(group)),
            (Preset::W4A16(_), Some(group)) => Ok(Preset::W4A16(group)),
            (Preset::W4A16Asym(_), Some(group)) => Ok(Preset::W4A16Asym(group)),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_survive_formatting_and_parsing() {
        for preset in Preset::ALL.into_iter().chain(Preset::COMFYUI) {
            assert_eq!(preset.to_string().parse(), Ok(preset));
        }
        for text in ["W4A16:64", "W8A16:32", "W4A16_ASYM:16"] {
            assert_eq!(text.parse::<Preset>().expect(text).to_string(), text);
        }
        assert_eq!("w4a16".parse(), Ok(Preset::W4A16(128)));
        for text in ["W4A16:0", "W4A16:12", "FP8_DYNAMIC:64", "W3A16", ""] {
            assert!(text.parse::<Preset>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_shape_that_groups_do_not_divide_is_an_obstacle() {
        let shape = Shape::new([4, 192]).expect("fits");
        let why = Preset::W4A16(128).obstacle(&shape).expect("an obstacle");
        assert_eq!(why, "groups of 128 do not divide its 192 columns; W4A16:64 fits");
        for preset in [Preset::W4A16(64), Preset::Nvfp4A16, Preset::Fp8Block, Preset::W8A8] {
            assert_eq!(preset.obstacle(&shape), None);
        }
    }
}
