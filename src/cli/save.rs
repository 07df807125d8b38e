//! Carrying out a request to write a checkpoint, shown while it goes on.

use super::error::Error;
use super::job_runner::Watch;
use super::options::WorkArgs;
use crate::checkpoint::Checkpoint;
use crate::export::{KnownScales, Receipt, Request};
use crate::job::JobError;
use crate::job::Stopped;
use crate::job::save::{self, News};
use std::sync::Arc;

/// Saves, and waits until what was written has been verified. When a signal cancels it, the
/// job still removes what it had begun.
pub(super) fn save(
    checkpoint: &Arc<Checkpoint>,
    request: Request,
    known: KnownScales,
    work: &WorkArgs,
) -> Result<Receipt, Error> {
    let job = || save::start(checkpoint.clone(), request, known, work.threads());
    let mut watch = Watch::start(job, "preparing", work.quiet)?;
    let mut finished = None;
    loop {
        match watch.next() {
            Ok(Some(News::Phase(doing))) => watch.now(doing),
            Ok(Some(News::Finished(outcome))) => finished = Some(outcome),
            Ok(None) => break,
            // A save that was complete before the signal came is complete.
            Err(interrupted) => match finished {
                Some(outcome) if outcome.is_ok() => return Ok((*outcome)?),
                _ => return Err(interrupted),
            },
        }
    }
    match finished.map(|outcome| *outcome) {
        Some(outcome) => Ok(outcome?),
        None => Err(JobError::SaveStopped(Stopped::Cancelled).into()),
    }
}
