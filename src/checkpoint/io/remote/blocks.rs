//! A bounded cache of blocks of remote files, with read-ahead.
//!
//! Several threads read neighbouring tensors of one file at the same time. They share blocks, so
//! that no byte is fetched twice, and the next blocks of a sequential reader are fetched in
//! advance.

use crate::checkpoint::io::remote::error::RemoteError;
use foldhash::HashMap;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::collections::VecDeque;
use std::ops::{Deref, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Size of the first request in bytes: enough for most headers.
pub(super) const HEAD_BYTES: u64 = 128 << 10;

const BLOCK_BYTES: u64 = 1 << 20;

/// Maximum number of blocks per request.
const RUN_BLOCKS: u64 = 3;

/// Number of blocks fetched ahead of a reader.
const AHEAD_BLOCKS: u64 = 24;

/// Maximum number of requested or received blocks, for all files together: 40 MiB.
const MAX_BLOCKS: usize = 40;

/// Number of requested or unread blocks above which nothing is fetched ahead: one request for each
/// connection. The rest of [`MAX_BLOCKS`] is for the readers' own requests.
const MAX_PENDING_BLOCKS: usize = CONNECTIONS * RUN_BLOCKS as usize;

/// Maximum number of unused buffers that are kept for later answers: 12 MiB.
const MAX_SPARE_BUFFERS: usize = 4;

/// Number of connections for read-ahead, in addition to those of the readers.
const CONNECTIONS: usize = 8;

/// Time for which the error of a file is repeated before its server is asked again.
const REPEATED: Duration = Duration::from_secs(30);

/// Number of recently served blocks per file, used to recognize sequential readers.
const REMEMBERED: usize = 64;

/// The key of a file's first [`HEAD_BYTES`].
const HEAD_KEY: u64 = u64::MAX;

/// A source of byte ranges.
pub(super) trait Fetch: Send + Sync + 'static {
    /// Appends all bytes of a range to `out`.
    fn fetch(&self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), RemoteError>;
}

/// Buffers of earlier answers. Allocators keep large freed buffers for each thread, which would
/// exceed the bound on memory.
static SPARE_BUFFERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// The bytes of one answer, shared by its blocks.
#[derive(Default)]
struct Answer(Vec<u8>);

impl Answer {
    /// Returns an empty answer.
    fn new() -> Answer {
        let spare = SPARE_BUFFERS.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Answer(spare.unwrap_or_default())
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let mut spare = SPARE_BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MAX_SPARE_BUFFERS && self.0.capacity() as u64 >= BLOCK_BYTES {
            self.0.clear();
            spare.push(std::mem::take(&mut self.0));
        }
    }
}

/// A block: a part of an answer.
#[derive(Clone)]
struct Block {
    answer: Arc<Answer>,
    range: Range<usize>,
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.answer.0.get(self.range.clone()).unwrap_or_default()
    }
}

static POOL: LazyLock<Option<ThreadPool>> = LazyLock::new(|| {
    let name = |index| format!("fetch-{index}");
    // Without threads nothing is fetched ahead.
    ThreadPoolBuilder::new().num_threads(CONNECTIONS).thread_name(name).build().ok()
});

static CACHE: LazyLock<Cache> = LazyLock::new(Cache::default);

/// The blocks of all files.
#[derive(Default)]
struct Cache {
    slots: Mutex<Slots>,
    /// Notified when a block has arrived or failed.
    changed: Condvar,
}

#[derive(Default)]
struct Slots {
    blocks: HashMap<(u64, u64), Slot>,
    /// Incremented by every access.
    clock: u64,
}

enum Slot {
    Loading,
    Ready {
        block: Block,
        /// The clock at the last access.
        last: u64,
        /// Whether a reader has read it to its end.
        is_read: bool,
    },
}

impl Cache {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    /// Number of requested or unread blocks.
    fn pending(&self) -> usize {
        let is_pending = |slot: &&Slot| !matches!(slot, Slot::Ready { is_read: true, .. });
        self.blocks.values().filter(is_pending).count()
    }

