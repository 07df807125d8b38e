//! Which levels occur, without setting one of 256 flags for every element.
//!
//! The loops only ask whether a short run of elements may hold a level not seen before.
//! Soon the answer is no for good; the few runs that do hold one are gone through again.

use super::lanes::{Lanes, map};
use super::rounding::Grid;
use crate::quantization::LevelSet;

/// The levels seen so far, in the forms they are looked up in.
#[derive(Clone, Copy)]
pub(super) struct Watch {
    seen: LevelSet,
    /// One bit for each code, set while it was not seen.
    pub(super) missing: [u32; 8],
    /// Every level of a magnitude up to this was seen: all that plain SSE2, which has no
    /// table lookup, can ask.
    bound: f32,
}

impl Watch {
    pub(super) fn new() -> Watch {
        Watch { seen: LevelSet::default(), missing: [u32::MAX; 8], bound: -1.0 }
    }

    pub(super) fn add<G: Grid>(&mut self, grid: G, codes: &[u8]) {
        for &code in codes {
            self.seen.insert(code);
        }
        for (i, missing) in self.missing.iter_mut().enumerate() {
            *missing = !(self.seen.0[i / 2] >> (32 * (i % 2))) as u32;
        }
        let contains = |code: u8| self.missing[usize::from(code >> 5)] >> (code & 31) & 1 == 0;
        let reached = (0..128).take_while(|&i| {
            let (_, [positive, negative]) = grid.level(i);
            contains(positive) && contains(negative)
        });
        self.bound = reached.last().map_or(-1.0, |i| grid.level(i).0);
    }

    pub(super) fn seen(&self) -> LevelSet {
        self.seen
    }

    /// 1 in the lanes whose magnitude is beyond the levels seen without a gap.
    #[inline(always)]
    pub(super) fn beyond(&self, q: Lanes<f32>) -> Lanes<u32> {
        map(q, |q| u32::from(q.abs() > self.bound))
    }
}
