//! What a scan finds out, tensor by tensor in the order asked for.

use super::error::Error;
use super::job_runner::Watch;
use super::options::WorkArgs;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::job::cache::Cache;
use crate::job::scan::{self, Finding, Order};
use crate::quantization::{Analysis, AnalysisSpec};
use crate::tensor::TensorId;
use std::collections::HashMap;
use std::sync::Arc;

pub(super) type Found = Result<Analysis, CheckpointError>;

/// A scan under way. It gives every tensor, with `None` for one without float elements.
///
/// Workers finish tensors nearly in order, so few findings wait for their turn and memory
/// stays bounded even when every scale is kept.
pub(super) struct Scan {
    watch: Watch<Finding>,
    checkpoint: Arc<Checkpoint>,
    order: std::vec::IntoIter<TensorId>,
    early: HashMap<TensorId, Found>,
}

impl Scan {
    pub(super) fn start(
        checkpoint: &Arc<Checkpoint>,
        tensors: Vec<TensorId>,
        questions: AnalysisSpec,
        doing: &'static str,
        work: &WorkArgs,
        cache: Option<Cache>,
    ) -> Result<Scan, Error> {
        let order = Arc::new(Order::new(tensors.clone()));
        let job = || scan::start(checkpoint.clone(), questions, order, work.threads(), cache);
        Ok(Scan {
            watch: Watch::start(job, doing, work.quiet)?,
            checkpoint: checkpoint.clone(),
            order: tensors.into_iter(),
            early: HashMap::new(),
        })
    }

    fn found(&mut self, wanted: TensorId) -> Result<Option<Found>, Error> {
        if self.checkpoint.float_type(wanted).is_none() {
            return Ok(None);
        }
        loop {
            if let Some(found) = self.early.remove(&wanted) {
                return Ok(Some(found));
            }
            let (id, found) = self.watch.next()?.ok_or(Error::NoThreads)?;
            self.early.insert(id, found);
        }
    }
}

impl Iterator for Scan {
    type Item = Result<(TensorId, Option<Found>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(wanted) = self.order.next() else {
            // All is found; the job still puts it into the cache.
            while let Ok(Some(_)) = self.watch.next() {}
            return None;
        };
        Some(self.found(wanted).map(|found| (wanted, found)))
    }
}