    fn insert(&mut self, key: (u64, u64), block: Block) {
        self.clock += 1;
        self.blocks.insert(key, Slot::Ready { block, last: self.clock, is_read: false });
        while self.blocks.len() > MAX_BLOCKS {
            let age = |slot: &Slot| match slot {
                Slot::Loading => None,
                Slot::Ready { last, is_read, .. } => Some((!is_read, *last)),
            };
            let ready = self.blocks.iter().filter(|(other, _)| **other != key);
            let oldest = ready.filter_map(|(key, slot)| Some((age(slot)?, *key))).min();
            match oldest {
                Some((_, oldest)) => _ = self.blocks.remove(&oldest),
                None => break,
            }
        }
    }
}

/// The blocks of one file.
#[derive(Debug)]
pub(super) struct Blocks {
    file: u64,
    size: u64,
    served: Mutex<VecDeque<u64>>,
    broken: Mutex<Option<(Instant, RemoteError)>>,
}

impl Drop for Blocks {
    fn drop(&mut self) {
        CACHE.lock().blocks.retain(|(file, _), _| *file != self.file);
    }
}

/// Blocks that this thread has claimed for fetching. Those not delivered are released on drop, so
/// that others do not wait for them.
struct Claim {
    file: u64,
    keys: Vec<u64>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut slots = CACHE.lock();
        for key in &self.keys {
            if let Some(Slot::Loading) = slots.blocks.get(&(self.file, *key)) {
                slots.blocks.remove(&(self.file, *key));
            }
        }
        drop(slots);
        CACHE.changed.notify_all();
    }
}

impl Blocks {
    /// Creates the cache for a file of `size` bytes, without any blocks.
    pub(super) fn new(size: u64) -> Blocks {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let file = NEXT.fetch_add(1, Ordering::Relaxed);
        Blocks { file, size, served: Mutex::default(), broken: Mutex::default() }
    }

    /// Stores the first bytes of the file, at most [`HEAD_BYTES`].
    pub(super) fn fill_head(&self, head: Vec<u8>) {
        let range = 0..head.len();
        CACHE.lock().insert((self.file, HEAD_KEY), Block { answer: Arc::new(Answer(head)), range });
    }

    /// Fills `buffer` from `offset`. The range must be inside the file.
    pub(super) fn read<F: Fetch>(
        self: &Arc<Self>,
        source: &Arc<F>,
        mut buffer: &mut [u8],
        mut offset: u64,
    ) -> Result<(), RemoteError> {
        let end = offset.saturating_add(buffer.len() as u64);
        if end <= HEAD_BYTES.min(self.size) {
            let head = self.block(source, HEAD_KEY, 1)?;
            return copy(&head, offset, buffer);
        }
        while !buffer.is_empty() {
            let block = offset / BLOCK_BYTES;
            let last = end.saturating_sub(1) / BLOCK_BYTES;
            let is_forward = self.is_forward(block);
            let wanted = if is_forward { RUN_BLOCKS } else { last - block + 1 };
            let bytes = self.block(source, block, wanted.min(RUN_BLOCKS))?;
            let start = offset - block * BLOCK_BYTES;
            let count = (bytes.len() as u64).saturating_sub(start).min(buffer.len() as u64);
            if count == 0 {
                return Err(RemoteError::Changed);
            }
            let (part, rest) = buffer.split_at_mut(count as usize);
            copy(&bytes, start, part)?;
            buffer = rest;
            offset += count;
            if start + count == bytes.len() as u64 {
                self.mark_read(block);
            }
            if is_forward || last > block {
                self.fetch_ahead(source, block);
            }
        }
        Ok(())
    }

    /// Returns whether a reader reaches this block from the previous one.
    fn is_forward(&self, block: u64) -> bool {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let is_forward = served.iter().any(|&before| before + 1 == block || before == block);
        if served.back() != Some(&block) {
            served.push_back(block);
        }
        if served.len() > REMEMBERED {
            served.pop_front();
        }
        is_forward
    }

    fn mark_read(&self, block: u64) {
        if let Some(Slot::Ready { is_read, .. }) = CACHE.lock().blocks.get_mut(&(self.file, block))
        {
            *is_read = true;
        }
    }

