//! The end of a job's work, as those wait for it who need not know of each step.

use super::lock;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct DoneLatch {
    is_over: Mutex<bool>,
    told: Condvar,
}

/// Tells of the end when it is dropped, by a panic too.
pub(super) struct AtTheEnd<'o>(&'o DoneLatch);

impl DoneLatch {
    pub(super) fn at_the_end(&self) -> AtTheEnd<'_> {
        AtTheEnd(self)
    }

    /// Waits for the end, no longer than `timeout`.
    pub(super) fn wait(&self, timeout: Duration) {
        let is_over = lock(&self.is_over);
        let waited = self.told.wait_timeout_while(is_over, timeout, |is_over| !*is_over);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        *lock(&self.0.is_over) = true;
        self.0.told.notify_all();
    }
}
