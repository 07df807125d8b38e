//! Packs levels into their stored bytes.

use crate::quantization::kernels::integer_byte;
use crate::quantization::preset::Preset;
use crate::tensor::minifloat::Minifloat;

/// Number of bits of a code.
pub(super) fn code_bits(preset: Preset) -> u64 {
    preset.quantization_type().bits()
}

/// Returns the stored code of a level. Packed integers are offset by half their range.
#[inline(always)]
pub(super) fn code(preset: Preset, level: f32) -> u8 {
    match preset {
        Preset::W8A8 => integer_byte(level),
        Preset::W8A16(_) => integer_byte(level).wrapping_add(128),
        Preset::W4A16(_) | Preset::W4A16Asym(_) => integer_byte(level).wrapping_add(8),
        Preset::Fp8Dynamic | Preset::Fp8Block | Preset::Mxfp8A16 => {
            minifloat(Minifloat::E4M3, level)
        }
        Preset::Nvfp4A16 | Preset::Mxfp4A16 => minifloat(Minifloat::E2M1, level),
    }
}

#[inline(always)]
fn minifloat(format: Minifloat, level: f32) -> u8 {
    format.signed(format.nearest(level.abs()).1, level) as u8
}

/// Fills `out` with the codes of a row's levels: one byte each, or two per byte with the even
/// column in the low nibble, which equals packing into little-endian 32-bit words.
#[inline(always)]
pub(super) fn pack_row(preset: Preset, levels: &[f32], out: &mut [u8]) {
    match code_bits(preset) {
        8 => {
            let pairs = out.iter_mut().zip(levels);
            pairs.for_each(|(byte, &level)| *byte = code(preset, level));
        }
        _ => {
            let pairs = out.iter_mut().zip(levels.as_chunks::<2>().0);
            pairs.for_each(|(byte, &[even, odd])| {
                *byte = code(preset, even) | code(preset, odd) << 4;
            });
        }
    }
}

/// Appends the zero points of up to eight rows of groups, eight per word, the first row in the low
/// bits.
pub(super) fn pack_zero_points(rows: &[&[f32]], out: &mut Vec<u8>) {
    let across = rows.first().map_or(0, |row| row.len());
    for column in 0..across {
        let zeros = rows.iter().filter_map(|row| row.get(column));
        let word = zeros
            .zip(0..)
            .fold(0u32, |word, (&zero, row)| word | ((zero as i32 + 8) as u32) << (4 * row));
        out.extend(word.to_le_bytes());
    }
}
