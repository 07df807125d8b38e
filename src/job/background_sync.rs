//! Putting on the disk what was written so far, while more is made and what was made is
//! verified: the disk then works from the first chunks on, and little is left to wait for at
//! the end.

use super::lock;
use crate::failpoints::{Failpoint, reach};
use std::fs::File;
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};

/// Bytes that are written between two such times.
const STEP: u64 = 64 << 20;

/// Takes note of what is written.
#[derive(Debug, Default)]
pub(super) struct BackgroundSync {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes written since the last time, and to which files.
    waiting: u64,
    files: Vec<PathBuf>,
    /// Whether nothing more is written, so that there is no use in waiting for it.
    is_all: bool,
    is_over: bool,
    failed: Option<(PathBuf, io::Error)>,
}

/// Does `work`, which tells of all that it writes. A failure to put it on the disk is given
/// with the file it befell: the system tells of it once, so it must not be lost.
pub(super) fn write_behind<T>(
    work: impl FnOnce(&BackgroundSync) -> T,
) -> (T, Option<(PathBuf, io::Error)>) {
    let behind = BackgroundSync::default();
    let done = thread::scope(|scope| {
        // Without a thread for it nothing is lost but time.
        let disk = thread::Builder::new().name("disk".into()).spawn_scoped(scope, || behind.work());
        let done = {
            // Ends the thread also where the work panics.
            let _end = AtTheEnd(&behind);
            work(&behind)
        };
        if let Ok(Err(panic)) = disk.map(ScopedJoinHandle::join) {
            resume_unwind(panic);
        }
        done
    });
    let state = behind.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    (done, state.failed)
}

struct AtTheEnd<'a>(&'a BackgroundSync);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).is_over = true;
        self.0.wake.notify_one();
    }
}

impl BackgroundSync {
    /// So many bytes were written to a file.
    pub(super) fn wrote(&self, path: &Path, bytes: u64) {
        let mut state = lock(&self.state);
        state.waiting = state.waiting.saturating_add(bytes);
        if !state.files.iter().any(|written| written == path) {
            state.files.push(path.to_owned());
        }
        if state.waiting >= STEP {
            self.wake.notify_one();
        }
    }

    /// Nothing more is written.
    pub(super) fn is_all(&self) {
        lock(&self.state).is_all = true;
        self.wake.notify_one();
    }

    fn work(&self) {
        let mut state = lock(&self.state);
        loop {
            let is_due = state.waiting >= if state.is_all { 1 } else { STEP };
            // What ended early will not become OUT.
            if state.is_over && !(state.is_all && is_due) {
                return;
            }
            if !is_due {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.waiting = 0;
            let files = std::mem::take(&mut state.files);
            drop(state);
            let failed = files.into_iter().find_map(|path| sync(&path).err().map(|e| (path, e)));
            state = lock(&self.state);
            if failed.is_some() {
                state.failed = failed;
                return;
            }
        }
    }
}

fn sync(path: &Path) -> io::Result<()> {
    reach(Failpoint::Disk)?;
    File::open(path)?.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_file_that_cannot_be_put_on_the_disk_is_named() {
        let missing = Path::new("/nowhere/at all");
        let ((), failed) = write_behind(|behind| {
            behind.wrote(missing, STEP);
            while lock(&behind.state).failed.is_none() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let (path, why) = failed.expect("failed");
        assert_eq!((path.as_path(), why.kind()), (missing, io::ErrorKind::NotFound));
    }

    #[test]
    fn the_last_bytes_do_not_wait_for_more() {
        let missing = Path::new("/nowhere/at all");
        let ((), failed) = write_behind(|behind| {
            behind.wrote(missing, 1);
            thread::sleep(Duration::from_millis(10));
            assert_eq!(lock(&behind.state).waiting, 1);
            behind.is_all();
            while lock(&behind.state).failed.is_none() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        assert_eq!(failed.expect("failed").0, missing);
    }

    #[test]
    fn it_ends_with_the_work_whatever_that_did() {
        let (done, failed) = write_behind(|behind| {
            behind.wrote(Path::new("/nowhere"), STEP - 1);
            7
        });
        assert_eq!((done, failed.is_none()), (7, true));
        let panicked = std::panic::catch_unwind(|| write_behind(|_| panic!("a test's panic")));
        assert!(panicked.is_err());
    }
}
