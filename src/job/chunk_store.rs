//! Keeps chunks that a later pass needs again, so that a tensor of a few MiB is read once,
//! however many passes its schemes take.

use crate::quantization::MAX_KEPT_BYTES;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The capacity is proportional to the number of workers within this range.
const WORKERS_WITH_ROOM: std::ops::RangeInclusive<usize> = 2..=32;

/// Accounts for the memory of kept chunks.
#[derive(Debug)]
pub(super) struct ChunkStore {
    /// The maximum size of all kept chunks in bytes.
    capacity: usize,
    /// Bytes of chunks that are kept now.
    kept: AtomicUsize,
}

/// A chunk's bytes.
#[derive(Debug)]
pub(super) struct Chunk<'s> {
    pub bytes: Vec<u8>,
    store: &'s ChunkStore,
    /// Bytes of this chunk that are counted in the store.
    counted: usize,
}

impl ChunkStore {
    pub(super) fn new(workers: usize) -> ChunkStore {
        let workers = workers.clamp(*WORKERS_WITH_ROOM.start(), *WORKERS_WITH_ROOM.end());
        ChunkStore { capacity: workers * MAX_KEPT_BYTES as usize, kept: AtomicUsize::new(0) }
    }

    /// A chunk in a buffer.
    pub(super) fn chunk(&self, buffer: Vec<u8>) -> Chunk<'_> {
        Chunk { bytes: buffer, store: self, counted: 0 }
    }
}

impl<'s> Chunk<'s> {
    /// Returns the chunk if it is needed again and there is room to keep it, and its buffer
    /// otherwise.
    pub(super) fn kept_if(mut self, is_needed: bool) -> Result<Chunk<'s>, Vec<u8>> {
        if !is_needed {
            return Err(std::mem::take(&mut self.bytes));
        }
        if self.counted == 0 {
            let (more, capacity) = (self.bytes.len(), self.store.capacity);
            let with_it = |kept: usize| kept.checked_add(more).filter(|&kept| kept <= capacity);
            if self.store.kept.fetch_update(Relaxed, Relaxed, with_it).is_err() {
                return Err(std::mem::take(&mut self.bytes));
            }
            self.counted = more;
        }
        Ok(self)
    }
}

impl Drop for Chunk<'_> {
    fn drop(&mut self) {
        self.store.kept.fetch_sub(self.counted, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_chunks_do_not_exceed_the_capacity() {
        let store = ChunkStore::new(2);
        let full = || store.chunk(vec![1; store.capacity / 2]);
        let (first, second) = (full().kept_if(true), full().kept_if(true));
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(full().kept_if(true).map_err(|buffer| buffer.len()).ok().map(drop), None);
        drop(first);
        let again = full().kept_if(true).expect("room");
        // A chunk that is kept again is counted once; a dropped one is not counted.
        let again = again.kept_if(true).expect("room");
        assert_eq!(again.kept_if(false).expect_err("done").len(), store.capacity / 2);
        assert!(full().kept_if(true).is_ok());
    }
}
