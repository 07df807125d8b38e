//! Chunks that were read and will be looked at again: a tensor of a few MiB is read once,
//! however many passes its schemes take.

use super::lock;
use crate::quantization::KEPT_BYTES;
use std::sync::Mutex;

/// Workers that have room for what they keep; more share it.
const WORKERS: std::ops::RangeInclusive<usize> = 2..=32;

/// Buffers for chunks, and how much may still be kept in them.
#[derive(Debug)]
pub struct ChunkStore {
    /// Bytes of chunks that wait for another look, of all tensors together.
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    kept: usize,
    spare: Vec<Vec<u8>>,
}

/// A chunk's bytes.
#[derive(Debug)]
pub struct Chunk<'s> {
    pub bytes: Vec<u8>,
    store: &'s ChunkStore,
    /// Bytes that count as kept.
    counted: usize,
}

impl ChunkStore {
    pub fn new(workers: usize) -> ChunkStore {
        let workers = workers.clamp(*WORKERS.start(), *WORKERS.end());
        ChunkStore { capacity: workers * KEPT_BYTES as usize, inner: Mutex::default() }
    }

    /// An empty chunk, in a buffer that was used before if there is one.
    pub fn chunk(&self) -> Chunk<'_> {
        let bytes = lock(&self.inner).spare.pop().unwrap_or_default();
        Chunk { bytes, store: self, counted: 0 }
    }
}

impl<'s> Chunk<'s> {
    /// The chunk, if there is room to keep it.
    pub fn kept(mut self) -> Option<Chunk<'s>> {
        if self.counted == 0 {
            let mut inner = lock(&self.store.inner);
            let kept = inner.kept.saturating_add(self.bytes.len());
            if kept > self.store.capacity {
                return None;
            }
            inner.kept = kept;
            self.counted = self.bytes.len();
        }
        Some(self)
    }
}

impl Drop for Chunk<'_> {
    fn drop(&mut self) {
        let mut inner = lock(&self.store.inner);
        inner.kept -= self.counted;
        inner.spare.push(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let store = ChunkStore::new(2);
        let full = || {
            let mut chunk = store.chunk();
            chunk.bytes.resize(store.capacity / 2, 1);
            chunk
        };
        let (first, second) = (full().kept(), full().kept());
        assert!(first.is_some() && second.is_some());
        assert!(full().kept().is_none());
        drop(first);
        let again = full().kept().expect("room");
        // Kept once more it counts once.
        assert!(again.kept().is_some());
    }
}
