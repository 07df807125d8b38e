//! The schemes that can be saved.

use crate::quantization::{Preset, QuantizationScheme};
use crate::tensor::{BlockType, Shape};

/// The schemes that a budget chooses from in a format that holds any scheme, smallest first.
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

/// The block types of ggml that a budget chooses from where importance is known, besides the
/// others of GGUF: llama.cpp refuses them without.
pub const IMPORTANCE_SCHEMES: [QuantizationScheme; 5] = [
    QuantizationScheme::Ggml(BlockType::IQ1_S),
    QuantizationScheme::Ggml(BlockType::IQ2_XXS),
    QuantizationScheme::Ggml(BlockType::IQ2_XS),
    QuantizationScheme::Ggml(BlockType::IQ2_S),
    QuantizationScheme::Ggml(BlockType::IQ3_XXS),
];

/// Returns whether a preset can be written. The int8 presets cannot: int8 is written with scales
/// of absmax/127.
pub(crate) fn can_be_saved(preset: Preset) -> bool {
    !matches!(preset, Preset::W8A8 | Preset::W8A16(_))
}

/// Returns the block size that divides the rows of most elements. `blocks` are in order of
/// preference. `None` if no size divides the rows of at least half of all elements.
pub(crate) fn dividing_block(
    shapes: &[&Shape],
    blocks: impl Iterator<Item = QuantizationScheme>,
) -> Option<QuantizationScheme> {
    let elements = |shapes: &mut dyn Iterator<Item = &&Shape>| -> u64 {
        shapes.map(|shape| shape.elements()).fold(0, u64::saturating_add)
    };
    let mut best = None;
    for scheme in blocks {
        let QuantizationScheme::PerBlock(_, _, size) = scheme else { continue };
        let divides = |shape: &&&Shape| shape.row_len().is_multiple_of(u64::from(size));
        let divided = elements(&mut shapes.iter().filter(divides));
        if best.is_none_or(|(most, _)| divided > most) {
            best = Some((divided, scheme));
        }
    }
    let all = elements(&mut shapes.iter());
    best.filter(|(divided, _)| *divided >= all.div_ceil(2)).map(|(_, scheme)| scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_that_divides_most_is_chosen() {
        let blocks = || [128, 64, 32].map(QuantizationScheme::per_block).into_iter();
        let chosen = |rows: &[[u64; 2]]| {
            let shapes: Vec<Shape> =
                rows.iter().map(|dims| Shape::new(dims.as_slice()).expect("fits")).collect();
            dividing_block(&shapes.iter().collect::<Vec<_>>(), blocks())
        };
        assert_eq!(chosen(&[[8, 256], [8, 128]]), Some(QuantizationScheme::per_block(128)));
        assert_eq!(chosen(&[[8, 256], [8, 64]]), Some(QuantizationScheme::per_block(64)));
        assert_eq!(chosen(&[[8, 256], [8, 108]]), Some(QuantizationScheme::per_block(128)));
        assert_eq!(chosen(&[[8, 108], [8, 108], [8, 64]]), None);
    }
}
