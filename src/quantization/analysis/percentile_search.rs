//! Finds a percentile of magnitudes by reading them several times instead of sorting them.
//!
//! The bits of a magnitude order as the magnitude does, so the percentile is found 16 bits at
//! a time: each pass counts the next 16 bits of the magnitudes that begin with the bits found
//! so far.

use crate::tensor::{FloatType, read_f64};

/// How many magnitudes continue with each 16-bit digit, in ascending order of the digits.
pub(super) type DigitCounts = Vec<(u16, u64)>;

/// The search for the magnitude of a given rank.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PercentileSearch {
    /// The leading bits of the magnitude found so far.
    prefix: u64,
    /// The rank, counted from 1, among the magnitudes that begin with `prefix`.
    rank: u64,
}

impl PercentileSearch {
    pub(super) fn new(rank: u64) -> PercentileSearch {
        PercentileSearch { prefix: 0, rank }
    }

    /// Counts the digit that follows the prefix, for the magnitudes that begin with it.
    /// `remaining` is the number of bits after that digit.
    pub(super) fn count(&self, dtype: FloatType, bytes: &[u8], remaining: u32) -> DigitCounts {
        let mut counts = vec![0u32; 1 << 16];
        let size = dtype.size();
        let sign = 1u64 << (8 * size - 1);
        for raw in bytes.chunks_exact(size) {
            let mut wide = [0; 8];
            wide[..size].copy_from_slice(raw);
            let magnitude = u64::from_le_bytes(wide) & !sign;
            if (magnitude >> remaining) >> 16 == self.prefix
                && let Some(count) = counts.get_mut(usize::from((magnitude >> remaining) as u16))
            {
                *count += 1;
            }
        }
        let counted = (0..=u16::MAX).zip(counts).filter(|&(_, n)| n > 0);
        counted.map(|(digit, n)| (digit, u64::from(n))).collect()
    }

    /// Appends the digit of the wanted magnitude to the prefix. Returns false if there are
    /// fewer magnitudes than the rank.
    pub(super) fn narrow(&mut self, counts: &DigitCounts) -> bool {
        for &(digit, count) in counts {
            if self.rank <= count {
                self.prefix = self.prefix << 16 | u64::from(digit);
                return true;
            }
            self.rank -= count;
        }
        false
    }

    /// The magnitude, once all its bits are found.
    pub(super) fn magnitude(&self, dtype: FloatType) -> Option<f64> {
        read_f64(dtype, &self.prefix.to_le_bytes(), 0)
    }
}
