//! Which of the tensors shown hold the same bytes as another.

use super::error::Error;
use super::job_runner::Watch;
use super::options::WorkArgs;
use crate::checkpoint::Checkpoint;
use crate::job::duplicates;
use crate::quantization::Statistics;
use crate::tensor::TensorId;
use std::collections::HashMap;
use std::sync::Arc;

/// Each duplicate with the first tensor of the same bytes.
pub(super) struct Duplicates(HashMap<TensorId, TensorId>);

impl Duplicates {
    /// Looks for them among tensors whose figures are known.
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
        let found = Watch::start(job, "comparing", work.quiet)?.only()?;
        // A file that cannot be read any more is said by whoever reads it for its figures.
        Ok(Duplicates(found.unwrap_or_default().into_iter().collect()))
    }

    /// The name of the first tensor that has the same bytes.
    pub(super) fn of<'c>(&self, checkpoint: &'c Checkpoint, id: TensorId) -> Option<&'c str> {
        self.0.get(&id).map(|&first| checkpoint.tensor(first).name.as_str())
    }
}
