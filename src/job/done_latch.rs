//! A latch that is set when a job finishes.

use super::lock;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Threads can block on it until the job is done.
#[derive(Debug, Default)]
pub(super) struct DoneLatch {
    done: Mutex<bool>,
    changed: Condvar,
}

/// Sets the latch when it is dropped, also while a panic unwinds.
pub(super) struct SetOnDrop<'o>(&'o DoneLatch);

impl DoneLatch {
    /// A guard that sets the latch.
    pub(super) fn set_on_drop(&self) -> SetOnDrop<'_> {
        SetOnDrop(self)
    }

    /// Blocks until the latch is set, at most for `timeout`.
    pub(super) fn wait(&self, timeout: Duration) {
        let done = lock(&self.done);
        let waited = self.changed.wait_timeout_while(done, timeout, |done| !*done);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        *lock(&self.0.done) = true;
        self.0.changed.notify_all();
    }
}
