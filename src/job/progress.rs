//! A job's progress and cancellation: atomic counters that any thread may read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The bytes done and in total, and whether the job was cancelled.
#[derive(Debug)]
pub struct Progress {
    total: AtomicU64,
    done: AtomicU64,
    cancelled: AtomicBool,
    started: Instant,
}

/// Why a job stopped early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum Stopped {
    #[error("cancelled")]
    Cancelled,
    #[error("no threads could be started: {0}")]
    NoThreads(String),
}

impl Default for Progress {
    fn default() -> Self {
        Progress::new(0)
    }
}

impl Progress {
    /// Progress of a job that has `total` bytes to do.
    pub fn new(total: u64) -> Progress {
        Progress {
            total: AtomicU64::new(total),
            done: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            started: Instant::now(),
        }
    }

    /// Adds to the total.
    pub fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Relaxed);
    }

    /// Adds to the bytes done.
    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Relaxed);
    }

    /// Bytes to do, as far as known.
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Bytes done.
    pub fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Asks the workers to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Whether the workers should stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// Returns an error if the job was cancelled.
    pub fn check(&self) -> Result<(), Stopped> {
        if self.is_cancelled() { Err(Stopped::Cancelled) } else { Ok(()) }
    }

    /// Time since the job was created.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
