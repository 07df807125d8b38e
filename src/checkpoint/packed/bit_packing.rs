//! Small integers packed into bytes.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::runs::{runs, take};
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use std::ops::Range;

/// The packing of integers into the bytes of a row, lowest bits first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// As many as fit a 32-bit word; none spans two words.
    Words { bits: u32 },
    /// A contiguous bit stream.
    Stream { bits: u32 },
}

impl Packing {
    pub(super) fn bits(self) -> u32 {
        match self {
            Packing::Words { bits } | Packing::Stream { bits } => bits,
        }
    }

    /// Returns the bytes that contain the integers `start..end` of a row.
    pub(super) fn bytes(self, start: u64, end: u64) -> Range<u64> {
        match self {
            Packing::Words { bits } => {
                let per_word = u64::from(32 / bits.clamp(1, 32));
                start / per_word * 4..end.div_ceil(per_word) * 4
            }
            Packing::Stream { bits } => {
                let bits = u64::from(bits);
                start * bits / 8..(end * bits).div_ceil(8)
            }
        }
    }

    /// Returns the index of the 32-bit word in which integer `index` starts.
    pub(super) fn words(self, index: u64) -> u64 {
        match self {
            Packing::Words { bits } => index / u64::from(32 / bits.clamp(1, 32)),
            Packing::Stream { bits } => index * u64::from(bits) / 32,
        }
    }

    /// Returns integer `index` of a sequence of 32-bit words.
    pub(super) fn in_words(self, word: impl Fn(u64) -> u32, index: u64) -> u32 {
        match self {
            Packing::Words { bits } => {
                let per_word = u64::from(32 / bits.clamp(1, 32));
                let shift = (index % per_word) as u32 * bits;
                word(index / per_word) >> shift & mask(bits)
            }
            Packing::Stream { bits } => in_words(word, index * u64::from(bits), bits),
        }
    }

    /// Fills `out` with the integers of a row from `start`. `bytes` is the range returned by
    /// [`Packing::bytes`].
    pub(super) fn unpack(self, bytes: &[u8], start: u64, out: &mut [u8]) {
        match self {
            Packing::Words { bits: 8 } | Packing::Stream { bits: 8 } => {
                let skipped = match self {
                    Packing::Words { .. } => (start % 4) as usize,
                    Packing::Stream { .. } => 0,
                };
                let from = bytes.get(skipped..).unwrap_or_default();
                out.iter_mut().zip(from).for_each(|(out, &code)| *out = code);
            }
            Packing::Words { bits } => {
                let (per_word, mask) = ((32 / bits.clamp(1, 32)) as usize, mask(bits));
                let mut skip = (start % per_word as u64) as usize;
                let mut left = out;
                for word in bytes.as_chunks::<4>().0 {
                    let word = u32::from_le_bytes(*word);
                    let here = take(&mut left, per_word - skip);
                    for (k, out) in here.iter_mut().enumerate() {
                        *out = ((word >> ((k + skip) as u32 * bits)) & mask) as u8;
                    }
                    skip = 0;
                }
            }
            Packing::Stream { bits } => {
                let first = start * u64::from(bits) / 8 * 8;
                let mut at = (start * u64::from(bits) - first) as usize;
                for out in out {
                    let low = bytes.get(at / 8).copied().unwrap_or(0);
                    let high = bytes.get(at / 8 + 1).copied().unwrap_or(0);
                    let both = u32::from(u16::from_le_bytes([low, high]));
                    *out = ((both >> (at % 8)) & mask(bits)) as u8;
                    at += bits as usize;
                }
            }
        }
    }
}

/// Reads the bytes that contain the elements of `range`, in rows of `row_bytes` each, and returns
/// their offset in the stored tensor.
pub(super) fn packed_rows(
    reader: &mut StoredReader,
    values: StoredId,
    packing: Packing,
    row_bytes: u64,
    range: &Range<u64>,
    row_len: u64,
) -> Result<(u64, Vec<u8>)> {
    let bound = |row: u64, columns: Range<u64>| {
        let here = packing.bytes(columns.start, columns.end);
        row * row_bytes + here.start..row * row_bytes + here.end
    };
    let mut all = runs(range.clone(), row_len).map(|(row, columns)| bound(row, columns));
    let Some(first) = all.next() else { return Ok((0, Vec::new())) };
    let end = match range.end - 1 {
        last if last / row_len == range.start / row_len => first.end,
        last => bound(last / row_len, 0..last % row_len + 1).end,
    };
    let mut bytes = Vec::new();
    reader.stored_into(values, first.start..end, &mut bytes)?;
    Ok((first.start, bytes))
}

/// Returns the integer of `bits` bits at bit `at` of a stream of 32-bit words.
pub(super) fn in_words(word: impl Fn(u64) -> u32, at: u64, bits: u32) -> u32 {
    let (index, shift) = (at / 32, (at % 32) as u32);
    let low = u64::from(word(index));
    let high = if shift + bits > 32 { u64::from(word(index + 1)) } else { 0 };
    ((low | high << 32) >> shift) as u32 & mask(bits)
}

fn mask(bits: u32) -> u32 {
    if bits >= 32 { u32::MAX } else { (1 << bits) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unpacks bit by bit, straight from the definition.
    fn plain(bytes: &[u8], packing: Packing, index: u64) -> u8 {
        let bits = u64::from(packing.bits());
        let start = match packing {
            Packing::Words { .. } => index / (32 / bits) * 32 + index % (32 / bits) * bits,
            Packing::Stream { .. } => index * bits,
        };
        (0..bits).fold(0, |code, bit| {
            let at = start + bit;
            code | (bytes[(at / 8) as usize] >> (at % 8) & 1) << bit
        })
    }

    #[test]
    fn unpacking_a_run_equals_unpacking_bit_by_bit() {
        let row: Vec<u8> = (0..120u32).map(|i| (i * 151 + 7) as u8).collect();
        for bits in 1..=8 {
            for packing in [Packing::Words { bits }, Packing::Stream { bits }] {
                for (start, end) in [(0, 90), (1, 2), (3, 77), (31, 64), (5, 5)] {
                    let bytes = packing.bytes(start, end);
                    let mut out = vec![0; (end - start) as usize];
                    packing.unpack(&row[bytes.start as usize..bytes.end as usize], start, &mut out);
                    for (k, code) in out.iter().enumerate() {
                        assert_eq!(*code, plain(&row, packing, start + k as u64), "{packing:?}");
                    }
                }
            }
        }
        let word = |i: u64| {
            let at = i as usize * 4;
            u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]])
        };
        for bits in [2, 3, 4, 8] {
            for i in 0..96 {
                let expected = plain(&row, Packing::Stream { bits }, i);
                assert_eq!(in_words(word, i * u64::from(bits), bits), u32::from(expected));
            }
        }
    }
}
