//! Which levels occur, without setting one of 256 flags for every element.
//!
//! The loops only ask whether a short run of elements may hold a level not seen before.
//! Soon the answer is no for good; the few runs that do hold one are gone through again.

use crate::quantization::kernels::array_lanes::{Lanes, map};
use crate::quantization::statistics::LevelSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The levels seen in one call, for the next of many short ones: what was seen need not be
/// looked for again.
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

/// The levels seen in all calls so far, on whichever thread.
///
/// How far the others are decides how often a level is looked for, and nothing else.
#[derive(Debug, Default)]
pub struct SharedSeenLevels(Mutex<SeenLevels>);

impl SharedSeenLevels {
    pub fn get(&self) -> SeenLevels {
        *self.lock()
    }

    pub fn add(&self, seen: &SeenLevels) {
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

/// The levels seen so far, in the forms they are looked up in.
#[derive(Clone, Copy)]
pub(super) struct LevelTracker {
    /// One bit for each code, set while it was not seen.
    pub(super) missing: [u32; 8],
    /// How many magnitudes from zero up were seen with both signs.
    reached: u8,
    /// The last of them: all that plain SSE2, which has no table lookup, can ask for.
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

    /// The largest magnitude up to which every level was seen, with both signs; `None`
    /// while zero was not.
    pub(super) fn bound(&self) -> Option<f32> {
        (self.reached > 0).then_some(self.bound)
    }

    pub(super) fn seen(&self) -> LevelSet {
        let mut words = [0; 4];
        for (word, missing) in words.iter_mut().zip(self.missing.as_chunks::<2>().0) {
            *word = !(u64::from(missing[0]) | u64::from(missing[1]) << 32);
        }
        LevelSet(words)
    }

    /// 1 in the lanes whose magnitude is beyond the levels seen without a gap.
    #[inline(always)]
    pub(super) fn beyond(&self, q: Lanes<f32>) -> Lanes<u32> {
        map(q, |q| u32::from(q.abs() > self.bound))
    }
}
