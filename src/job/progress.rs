//! How far a job is, and whether it should stop: counters that anyone may read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bytes done of bytes to do.
#[derive(Debug)]
pub struct Progress {
    total: AtomicU64,
    done: AtomicU64,
    cancelled: AtomicBool,
    started: Instant,
}

/// Why work stopped before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    pub fn new(total: u64) -> Progress {
        Progress {
            total: AtomicU64::new(total),
            done: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            started: Instant::now(),
        }
    }

    /// Adds to the bytes to do.
    pub fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Relaxed);
    }

    /// Adds to the bytes done.
    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Relaxed);
    }

    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    pub fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// An error once the work is cancelled.
    pub fn check(&self) -> Result<(), Stopped> {
        if self.is_cancelled() { Err(Stopped::Cancelled) } else { Ok(()) }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
