//! Syncs an output to disk in the background, while more of it is written and verified, so
//! that little remains to be synced at the end.

use super::lock;
use crate::failpoints::{Failpoint, reach};
use crate::path_error::{IoContext, PathError};
use std::fs::File;
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};

/// Bytes that are written between two syncs.
const SYNC_INTERVAL_BYTES: u64 = 64 << 20;

/// Counts what was written since the last sync, and syncs it on a thread of its own.
#[derive(Debug, Default)]
pub(super) struct BackgroundSync {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes written since the last sync.
    waiting: u64,
    /// Files that they were written to.
    files: Vec<PathBuf>,
    /// Whether all writing is done, so that the rest need not wait for a full interval.
    all_written: bool,
    /// Whether the caller's work has ended, with or without success.
    work_ended: bool,
    failed: Option<PathError>,
}

/// Runs `work`, which reports everything it writes, and syncs it meanwhile. Returns the first
/// sync that failed: the system reports such an error only once.
pub(super) fn with_background_sync<T>(
    work: impl FnOnce(&BackgroundSync) -> T,
) -> (T, Option<PathError>) {
    let sync = BackgroundSync::default();
    let done = thread::scope(|scope| {
        // If the thread cannot be started, everything is synced at the end instead.
        let disk = thread::Builder::new().name("disk".into()).spawn_scoped(scope, || sync.run());
        let done = {
            // Ends the thread even if the work panics.
            let _end = EndOnDrop(&sync);
            work(&sync)
        };
        if let Ok(Err(panic)) = disk.map(ScopedJoinHandle::join) {
            resume_unwind(panic);
        }
        done
    });
    let state = sync.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    (done, state.failed)
}

struct EndOnDrop<'a>(&'a BackgroundSync);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).work_ended = true;
        self.0.wake.notify_one();
    }
}

impl BackgroundSync {
    /// Records that `bytes` were written to a file.
    pub(super) fn wrote(&self, path: &Path, bytes: u64) {
        let mut state = lock(&self.state);
        state.waiting = state.waiting.saturating_add(bytes);
        if !state.files.iter().any(|written| written == path) {
            state.files.push(path.to_owned());
        }
        if state.waiting >= SYNC_INTERVAL_BYTES {
            self.wake.notify_one();
        }
    }

    /// Records that all writing is done.
    pub(super) fn all_written(&self) {
        lock(&self.state).all_written = true;
        self.wake.notify_one();
    }

    fn run(&self) {
        let mut state = lock(&self.state);
        loop {
            let is_due = state.waiting >= if state.all_written { 1 } else { SYNC_INTERVAL_BYTES };
            // If the work ended early its files are removed and need no sync.
            if state.work_ended && !(state.all_written && is_due) {
                return;
            }
            if !is_due {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.waiting = 0;
            let files = std::mem::take(&mut state.files);
            drop(state);
            let failed = files.iter().find_map(|path| sync_file(path).context(path).err());
            state = lock(&self.state);
            if failed.is_some() {
                state.failed = failed;
                return;
            }
        }
    }
}

fn sync_file(path: &Path) -> io::Result<()> {
    reach(Failpoint::Disk)?;
    File::open(path)?.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_failed_sync_reports_its_file() {
        let missing = Path::new("/nowhere/at all");
        let ((), failed) = with_background_sync(|sync| {
            sync.wrote(missing, SYNC_INTERVAL_BYTES);
            while lock(&sync.state).failed.is_none() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let PathError { path, source: why } = failed.expect("failed");
        assert_eq!((path.as_path(), why.kind()), (missing, io::ErrorKind::NotFound));
    }

    #[test]
    fn the_remaining_bytes_are_synced_after_the_last_write() {
        let missing = Path::new("/nowhere/at all");
        let ((), failed) = with_background_sync(|sync| {
            sync.wrote(missing, 1);
            thread::sleep(Duration::from_millis(10));
            assert_eq!(lock(&sync.state).waiting, 1);
            sync.all_written();
            while lock(&sync.state).failed.is_none() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        assert_eq!(failed.expect("failed").path, missing);
    }

    #[test]
    fn the_thread_ends_when_the_work_ends_or_panics() {
        let (done, failed) = with_background_sync(|sync| {
            sync.wrote(Path::new("/nowhere"), SYNC_INTERVAL_BYTES - 1);
            7
        });
        assert_eq!((done, failed.is_none()), (7, true));
        let panicked =
            std::panic::catch_unwind(|| with_background_sync(|_| panic!("a test's panic")));
        assert!(panicked.is_err());
    }
}
