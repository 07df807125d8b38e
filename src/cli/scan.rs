//! A scan whose results are returned in the requested order.

use super::error::Error;
use super::job_runner::JobRunner;
use super::options::WorkArgs;
use crate::checkpoint::{Checkpoint, ReadError};
use crate::job::cache::Cache;
use crate::job::scan::{self, Finding, Order};
use crate::job::{Job, Progress};
use crate::quantization::{Analysis, AnalysisSpec, SharedAbsmax};
use crate::tensor::TensorId;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// The analysis of one tensor, or why it could not be read.
pub(super) type ScanResult = Result<Analysis, ReadError>;

/// Measures the largest magnitudes of tensors that share global scales; empty if no quantizer has
/// such scales.
fn shared(
    checkpoint: &Arc<Checkpoint>,
    tensors: &[TensorId],
    spec: &AnalysisSpec,
    work: &WorkArgs,
) -> Result<SharedAbsmax, Error> {
    if !spec.shares_global_scale() {
        return Ok(SharedAbsmax::default());
    }
    let (checkpoint, tensors, threads) = (checkpoint.clone(), tensors.to_vec(), work.threads());
    let find = move |progress: &Progress, sender: &Sender<SharedAbsmax>| {
        if let Ok(found) = scan::shared_absmax(&checkpoint, &tensors, threads, progress) {
            let _ = sender.send(found);
        }
    };
    let job = || Job::start("ranges", Arc::default(), find);
    JobRunner::start(job, "finding ranges", work.quiet)?.only()
}

/// An iterator over all requested tensors in order, with `None` for those that are not floats.
///
/// Workers finish tensors nearly in order, so few results wait for their turn, and memory stays
/// bounded even if every scale is kept.
pub(super) struct Scan {
    runner: JobRunner<Finding>,
    checkpoint: Arc<Checkpoint>,
    order: std::vec::IntoIter<TensorId>,
    early: HashMap<TensorId, ScanResult>,
}

impl Scan {
    pub(super) fn start(
        checkpoint: &Arc<Checkpoint>,
        tensors: Vec<TensorId>,
        spec: AnalysisSpec,
        doing: &'static str,
        work: &WorkArgs,
        cache: Option<Cache>,
    ) -> Result<Scan, Error> {
        let spec =
            AnalysisSpec { shared_absmax: shared(checkpoint, &tensors, &spec, work)?, ..spec };
        let order = Arc::new(Order::new(tensors.clone()));
        let job = || scan::start(checkpoint.clone(), spec, order, work.threads(), cache);
        Ok(Scan {
            runner: JobRunner::start(job, doing, work.quiet)?,
            checkpoint: checkpoint.clone(),
            order: tensors.into_iter(),
            early: HashMap::new(),
        })
    }

    fn found(&mut self, wanted: TensorId) -> Result<Option<ScanResult>, Error> {
        if self.checkpoint.float_type(wanted).is_none() {
            return Ok(None);
        }
        loop {
            if let Some(found) = self.early.remove(&wanted) {
                return Ok(Some(found));
            }
            let (id, found) = self.runner.next()?.ok_or(Error::NoThreads)?;
            self.early.insert(id, found);
        }
    }
}

impl Iterator for Scan {
    type Item = Result<(TensorId, Option<ScanResult>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(wanted) = self.order.next() else {
            // All results have arrived; the job still writes the cache.
            while let Ok(Some(_)) = self.runner.next() {}
            return None;
        };
        Some(self.found(wanted).map(|found| (wanted, found)))
    }
}
