//! The output files of a save, shared by all its threads.
//!
//! The kernel lets one thread at a time write to a file and makes the others spin. Here workers
//! push finished pieces onto the file's queue instead. The worker that finds the file idle
//! drains the queue, including pieces that are pushed meanwhile.

use super::background_sync::BackgroundSync;
use super::{Progress, lock};
use crate::checkpoint::FileSystem;
use crate::export::{SaveError, Sink, reflink};
use crate::failpoints::{Failpoint, reach};
use crate::path_error::IoContext;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

/// The most pieces that may wait for one file. A worker with a further piece blocks.
const MAX_QUEUED_PIECES: usize = 4;

/// Pieces up to this many bytes are copied, so that only large buffers are recycled.
const COPY_THRESHOLD_BYTES: usize = 64 << 10;

/// The output files that are open now.
pub(super) struct Writers<'s> {
    open: Mutex<Vec<Weak<Writer<'s>>>>,
    progress: &'s Progress,
    sync: &'s BackgroundSync,
}

impl<'s> Writers<'s> {
    pub(super) fn new(progress: &'s Progress, sync: &'s BackgroundSync) -> Self {
        Writers { open: Mutex::default(), progress, sync }
    }

    /// Returns the writer of a file, shared with the threads that have it open.
    pub(super) fn open(&self, path: &Path) -> Result<Arc<Writer<'s>>, SaveError> {
        let mut open = lock(&self.open);
        open.retain(|writer| writer.strong_count() > 0);
        if let Some(writer) = open.iter().filter_map(Weak::upgrade).find(|w| w.path == path) {
            return Ok(writer);
        }
        let writer = Arc::new(Writer::open(path, self.progress, self.sync)?);
        open.push(Arc::downgrade(&writer));
        Ok(writer)
    }
}

/// One output file and its queue.
pub(super) struct Writer<'s> {
    path: PathBuf,
    file: File,
    pub(super) shares_blocks: bool,
    progress: &'s Progress,
    sync: &'s BackgroundSync,
    queue: Mutex<Queue>,
    room: Condvar,
}

/// Pieces that wait to be written.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<(u64, Vec<u8>)>,
    /// Buffers of pieces that were written, for reuse.
    spare: Vec<Vec<u8>>,
    /// Whether a thread is draining the queue.
    draining: bool,
}

impl<'s> Writer<'s> {
    pub(super) fn open(
        path: &Path,
        progress: &'s Progress,
        sync: &'s BackgroundSync,
    ) -> Result<Self, SaveError> {
        let file = OpenOptions::new().write(true).open(path).context(path)?;
        let shares_blocks = FileSystem::of(&file).shares_blocks();
        let path = path.to_owned();
        let (queue, room) = (Mutex::default(), Condvar::new());
        Ok(Writer { path, file, shares_blocks, progress, sync, queue, room })
    }

    /// Records that `bytes` were written.
    fn written(&self, bytes: u64) {
        self.progress.advance(bytes);
        self.sync.wrote(&self.path, bytes);
    }

    /// Queues `bytes`, and replaces them by a spare or empty buffer. Returns a guard if the
    /// caller must drain the queue.
    fn push(&self, at: u64, bytes: &mut Vec<u8>) -> Option<DrainGuard<'_>> {
        let mut queue = lock(&self.queue);
        while queue.draining && queue.waiting.len() >= MAX_QUEUED_PIECES {
            queue = self.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let piece = if bytes.len() <= COPY_THRESHOLD_BYTES {
            bytes.clone()
        } else {
            std::mem::replace(bytes, queue.spare.pop().unwrap_or_default())
        };
        queue.waiting.push_back((at, piece));
        let was_idle = !std::mem::replace(&mut queue.draining, true);
        was_idle.then(|| DrainGuard { queue: &self.queue, room: &self.room, is_done: false })
    }
}

/// Held by the thread that drains a queue.
struct DrainGuard<'o> {
    queue: &'o Mutex<Queue>,
    room: &'o Condvar,
    is_done: bool,
}

