//! Waits for a job, shows its progress, and cancels it on a signal.

use super::error::Error;
use super::interrupt::Interrupt;
use super::progress::ProgressLine;
use crate::job::{Job, JobEvent};
use std::io;
use std::time::Duration;

/// A running job with its progress line.
pub(super) struct JobRunner<T> {
    job: Job<T>,
    doing: &'static str,
    line: ProgressLine,
    interrupt: &'static Interrupt,
}

/// How often signals and progress are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

impl<T: Send + 'static> JobRunner<T> {
    /// Starts a job. The progress line begins with `doing`.
    pub(super) fn start(
        job: impl FnOnce() -> io::Result<Job<T>>,
        doing: &'static str,
        quiet: bool,
    ) -> Result<Self, Error> {
        let interrupt = Interrupt::listen().map_err(Error::Start)?;
        interrupt.end_at_once(false);
        let job = job().map_err(Error::Start)?;
        Ok(JobRunner { job, doing, line: ProgressLine::new(quiet), interrupt })
    }

    /// Changes the word before the progress.
    pub(super) fn set_phase(&mut self, doing: &'static str) {
        self.doing = doing;
    }

    /// The next finding; `None` when the job has ended. After a signal the job still ends
    /// normally, so that it can clean up.
    pub(super) fn next(&mut self) -> Result<Option<T>, Error> {
        loop {
            if self.interrupt.signal().is_some() {
                self.job.cancel();
            }
            self.line.draw(self.doing, self.job.progress());
            match self.job.wait(CHECK_INTERVAL) {
                JobEvent::Finding(finding) => return Ok(Some(finding)),
                JobEvent::Nothing => {}
                JobEvent::Panicked(message) => return Err(Error::Panicked(message)),
                JobEvent::Ended => {
                    return match self.interrupt.signal() {
                        Some(signal) => Err(Error::Interrupted { signal }),
                        None => Ok(None),
                    };
                }
            }
        }
    }

    /// The only finding of the job.
    pub(super) fn only(mut self) -> Result<T, Error> {
        let mut only = None;
        while let Some(finding) = self.next()? {
            only = Some(finding);
        }
        only.ok_or(Error::NoThreads)
    }
}

impl<T> Drop for JobRunner<T> {
    fn drop(&mut self) {
        self.interrupt.end_at_once(true);
    }
}
