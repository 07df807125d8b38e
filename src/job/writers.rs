//! The files of a save, as all its threads write them.
//!
//! The system lets one thread at a time write to a file and has the others spin until it is
//! their turn. Here they leave what they made and go on to make more: who comes to a file
//! that nobody writes to writes all that was left for it, also what is left meanwhile.

use super::background_sync::BackgroundSync;
use super::{Progress, lock};
use crate::checkpoint::FileSystem;
use crate::export::{SaveError, Sink, reflink};
use crate::failpoints::{Failpoint, reach};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

/// How many pieces may wait for one file. Who makes one more waits with it.
const MOST: usize = 4;

/// Bytes up to which a piece is copied, so that the larger buffers stay among themselves.
const LITTLE: usize = 64 << 10;

/// The files of a save that a thread works on.
pub(super) struct Writers<'s> {
    open: Mutex<Vec<Weak<Writer<'s>>>>,
    progress: &'s Progress,
    behind: &'s BackgroundSync,
}

impl<'s> Writers<'s> {
    pub(super) fn new(progress: &'s Progress, behind: &'s BackgroundSync) -> Self {
        Writers { open: Mutex::default(), progress, behind }
    }

    /// A file as the others have it open, if one has.
    pub(super) fn open(&self, path: &Path) -> Result<Arc<Writer<'s>>, SaveError> {
        let mut open = lock(&self.open);
        open.retain(|writer| writer.strong_count() > 0);
        if let Some(writer) = open.iter().filter_map(Weak::upgrade).find(|w| w.path == path) {
            return Ok(writer);
        }
        let writer = Arc::new(Writer::open(path, self.progress, self.behind)?);
        open.push(Arc::downgrade(&writer));
        Ok(writer)
    }
}

/// A file of the output.
pub(super) struct Writer<'s> {
    path: PathBuf,
    file: File,
    pub(super) shares_blocks: bool,
    progress: &'s Progress,
    behind: &'s BackgroundSync,
    left: Mutex<Left>,
    room: Condvar,
}

/// What was left to be written.
#[derive(Default)]
struct Left {
    waiting: VecDeque<(u64, Vec<u8>)>,
    /// Buffers whose bytes were written.
    spare: Vec<Vec<u8>>,
    /// Whether a thread has taken it on to write what is waiting.
    is_written: bool,
}

impl<'s> Writer<'s> {
    pub(super) fn open(
        path: &Path,
        progress: &'s Progress,
        behind: &'s BackgroundSync,
    ) -> Result<Self, SaveError> {
        let file = OpenOptions::new().write(true).open(path);
        let file = file.map_err(|e| failed_write(path, e))?;
        let shares_blocks = FileSystem::of(&file).shares_blocks();
        let path = path.to_owned();
        let (left, room) = (Mutex::default(), Condvar::new());
        Ok(Writer { path, file, shares_blocks, progress, behind, left, room })
    }

    fn has(&self, bytes: u64) {
        self.progress.advance(bytes);
        self.behind.wrote(&self.path, bytes);
    }

    /// Leaves `bytes`, and gives an empty or used buffer for them. Whether it is the
    /// caller's turn to write.
    fn leave(&self, at: u64, bytes: &mut Vec<u8>) -> Option<Turn<'_>> {
        let mut left = lock(&self.left);
        while left.is_written && left.waiting.len() >= MOST {
            left = self.room.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
        let piece = match bytes.len() <= LITTLE {
            true => bytes.clone(),
            false => std::mem::replace(bytes, left.spare.pop().unwrap_or_default()),
        };
        left.waiting.push_back((at, piece));
        let is_free = !std::mem::replace(&mut left.is_written, true);
        is_free.then(|| Turn { left: &self.left, room: &self.room, is_over: false })
    }
}

/// What the thread holds that writes to a file.
struct Turn<'o> {
    left: &'o Mutex<Left>,
    room: &'o Condvar,
    is_over: bool,
}

impl Turn<'_> {
    /// What is to be written next. If nothing is, the turn is over.
    fn next(&mut self) -> Option<(u64, Vec<u8>)> {
        let mut left = lock(self.left);
        let next = left.waiting.pop_front();
        left.is_written = next.is_some();
        self.is_over = next.is_none();
        self.room.notify_one();
        next
    }

    fn wrote(&self, bytes: Vec<u8>) {
        if bytes.len() > LITTLE {
            lock(self.left).spare.push(bytes);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // It failed or panicked; nobody may wait for it.
        if !self.is_over {
            lock(self.left).is_written = false;
            self.room.notify_all();
        }
    }
}

impl Sink for &Writer<'_> {
    fn write(&mut self, at: u64, bytes: &mut Vec<u8>) -> Result<(), SaveError> {
        let Some(mut turn) = self.leave(at, bytes) else { return Ok(()) };
        while let Some((at, bytes)) = turn.next() {
            reach(Failpoint::Disk)
                .and_then(|()| write_all_at(&self.file, &bytes, at))
                .map_err(|e| failed_write(&self.path, e))?;
            self.has(bytes.len() as u64);
            turn.wrote(bytes);
        }
        Ok(())
    }

    fn share(&mut self, at: u64, from: &File, start: u64, length: u64) -> Range<u64> {
        if !self.shares_blocks || reach(Failpoint::Disk).is_err() {
            return 0..0;
        }
        let shared = reflink::share(from, start, &self.file, at, length);
        self.has(shared.end - shared.start);
        shared
    }
}

pub(super) fn failed_write(path: &Path, source: std::io::Error) -> SaveError {
    SaveError::Io { path: path.to_owned(), source }
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
    use super::super::background_sync::write_behind;
    use super::*;
    use std::thread;

    /// Pieces of all sizes, from more threads than may leave one.
    #[test]
    fn what_all_threads_leave_is_written_where_it_belongs() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out");
        File::create(&path).expect("creates");
        let sizes = [1, 300, LITTLE, LITTLE + 1, 3 * LITTLE];
        let place =
            |k: usize| k / 5 * sizes.iter().sum::<usize>() + sizes[..k % 5].iter().sum::<usize>();
        let progress = Progress::default();
        let ((), failed) = write_behind(|behind| {
            let writers = Writers::new(&progress, behind);
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

    /// Whoever writes may fail: nobody waits for it, and the next one writes what was left.
    #[test]
    fn a_turn_that_ends_early_is_another_threads() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out");
        File::create(&path).expect("creates");
        let progress = Progress::default();
        write_behind(|behind| {
            let writer = Writer::open(&path, &progress, behind).expect("opens");
            let turn = writer.leave(0, &mut vec![1; 10]).expect("is the first");
            for k in 1..MOST as u64 {
                assert!(writer.leave(10 * k, &mut vec![1; 10]).is_none(), "one has the turn");
            }
            thread::scope(|scope| {
                let waits = scope.spawn(|| {
                    (&writer).write(10 * MOST as u64, &mut vec![1; 10]).expect("writes");
                });
                let panics = scope.spawn(|| {
                    let _turn = turn;
                    panic!("a test's panic");
                });
                assert!(panics.join().is_err() && waits.join().is_ok());
            });
        });
        let written = std::fs::read(&path).expect("reads");
        assert_eq!(written, vec![1; 10 * (MOST + 1)]);
    }
}
