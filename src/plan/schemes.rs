//! The schemes that can be saved.

use crate::quantization::{Preset, QuantizationScheme};

/// What a budget chooses from in a format that holds any scheme, smallest first.
pub const SCHEMES: [QuantizationScheme; 5] = [
    QuantizationScheme::PER_TENSOR,
    QuantizationScheme::PER_CHANNEL,
    QuantizationScheme::per_block(128),
    QuantizationScheme::per_block(64),
    QuantizationScheme::per_block(32),
];

/// The presets that a budget chooses from, smallest first.
pub const PRESET_SCHEMES: [QuantizationScheme; 7] = [
    QuantizationScheme::Preset(Preset::W4A16(128)),
    QuantizationScheme::Preset(Preset::W4A16Asym(128)),
    QuantizationScheme::Preset(Preset::Mxfp4A16),
    QuantizationScheme::Preset(Preset::Nvfp4A16),
    QuantizationScheme::Preset(Preset::Fp8Block),
    QuantizationScheme::Preset(Preset::Fp8Dynamic),
    QuantizationScheme::Preset(Preset::Mxfp8A16),
];

/// Whether a preset can be written. int8 is written with scales of absmax/127.
pub(crate) fn can_be_saved(preset: Preset) -> bool {
    !matches!(preset, Preset::W8A8 | Preset::W8A16(_))
}
