//! Runs a save and shows its progress.

use super::error::Error;
use super::job_runner::JobRunner;
use super::options::WorkArgs;
use crate::checkpoint::Checkpoint;
use crate::export::{KnownScales, Receipt, Request, VerifiedAgainst};
use crate::job::save::{self, SaveEvent};
use crate::job::{Job, JobError, Stopped};
use std::io;
use std::sync::Arc;

/// Saves, and waits until the output was verified and renamed into place. If a signal cancels
/// the job, it still removes its temporary files, or keeps an output that can be resumed.
pub(super) fn save(
    checkpoint: &Arc<Checkpoint>,
    request: Request,
    known: KnownScales,
    against: Option<VerifiedAgainst>,
    work: &WorkArgs,
) -> Result<Receipt, Error> {
    finish(|| save::start(checkpoint.clone(), request, known, against, work.threads()), work)
}

/// Runs a save, or a part of one, to its end, and shows its progress.
pub(super) fn finish<T: Send + 'static>(
    job: impl FnOnce() -> io::Result<Job<SaveEvent<T>>>,
    work: &WorkArgs,
) -> Result<T, Error> {
    let mut runner = JobRunner::start(job, "preparing", work.quiet)?;
    let mut finished = None;
    loop {
        match runner.next() {
            Ok(Some(SaveEvent::Phase(doing))) => runner.set_phase(doing),
            Ok(Some(SaveEvent::Finished(outcome))) => finished = Some(outcome),
            Ok(None) => break,
            // The job was complete before the signal arrived.
            Err(interrupted) => match finished {
                Some(outcome) if outcome.is_ok() => return Ok((*outcome)?),
                outcome => {
                    let unfinished = match outcome.map(|outcome| *outcome) {
                        Some(Err(error @ JobError::Unfinished { .. })) => Some(Box::new(error)),
                        _ => None,
                    };
                    return Err(match interrupted {
                        Error::Interrupted { signal } => {
                            Error::SaveInterrupted { signal, unfinished }
                        }
                        other => other,
                    });
                }
            },
        }
    }
    match finished.map(|outcome| *outcome) {
        Some(outcome) => Ok(outcome?),
        None => Err(JobError::SaveStopped(Stopped::Cancelled).into()),
    }
}
