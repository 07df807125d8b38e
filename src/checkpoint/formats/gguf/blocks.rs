//! ggml's blocks as floats, and floats as Q8_0. The formulas are those of llama.cpp's
//! `ggml-quants.c`, in F32 throughout and in its order of operations.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::format::PackedFormat;
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::tensor::{BlockType, FloatType};
use half::f16;
use std::ops::Range;

/// A tensor stored in blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    stored: StoredId,
    block: BlockType,
    decode: Decode,
}

/// Decodes one block into as many elements as it holds.
type Decode = fn(&[u8], &mut [f32]);

/// Elements of the largest block.
const LARGEST: usize = 256;

impl Blocks {
    /// `None` for a block type that is only named, not decoded.
    pub(crate) fn new(stored: StoredId, block: BlockType) -> Option<Blocks> {
        Some(Blocks { stored, block, decode: decoder(block)? })
    }

    /// The bytes that hold the elements of `range`: whole blocks.
    fn bytes_of(&self, range: &Range<u64>) -> Range<u64> {
        let (elements, bytes) = (self.block.elements(), self.block.bytes());
        range.start / elements * bytes..range.end.div_ceil(elements) * bytes
    }
}

impl PackedFormat for Blocks {
    fn name(&self) -> String {
        self.block.name().to_owned()
    }

    fn original(&self) -> FloatType {
        FloatType::F32
    }

    fn parts(&self) -> Vec<StoredId> {
        vec![self.stored]
    }

    fn decode(
        &self,
        reader: &mut StoredReader,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut stored = Vec::new();
        reader.stored_into(self.stored, self.bytes_of(&range), &mut stored)?;
        out.clear();
        out.reserve((range.end.saturating_sub(range.start) * 4) as usize);
        let mut values = [0f32; LARGEST];
        let values = values.get_mut(..self.block.elements() as usize).unwrap_or_default();
        let mut first = range.start / self.block.elements() * self.block.elements();
        for block in stored.chunks_exact(self.block.bytes() as usize) {
            (self.decode)(block, values);
            let from = range.start.saturating_sub(first) as usize;
            let to = (range.end - first).min(values.len() as u64) as usize;
            for value in values.get(from..to).unwrap_or_default() {
                out.extend_from_slice(&value.to_le_bytes());
            }
            first += values.len() as u64;
        }
        Ok(())
    }
}

fn decoder(block: BlockType) -> Option<Decode> {
    /// A decoder of blocks of `N` bytes, from one of arrays.
    macro_rules! sized {
        ($f:ident, $n:literal) => {
            |block, out| {
                if let Ok(block) = <&[u8; $n]>::try_from(block) {
                    $f(block, out);
                }
            }
        };
    }
    Some(match block {
        BlockType::Q4_0 => sized!(q4_0, 18),
        BlockType::Q4_1 => sized!(q4_1, 20),
        BlockType::Q5_0 => sized!(q5_0, 22),
        BlockType::Q5_1 => sized!(q5_1, 24),
        BlockType::Q8_0 => sized!(q8_0, 34),
        BlockType::Q2_K => sized!(q2_k, 84),
        BlockType::Q3_K => sized!(q3_k, 110),
        BlockType::Q4_K => sized!(q4_k, 144),
        BlockType::Q5_K => sized!(q5_k, 176),
        BlockType::Q6_K => sized!(q6_k, 210),
        BlockType::Q8_K => sized!(q8_k, 292),
        BlockType::IQ4_NL => sized!(iq4_nl, 18),
        BlockType::IQ4_XS => sized!(iq4_xs, 136),
        BlockType::MXFP4 => sized!(mxfp4, 17),
        _ => return None,
    })
}

