//! Packs codes into their stored bytes.

use crate::quantization::preset::Preset;
use crate::quantization::quantization_type::QuantizationType;

/// Number of bits of a code.
pub(super) fn code_bits(preset: Preset) -> u64 {
    preset.quantization_type().bits()
}

/// Returns what is added to the code of an integer when it is packed: half the range.
pub(super) fn packed_offset(preset: Preset) -> u8 {
    match preset {
        Preset::W8A16(_) => 128,
        Preset::W4A16(_) | Preset::W4A16Asym(_) => 8,
        _ => 0,
    }
}

/// Returns the code of negative zero; `None` for integers.
pub(super) fn negative_zero(preset: Preset) -> Option<u8> {
    match preset.quantization_type() {
        QuantizationType::F8E4M3 => Some(0x80),
        QuantizationType::F4E2M1 => Some(8),
        QuantizationType::QInt8 | QuantizationType::QInt4 => None,
    }
}

/// Fills `out` with the codes of a row: one byte each, or two per byte with the even column in the
/// low nibble, which equals packing into little-endian 32-bit words. ComfyUI has the even column in
/// the high nibble.
#[inline(always)]
pub(super) fn pack_row(preset: Preset, codes: &[u8], out: &mut [u8]) {
    let offset = packed_offset(preset);
    match code_bits(preset) {
        8 => {
            let pairs = out.iter_mut().zip(codes);
            pairs.for_each(|(byte, code)| *byte = code.wrapping_add(offset));
        }
        _ if preset == Preset::Nvfp4ComfyUi => {
            let pairs = out.iter_mut().zip(codes.as_chunks::<2>().0);
            pairs.for_each(|(byte, [even, odd])| *byte = even << 4 | odd & 15);
        }
        _ => {
            let pairs = out.iter_mut().zip(codes.as_chunks::<2>().0);
            pairs.for_each(|(byte, [even, odd])| {
                *byte = even.wrapping_add(offset) & 15 | odd.wrapping_add(offset) << 4;
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
