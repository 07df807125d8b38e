//! What was written of tensors whose rounding was compensated. Their codes cannot be computed
//! again from the source alone, so a save keeps a checksum of each chunk and compares it with
//! what it reads back.

use crate::checkpoint::Checkpoint;
use crate::quantization::CompensatedError;
use crate::tensor::TensorId;
use foldhash::quality::FixedState;
use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The key in `__metadata__` that lists the tensors of a file whose rounding was compensated.
pub(crate) const COMPENSATED_KEY: &str = "quantscope.error_compensation";

/// The checksum and the output error of each chunk of each compensated tensor.
#[derive(Debug, Default)]
pub struct CompensatedTensors {
    chunks: Mutex<BTreeMap<(TensorId, u64), (u64, CompensatedError)>>,
}

impl CompensatedTensors {
    /// Records a chunk that begins with element `first`; `values` are its stored codes.
    pub(crate) fn record(
        &self,
        tensor: TensorId,
        first: u64,
        values: &[u8],
        error: CompensatedError,
    ) {
        self.chunks().insert((tensor, first), (checksum(values), error));
    }

    /// Whether the codes of a chunk are those that were written; `None` if no such chunk was.
    pub(crate) fn is_as_written(
        &self,
        tensor: TensorId,
        first: u64,
        values: &[u8],
    ) -> Option<bool> {
        let (written, _) = *self.chunks().get(&(tensor, first))?;
        Some(written == checksum(values))
    }

    /// The output error of a tensor, if its rounding was compensated.
    pub(crate) fn error(&self, tensor: TensorId) -> Option<CompensatedError> {
        let chunks = self.chunks();
        let mut all = chunks.range((tensor, 0)..=(tensor, u64::MAX)).map(|(_, (_, error))| error);
        let mut sum = *all.next()?;
        all.for_each(|error| sum.merge(error));
        Some(sum)
    }

    fn chunks(&self) -> MutexGuard<'_, BTreeMap<(TensorId, u64), (u64, CompensatedError)>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn checksum(values: &[u8]) -> u64 {
    FixedState::default().hash_one(values)
}

/// The key in `__metadata__` that lists the int8 tensors of a file whose scales are those of
/// compressed-tensors, absmax/127.5.
pub(crate) const OWNERS_SCALES_KEY: &str = "quantscope.scales_of_absmax_127_5";

/// The names of the tensors that an output lists under a key.
pub(crate) fn listed_names(out: &Checkpoint, list: &str) -> HashSet<String> {
    let texts = out.shards().iter().flat_map(|shard| &shard.metadata);
    let texts = texts.filter(|(key, _)| key == list);
    let names = texts.filter_map(|(_, text)| serde_json::from_str::<Vec<String>>(text).ok());
    names.flatten().collect()
}