fn half(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

/// Nibble `e` of 32 that lie in 16 bytes, low nibbles first.
fn nibble(bytes: &[u8], e: usize) -> u8 {
    bytes[e % 16] >> (4 * (e / 16)) & 15
}

fn q4_0(block: &[u8; 18], out: &mut [f32]) {
    let d = half(block[0], block[1]);
    for (e, out) in out.iter_mut().enumerate().take(32) {
        *out = d * (f32::from(nibble(&block[2..], e)) - 8.0);
    }
}

fn q4_1(block: &[u8; 20], out: &mut [f32]) {
    let (d, m) = (half(block[0], block[1]), half(block[2], block[3]));
    for (e, out) in out.iter_mut().enumerate().take(32) {
        *out = d * f32::from(nibble(&block[4..], e)) + m;
    }
}

/// Five bits: the fifth of all elements lie together in four bytes.
fn five_bits(high: &[u8], low: &[u8], e: usize) -> f32 {
    let fifth = high[e / 8] >> (e % 8) & 1;
    f32::from(nibble(low, e) | fifth << 4)
}

fn q5_0(block: &[u8; 22], out: &mut [f32]) {
    let d = half(block[0], block[1]);
    for (e, out) in out.iter_mut().enumerate().take(32) {
        *out = d * (five_bits(&block[2..6], &block[6..], e) - 16.0);
    }
}

fn q5_1(block: &[u8; 24], out: &mut [f32]) {
    let (d, m) = (half(block[0], block[1]), half(block[2], block[3]));
    for (e, out) in out.iter_mut().enumerate().take(32) {
        *out = d * five_bits(&block[4..8], &block[8..], e) + m;
    }
}

fn q8_0(block: &[u8; 34], out: &mut [f32]) {
    let d = half(block[0], block[1]);
    for (q, out) in block[2..].iter().zip(out) {
        *out = d * f32::from(*q as i8);
    }
}

/// Two bits of element `e` of 256: four planes of 32 bytes, twice.
fn two_bits(bytes: &[u8], e: usize) -> u8 {
    bytes[e / 128 * 32 + e % 32] >> (e % 128 / 32 * 2) & 3
}

fn q2_k(block: &[u8; 84], out: &mut [f32]) {
    let (scales, qs) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half(block[80], block[81]), half(block[82], block[83]));
    for (e, out) in out.iter_mut().enumerate().take(256) {
        let scale = scales[e / 16];
        let (dl, ml) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
        *out = dl * f32::from(two_bits(qs, e)) - ml;
    }
}

fn q3_k(block: &[u8; 110], out: &mut [f32]) {
    let (mask, qs, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block[108], block[109]);
    // Sixteen scales of six bits: the low four in eight bytes, the high two in four.
    let scale = |i: usize| {
        let low = packed[i % 8] >> (i / 8 * 4) & 15;
        let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        f32::from((low | high << 4) as i8 - 32)
    };
    for (e, out) in out.iter_mut().enumerate().take(256) {
        // The third bit is stored negated.
        let third = mask[e % 32] >> (e / 32) & 1 ^ 1;
        let q = two_bits(qs, e) as i8 - (third << 2) as i8;
        *out = d * scale(e / 16) * f32::from(q);
    }
}

/// Scale and minimum `i` of the eight of six bits each that 12 bytes hold.
fn scale_and_min(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, min) = match i {
        0..4 => (packed[i] & 63, packed[i + 4] & 63),
        _ => {
            let low = packed[i + 4];
            (low & 15 | packed[i - 4] >> 2 & 48, low >> 4 | packed[i] >> 2 & 48)
        }
    };
    (scale.into(), min.into())
}

/// Nibble `e` of 256: low and high of 32 bytes in turn.
fn k_nibble(bytes: &[u8], e: usize) -> u8 {
    bytes[e / 64 * 32 + e % 32] >> (e % 64 / 32 * 4) & 15
}

fn q4_k(block: &[u8; 144], out: &mut [f32]) {
    let (d, dmin) = (half(block[0], block[1]), half(block[2], block[3]));
    let (packed, qs) = (&block[4..16], &block[16..]);
    for (i, out) in out.chunks_mut(32).enumerate().take(8) {
        let (scale, min) = scale_and_min(packed, i);
        let (d, m) = (d * scale, dmin * min);
        for (e, out) in (i * 32..).zip(out) {
            *out = d * f32::from(k_nibble(qs, e)) - m;
        }
    }
}

fn q5_k(block: &[u8; 176], out: &mut [f32]) {
    let (d, dmin) = (half(block[0], block[1]), half(block[2], block[3]));
    let (packed, high, qs) = (&block[4..16], &block[16..48], &block[48..]);
    for (i, out) in out.chunks_mut(32).enumerate().take(8) {
        let (scale, min) = scale_and_min(packed, i);
        let (d, m) = (d * scale, dmin * min);
        for (e, out) in (i * 32..).zip(out) {
            let fifth = high[e % 32] >> i & 1;
            *out = d * f32::from(k_nibble(qs, e) | fifth << 4) - m;
        }
    }
}

