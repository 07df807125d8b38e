//! Waiting for a job: its progress is shown meanwhile, and a signal cancels it.

use super::error::Error;
use super::interrupt::Interrupt;
use super::progress::ProgressLine;
use crate::job::{Job, News};
use std::io;
use std::time::Duration;

/// A job and what it finds.
pub(super) struct Watch<T> {
    job: Job<T>,
    doing: &'static str,
    line: ProgressLine,
    interrupt: &'static Interrupt,
}

const LOOK: Duration = Duration::from_millis(50);

impl<T: Send + 'static> Watch<T> {
    /// `doing`: the word before the progress.
    pub(super) fn start(
        job: impl FnOnce() -> io::Result<Job<T>>,
        doing: &'static str,
        quiet: bool,
    ) -> Result<Self, Error> {
        let interrupt = Interrupt::listen().map_err(Error::Start)?;
        interrupt.end_at_once(false);
        let job = job().map_err(Error::Start)?;
        Ok(Watch { job, doing, line: ProgressLine::new(quiet), interrupt })
    }

    /// Another part of the work begins.
    pub(super) fn now(&mut self, doing: &'static str) {
        self.doing = doing;
    }

    /// The next finding; `None` when the job is over. A cancelled job still ends in order,
    /// so that it can clean up.
    pub(super) fn next(&mut self) -> Result<Option<T>, Error> {
        loop {
            if self.interrupt.signal().is_some() {
                self.job.cancel();
            }
            self.line.draw(self.doing, self.job.progress());
            match self.job.wait(LOOK) {
                News::Finding(finding) => return Ok(Some(finding)),
                News::Nothing => {}
                News::Panicked(message) => return Err(Error::Panicked(message)),
                News::Ended => {
                    return match self.interrupt.signal() {
                        Some(signal) => Err(Error::Interrupted { signal }),
                        None => Ok(None),
                    };
                }
            }
        }
    }

    /// The one thing the job finds.
    pub(super) fn only(mut self) -> Result<T, Error> {
        let mut only = None;
        while let Some(finding) = self.next()? {
            only = Some(finding);
        }
        only.ok_or(Error::NoThreads)
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        self.interrupt.end_at_once(true);
    }
}
