//! Tracks which of the 256 quantized levels occur, without setting a flag for every element.
//!
//! The loops only test whether a short run of elements may contain a level that was not seen
//! before, and revisit the run if so. After a few runs all frequent levels are known and runs
//! are rarely revisited.

use crate::quantization::kernels::array_lanes::{Lanes, map};
use crate::quantization::statistics::LevelSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The levels seen so far. Passing the same value to several calls avoids searching again for
/// levels that earlier calls have seen.
#[derive(Clone, Copy)]
pub struct SeenLevels(pub(super) LevelTracker);

impl Default for SeenLevels {
    fn default() -> Self {
        SeenLevels(LevelTracker::new())
    }
}

impl std::fmt::Debug for SeenLevels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SeenLevels").field(&self.0.seen()).finish()
    }
}

/// The levels seen by all threads so far.
///
/// Timing affects how often a thread searches for levels, but never the result.
#[derive(Debug, Default)]
pub(crate) struct SharedSeenLevels(Mutex<SeenLevels>);

impl SharedSeenLevels {
    /// A copy of the levels seen so far.
    pub(crate) fn get(&self) -> SeenLevels {
        *self.lock()
    }

    /// Adds levels that were seen in one call.
    pub(crate) fn add(&self, seen: &SeenLevels) {
        self.lock().0.merge(&seen.0);
    }

    fn lock(&self) -> MutexGuard<'_, SeenLevels> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for SharedSeenLevels {
    fn clone(&self) -> Self {
        SharedSeenLevels(Mutex::new(self.get()))
    }
}

/// The levels seen so far, in the form that each instruction set needs for its lookup.
#[derive(Clone, Copy)]
pub(super) struct LevelTracker {
    /// One bit for each code, set until the code is seen.
    pub(super) missing: [u32; 8],
    /// Number of magnitudes, from zero up without gaps, that were seen with both signs.
    reached: u8,
    /// The largest of these magnitudes. SSE2 has no table lookup and compares with it.
    bound: f32,
}

impl LevelTracker {
    pub(super) fn new() -> LevelTracker {
        LevelTracker { missing: [u32::MAX; 8], reached: 0, bound: -1.0 }
    }

    /// Marks the low eight bits of `codes` as seen. `level` gives the `i`-th magnitude from
    /// zero with the codes of it and its negative.
    pub(super) fn add(&mut self, level: impl Fn(u8) -> (f32, [u8; 2]), codes: &[u32]) {
        for &code in codes {
            self.missing[(code >> 5 & 7) as usize] &= !(1 << (code & 31));
        }
        while self.reached < 128 {
            let (magnitude, codes) = level(self.reached);
            if codes.iter().any(|&code| self.is_missing(code)) {
                break;
            }
            self.reached += 1;
            self.bound = magnitude;
        }
    }

    fn merge(&mut self, other: &LevelTracker) {
        for (missing, others) in self.missing.iter_mut().zip(other.missing) {
            *missing &= others;
        }
        if other.reached > self.reached {
            (self.reached, self.bound) = (other.reached, other.bound);
        }
    }

    fn is_missing(&self, code: u8) -> bool {
        self.missing[usize::from(code >> 5)] >> (code & 31) & 1 != 0
    }

    /// The largest magnitude up to which every level was seen with both signs; `None` if zero
    /// was not seen.
    pub(super) fn bound(&self) -> Option<f32> {
        (self.reached > 0).then_some(self.bound)
    }

    /// The set of levels seen.
    pub(super) fn seen(&self) -> LevelSet {
        let mut words = [0; 4];
        for (word, missing) in words.iter_mut().zip(self.missing.as_chunks::<2>().0) {
            *word = !(u64::from(missing[0]) | u64::from(missing[1]) << 32);
        }
        LevelSet(words)
    }

    /// 1 in the lanes whose magnitude exceeds the levels seen without gaps, else 0.
    #[inline(always)]
    pub(super) fn beyond(&self, q: Lanes<f32>) -> Lanes<u32> {
        map(q, |q| u32::from(q.abs() > self.bound))
    }
}