    fn range(&self, key: u64) -> Range<u64> {
        match key {
            HEAD_KEY => 0..HEAD_BYTES.min(self.size),
            block => {
                let start = block.saturating_mul(BLOCK_BYTES).min(self.size);
                start..start.saturating_add(BLOCK_BYTES).min(self.size)
            }
        }
    }

    /// Returns a block; if it must be fetched, up to `wanted` blocks are fetched with it.
    fn block<F: Fetch>(
        &self,
        source: &Arc<F>,
        key: u64,
        wanted: u64,
    ) -> Result<Block, RemoteError> {
        let mut slots = CACHE.lock();
        loop {
            slots.clock += 1;
            let clock = slots.clock;
            match slots.blocks.get_mut(&(self.file, key)) {
                Some(Slot::Ready { block, last, .. }) => {
                    *last = clock;
                    return Ok(block.clone());
                }
                Some(Slot::Loading) => {
                    slots = CACHE.changed.wait(slots).unwrap_or_else(PoisonError::into_inner);
                }
                None => {
                    // More than the awaited block would push unread blocks out of a full cache.
                    let is_full = slots.pending() >= MAX_PENDING_BLOCKS;
                    let claim = self.claim(&mut slots, key, if is_full { 1 } else { wanted });
                    drop(slots);
                    let found = self.deliver(source.as_ref(), claim)?;
                    return found.ok_or(RemoteError::Changed);
                }
            }
        }
    }

    /// Claims a block and the absent ones after it.
    fn claim(&self, slots: &mut Slots, first: u64, wanted: u64) -> Claim {
        let end = self.size.div_ceil(BLOCK_BYTES);
        let mut keys = Vec::new();
        let after = (first..end).take(wanted as usize);
        let run = std::iter::once(first).chain(after.skip(1));
        for key in run {
            if slots.blocks.contains_key(&(self.file, key)) {
                break;
            }
            slots.blocks.insert((self.file, key), Slot::Loading);
            keys.push(key);
        }
        Claim { file: self.file, keys }
    }

    /// Fetches the claimed blocks. Returns the first one.
    fn deliver<F: Fetch>(&self, source: &F, claim: Claim) -> Result<Option<Block>, RemoteError> {
        let (Some(&first), Some(&last)) = (claim.keys.first(), claim.keys.last()) else {
            return Ok(None);
        };
        let range = self.range(first).start..self.range(last).end;
        self.repeat_error()?;
        let mut answer = Answer::new();
        source.fetch(range, &mut answer.0).inspect_err(|error| {
            let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            *broken = Some((Instant::now(), error.clone()));
        })?;
        let (size, answer) = (answer.0.len(), Arc::new(answer));
        let (mut given, mut start) = (None, 0usize);
        let mut slots = CACHE.lock();
        for &key in &claim.keys {
            let length = self.range(key).end - self.range(key).start;
            let end = start.saturating_add(length as usize).min(size);
            let block = Block { answer: answer.clone(), range: start..end };
            start = end;
            given.get_or_insert_with(|| block.clone());
            slots.insert((self.file, key), block);
        }
        drop(slots);
        // Wake the waiting threads.
        drop(claim);
        Ok(given)
    }

