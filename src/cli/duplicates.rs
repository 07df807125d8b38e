//! Finds tensors that hold the same bytes as another.

use super::error::Error;
use super::job_runner::JobRunner;
use super::options::WorkArgs;
use crate::checkpoint::Checkpoint;
use crate::job::duplicates;
use crate::quantization::Statistics;
use crate::tensor::TensorId;
use std::collections::HashMap;
use std::sync::Arc;

/// Each duplicate with the first tensor that holds the same bytes.
pub(super) struct Duplicates(HashMap<TensorId, TensorId>);

impl Duplicates {
    /// Compares the tensors whose statistics are equal.
    pub(super) fn find<'s>(
        checkpoint: &Arc<Checkpoint>,
        measured: impl Iterator<Item = (TensorId, &'s Statistics)>,
        work: &WorkArgs,
    ) -> Result<Duplicates, Error> {
        let candidates = duplicates::candidates(checkpoint, measured);
        if candidates.is_empty() {
            return Ok(Duplicates(HashMap::new()));
        }
        let job = || duplicates::start(checkpoint.clone(), candidates);
        let found = JobRunner::start(job, "comparing", work.quiet)?.only()?;
        // Read errors are reported where the tensors are measured.
        Ok(Duplicates(found.unwrap_or_default().into_iter().collect()))
    }

    /// The name of the first tensor that holds the same bytes.
    pub(super) fn of<'c>(&self, checkpoint: &'c Checkpoint, id: TensorId) -> Option<&'c str> {
        self.0.get(&id).map(|&first| checkpoint.tensor(first).name.as_str())
    }
}
