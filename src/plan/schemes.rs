//! The schemes that can be saved.

use crate::quantization::{Preset, QuantizationScheme};
use crate::tensor::{BlockType, Shape};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The schemes that a budget chooses from in a format that holds any scheme, smallest first.
pub const SCHEMES: [QuantizationScheme; 5] = [
    QuantizationScheme::PER_TENSOR,
    QuantizationScheme::PER_CHANNEL,
    QuantizationScheme::per_block(128),
    QuantizationScheme::per_block(64),
    QuantizationScheme::per_block(32),
];

/// The presets that a budget chooses from, smallest first. The int8 presets have
/// compressed-tensors' own scales, absmax/127.5.
pub const PRESET_SCHEMES: [QuantizationScheme; 9] = [
    QuantizationScheme::Preset(Preset::W4A16(128)),
    QuantizationScheme::Preset(Preset::W4A16Asym(128)),
    QuantizationScheme::Preset(Preset::Mxfp4A16),
    QuantizationScheme::Preset(Preset::Nvfp4A16),
    QuantizationScheme::Preset(Preset::Fp8Block),
    QuantizationScheme::Preset(Preset::Fp8Dynamic),
    QuantizationScheme::Preset(Preset::W8A8),
    QuantizationScheme::Preset(Preset::W8A16(128)),
    QuantizationScheme::Preset(Preset::Mxfp8A16),
];

/// The block types of ggml that a budget chooses from in addition if importance is known. llama.cpp
/// does not write them without importance.
pub const IMPORTANCE_SCHEMES: [QuantizationScheme; 5] = [
    QuantizationScheme::Ggml(BlockType::IQ1_S),
    QuantizationScheme::Ggml(BlockType::IQ2_XXS),
    QuantizationScheme::Ggml(BlockType::IQ2_XS),
    QuantizationScheme::Ggml(BlockType::IQ2_S),
    QuantizationScheme::Ggml(BlockType::IQ3_XXS),
];

/// Group sizes of presets, preferred first.
const GROUP_SIZES: [u32; 3] = [128, 64, 32];

/// Returns the presets that tensors of these shapes are offered. If the size of a group can be
/// chosen, it is the largest that divides all rows, or else the one that divides most elements.
pub(crate) fn fitting_presets(shapes: &[&Shape]) -> Vec<QuantizationScheme> {
    let blocks = GROUP_SIZES.map(QuantizationScheme::per_block).into_iter();
    let size = match dividing_block(shapes, blocks) {
        Some(QuantizationScheme::PerBlock(_, _, size)) => size,
        _ => GROUP_SIZES[0],
    };
    let fitted = PRESET_SCHEMES.iter().filter_map(|scheme| scheme.preset());
    fitted.map(|preset| QuantizationScheme::Preset(preset.with_group(size))).collect()
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

/// Formats the number of tensors of each type as `int4 212, fp8 31, float 9`, fewest bits first.
/// `None` stands for tensors that keep their type.
pub(crate) fn composition(schemes: impl IntoIterator<Item = Option<QuantizationScheme>>) -> String {
    let mut counts: BTreeMap<(u64, Cow<'static, str>), usize> = BTreeMap::new();
    for scheme in schemes {
        let key = match scheme {
            None => (u64::MAX, "float".into()),
            Some(QuantizationScheme::Ggml(block)) => {
                let bits = block.bytes() * 8 * 256 / block.elements().max(1);
                (bits, block.name().into())
            }
            Some(other) => {
                let qtype = other.quantization_type();
                (qtype.bits() * 256, qtype.name().into())
            }
        };
        *counts.entry(key).or_default() += 1;
    }
    let parts: Vec<String> =
        counts.into_iter().map(|((_, name), count)| format!("{name} {count}")).collect();
    parts.join(", ")
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

    #[test]
    fn a_composition_counts_the_types() {
        let presets = [Preset::W4A16(64), Preset::Fp8Dynamic, Preset::W4A16Asym(64)];
        let schemes = presets.map(|preset| Some(QuantizationScheme::Preset(preset)));
        let all = schemes.into_iter().chain([None, Some(QuantizationScheme::PER_CHANNEL)]);
        assert_eq!(composition(all), "int4 2, fp8 1, int8 1, float 1");
    }

    #[test]
    fn groups_follow_the_shapes() {
        let shapes = [[8, 256], [8, 192]].map(|dims| Shape::new(dims).expect("fits"));
        let offered = fitting_presets(&shapes.iter().collect::<Vec<_>>());
        assert_eq!(offered.len(), PRESET_SCHEMES.len());
        assert!(offered.contains(&QuantizationScheme::Preset(Preset::W4A16(64))));
        assert!(offered.contains(&QuantizationScheme::Preset(Preset::W8A16(64))));
        assert!(offered.contains(&QuantizationScheme::Preset(Preset::Mxfp4A16)));
    }
}