impl DrainGuard<'_> {
    /// The next piece to write; `None` once the queue is empty and the file idle again.
    fn next(&mut self) -> Option<(u64, Vec<u8>)> {
        let mut queue = lock(self.queue);
        let next = queue.waiting.pop_front();
        queue.draining = next.is_some();
        self.is_done = next.is_none();
        self.room.notify_one();
        next
    }

    /// Keeps the buffer of a written piece for reuse.
    fn recycle(&self, bytes: Vec<u8>) {
        if bytes.len() > COPY_THRESHOLD_BYTES {
            lock(self.queue).spare.push(bytes);
        }
    }
}

impl Drop for DrainGuard<'_> {
    fn drop(&mut self) {
        // Writing failed or panicked: the next thread drains the queue.
        if !self.is_done {
            lock(self.queue).draining = false;
            self.room.notify_all();
        }
    }
}

impl Sink for &Writer<'_> {
    fn write(&mut self, at: u64, bytes: &mut Vec<u8>) -> Result<(), SaveError> {
        let Some(mut drain) = self.push(at, bytes) else { return Ok(()) };
        while let Some((at, bytes)) = drain.next() {
            reach(Failpoint::Disk)
                .and_then(|()| write_all_at(&self.file, &bytes, at))
                .context(&self.path)?;
            self.written(bytes.len() as u64);
            drain.recycle(bytes);
        }
        Ok(())
    }

    fn share(&mut self, at: u64, from: &File, start: u64, length: u64) -> Range<u64> {
        if !self.shares_blocks || reach(Failpoint::Disk).is_err() {
            return 0..0;
        }
        let shared = reflink::share(from, start, &self.file, at, length);
        self.written(shared.end - shared.start);
        shared
    }
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
        bytes = bytes.get(n..).unwrap_or_default();
        at += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::background_sync::with_background_sync;
    use super::*;
    use std::thread;

    /// Pieces of all sizes, from more threads than may queue one.
    #[test]
    fn pieces_from_all_threads_are_written_at_their_offsets() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out");
        File::create(&path).expect("creates");
        let sizes =
            [1, 300, COPY_THRESHOLD_BYTES, COPY_THRESHOLD_BYTES + 1, 3 * COPY_THRESHOLD_BYTES];
        let place =
            |k: usize| k / 5 * sizes.iter().sum::<usize>() + sizes[..k % 5].iter().sum::<usize>();
        let progress = Progress::default();
        let ((), failed) = with_background_sync(|sync| {
            let writers = Writers::new(&progress, sync);
            thread::scope(|scope| {
                for thread in 0..8 {
                    let (writers, path) = (&writers, &path);
                    scope.spawn(move || {
                        let writer = writers.open(path).expect("opens");
                        let mut bytes = Vec::new();
                        for k in (thread..200).step_by(8) {
                            bytes.clear();
                            bytes.resize(sizes[k % 5], k as u8);
                            (&*writer).write(place(k) as u64, &mut bytes).expect("writes");
                        }
                    });
                }
            });
        });
        assert!(failed.is_none());
        let written = std::fs::read(&path).expect("reads");
        assert_eq!(written.len(), place(200));
        assert_eq!(progress.done(), place(200) as u64);
        let is_right = |k| written[place(k)..place(k + 1)].iter().all(|&byte| byte == k as u8);
        assert_eq!((0..200).find(|&k| !is_right(k)), None);
    }

    #[test]
    fn another_thread_drains_the_queue_after_a_panic() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out");
        File::create(&path).expect("creates");
        let progress = Progress::default();
        with_background_sync(|sync| {
            let writer = Writer::open(&path, &progress, sync).expect("opens");
            let drain = writer.push(0, &mut vec![1; 10]).expect("is the first");
            for k in 1..MAX_QUEUED_PIECES as u64 {
                assert!(writer.push(10 * k, &mut vec![1; 10]).is_none(), "the file is not idle");
            }
            thread::scope(|scope| {
                let waits = scope.spawn(|| {
                    (&writer)
                        .write(10 * MAX_QUEUED_PIECES as u64, &mut vec![1; 10])
                        .expect("writes");
                });
                let panics = scope.spawn(|| {
                    let _drain = drain;
                    panic!("a test's panic");
                });
                assert!(panics.join().is_err() && waits.join().is_ok());
            });
        });
        let written = std::fs::read(&path).expect("reads");
        assert_eq!(written, vec![1; 10 * (MAX_QUEUED_PIECES + 1)]);
    }
}