fn q6_k(block: &[u8; 210], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block[208], block[209]);
    for (i, out) in out.chunks_mut(16).enumerate().take(16) {
        let d = d * f32::from(scales[i] as i8);
        for (e, out) in (i * 16..).zip(out) {
            let low = low[e / 128 * 64 + e % 64] >> (e % 128 / 64 * 4) & 15;
            let q = (low | two_bits(high, e) << 4) as i8 - 32;
            *out = d * f32::from(q);
        }
    }
}

fn q8_k(block: &[u8; 292], out: &mut [f32]) {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    // Behind the values lie sums of them, for llama.cpp's own use.
    for (q, out) in block[4..260].iter().zip(out) {
        *out = d * f32::from(*q as i8);
    }
}

const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

fn iq4(nibble: u8) -> f32 {
    f32::from(IQ4_VALUES[usize::from(nibble & 15)])
}

fn iq4_nl(block: &[u8; 18], out: &mut [f32]) {
    let d = half(block[0], block[1]);
    for (e, out) in out.iter_mut().enumerate().take(32) {
        *out = d * iq4(nibble(&block[2..], e));
    }
}

fn iq4_xs(block: &[u8; 136], out: &mut [f32]) {
    let d = half(block[0], block[1]);
    let high = u16::from_le_bytes([block[2], block[3]]);
    let (low, qs) = (&block[4..8], &block[8..]);
    for (i, out) in out.chunks_mut(32).enumerate().take(8) {
        let scale = low[i / 2] >> (i % 2 * 4) & 15 | ((high >> (2 * i) & 3) as u8) << 4;
        let d = d * f32::from(scale as i8 - 32);
        for (e, out) in out.iter_mut().enumerate() {
            *out = d * iq4(nibble(&qs[i * 16..], e));
        }
    }
}

fn mxfp4(block: &[u8; 17], out: &mut [f32]) {
    // The E2M1 values are doubled, the E8M0 scale is halved.
    const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
    let exponent = u32::from(block[0]);
    let d = f32::from_bits(match exponent {
        0..2 => 0x0020_0000 << exponent,
        _ => (exponent - 1) << 23,
    });
    for (e, out) in out.iter_mut().enumerate().take(32) {
        *out = d * f32::from(VALUES[usize::from(nibble(&block[1..], e) & 15)]);
    }
}

/// Elements of a block of Q8_0.
pub(crate) const Q8_0_ELEMENTS: usize = 32;

/// Appends one block of Q8_0: its scale as F16, then its values, rounded half away from
/// zero against the scale before it became F16, as ggml's reference does. `None`: the
/// block has no such form, for it is not finite or its scale is beyond F16.
pub(crate) fn quantize_q8_0(elements: &[f32], out: &mut Vec<u8>) -> Option<()> {
    let finite = elements.iter().all(|x| x.is_finite());
    let absmax = elements.iter().fold(0f32, |max, x| max.max(x.abs()));
    let d = absmax / 127.0;
    let stored = f16::from_f32(d);
    if !finite || !stored.is_finite() {
        return None;
    }
    out.extend_from_slice(&stored.to_le_bytes());
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    for x in elements {
        // The inverse of a subnormal is infinite; such a block reads back as zeros.
        let q = if inverse.is_finite() { (x * inverse).round() } else { 0.0 };
        out.push(q as i8 as u8);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decoder_takes_the_blocks_its_type_has() {
        for &block in BlockType::ALL {
            let Some(decode) = decoder(block) else { continue };
            let mut out = vec![f32::NAN; block.elements() as usize];
            decode(&vec![0; block.bytes() as usize], &mut out);
            assert!(out.iter().all(|x| x.is_finite()), "{block}");
        }
    }

    #[test]
    fn a_block_of_q8_0_holds_its_absmax_at_127() {
        let mut elements = [0f32; 32];
        elements[3] = -12.7;
        elements[4] = 0.05;
        let mut out = Vec::new();
        quantize_q8_0(&elements, &mut out).expect("finite");
        assert_eq!(out.len(), 34);
        assert_eq!((out[5] as i8, out[6] as i8), (-127, 1));
        elements[0] = f32::NAN;
        assert_eq!(quantize_q8_0(&elements, &mut out), None);
        elements[0] = 1e9;
        assert_eq!(quantize_q8_0(&elements, &mut out), None);
    }

    #[test]
    fn a_block_too_small_for_f16_reads_back_as_zeros() {
        let mut out = Vec::new();
        quantize_q8_0(&[1e-41; 32], &mut out).expect("finite");
        assert_eq!(out, [0; 34]);
    }
}