    /// Returns the file's recent error, so that an unavailable server is not asked for every
    /// tensor.
    fn repeat_error(&self) -> Result<(), RemoteError> {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        match &*broken {
            Some((since, error)) if since.elapsed() < REPEATED => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Requests the blocks after one that is being read, as far as memory allows.
    fn fetch_ahead<F: Fetch>(self: &Arc<Self>, source: &Arc<F>, block: u64) {
        let Some(pool) = POOL.as_ref() else { return };
        let end = self.size.div_ceil(BLOCK_BYTES).min(block.saturating_add(1 + AHEAD_BLOCKS));
        let mut slots = CACHE.lock();
        let mut next = block + 1;
        while next < end && slots.pending() < MAX_PENDING_BLOCKS {
            if slots.blocks.contains_key(&(self.file, next)) {
                next += 1;
                continue;
            }
            // Wait until a run is long enough for one request.
            let is_last = end == self.size.div_ceil(BLOCK_BYTES);
            if end - next < RUN_BLOCKS && !is_last {
                break;
            }
            let claim = self.claim(&mut slots, next, RUN_BLOCKS.min(end - next));
            next += claim.keys.len().max(1) as u64;
            let (blocks, source) = (self.clone(), source.clone());
            // A reader that needs the block requests it again and gets the error.
            pool.spawn(move || drop(blocks.deliver(source.as_ref(), claim)));
        }
    }
}

fn copy(block: &[u8], start: u64, out: &mut [u8]) -> Result<(), RemoteError> {
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    match block.get(start..start.saturating_add(out.len())) {
        Some(bytes) => {
            out.copy_from_slice(bytes);
            Ok(())
        }
        None => Err(RemoteError::Changed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicUsize;

    struct Bytes {
        bytes: Vec<u8>,
        fetched: AtomicU64,
        requests: AtomicUsize,
    }

    impl Fetch for Bytes {
        fn fetch(&self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), RemoteError> {
            self.fetched.fetch_add(range.end - range.start, Ordering::Relaxed);
            self.requests.fetch_add(1, Ordering::Relaxed);
            out.extend_from_slice(&self.bytes[range.start as usize..range.end as usize]);
            Ok(())
        }
    }

    /// The blocks of other tests would push out those of a test that counts requests.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    fn alone() -> MutexGuard<'static, ()> {
        ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(size: usize) -> (Arc<Bytes>, Arc<Blocks>) {
        let bytes = (0..size).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let (fetched, requests) = (AtomicU64::new(0), AtomicUsize::new(0));
        (Arc::new(Bytes { bytes, fetched, requests }), Arc::new(Blocks::new(size as u64)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_range_is_what_the_file_holds(
            size in 1usize..6 << 20,
            ranges in prop::collection::vec((0.0f64..1.0, 0.0f64..1.0), 1..12),
        ) {
            let _alone = alone();
            let (source, blocks) = file(size);
            for (start, end) in ranges {
                let place = |share: f64| (share * size as f64) as usize;
                let (start, end) = (place(start.min(end)), place(start.max(end)));
                let mut out = vec![0; end - start];
                blocks.read(&source, &mut out, start as u64).expect("reads");
                prop_assert!(out == source.bytes[start..end]);
            }
        }
    }

    #[test]
    fn a_small_header_takes_one_request() {
        let _alone = alone();
        let (source, blocks) = file(40 << 20);
        let mut out = [0; 8];
        blocks.read(&source, &mut out, 0).expect("reads");
        blocks.read(&source, &mut out, 8).expect("reads");
        blocks.read(&source, &mut out, HEAD_BYTES - 8).expect("reads");
        assert_eq!(source.requests.load(Ordering::Relaxed), 1);
        assert_eq!(source.fetched.load(Ordering::Relaxed), HEAD_BYTES);
    }

    #[test]
    fn threads_that_read_one_file_fetch_every_byte_once() {
        let _alone = alone();
        let size = 40 << 20;
        let (source, blocks) = file(size);
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let piece = 300_000;
                    loop {
                        let start = next.fetch_add(piece, Ordering::Relaxed);
                        if start >= size {
                            break;
                        }
                        let mut out = vec![0; piece.min(size - start)];
                        blocks.read(&source, &mut out, start as u64).expect("reads");
                        assert!(out == source.bytes[start..start + out.len()]);
                    }
                });
            }
        });
        assert_eq!(source.fetched.load(Ordering::Relaxed), size as u64);
        assert!(CACHE.lock().blocks.len() <= MAX_BLOCKS + 4 * RUN_BLOCKS as usize);
    }

    #[test]
    fn an_error_reaches_every_reader_and_is_not_retried_immediately() {
        let _alone = alone();
        struct Gone(AtomicUsize);
        impl Fetch for Gone {
            fn fetch(&self, _: Range<u64>, _: &mut Vec<u8>) -> Result<(), RemoteError> {
                self.0.fetch_add(1, Ordering::Relaxed);
                Err(RemoteError::NotFound)
            }
        }
        let (source, blocks) =
            (Arc::new(Gone(AtomicUsize::new(0))), Arc::new(Blocks::new(1 << 22)));
        for offset in [0, 1 << 20, 3 << 20] {
            assert!(blocks.read(&source, &mut [0; 10], offset).is_err());
        }
        assert_eq!(source.0.load(Ordering::Relaxed), 1);
    }
}
