//! Checksums of the rows written of tensors that are rounded for their inputs, such as compensated
//! ones. Their codes cannot be computed again from
//! the source alone, so a save keeps a checksum of each row and compares it with what it reads
//! back. Writing and reading back divide a tensor into different chunks.

use crate::checkpoint::Checkpoint;
use crate::quantization::OutputErrors;
use crate::tensor::TensorId;
use foldhash::quality::FixedState;
use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The key in `__metadata__` that lists the tensors of a file whose rounding was compensated.
pub(crate) const COMPENSATED_KEY: &str = "quantscope.error_compensation";

/// The key in `__metadata__` that lists the tensors of a file whose clips were searched.
pub(crate) const CLIPPED_KEY: &str = "quantscope.clip_search";

/// The checksums of the rows of a written chunk.
#[derive(Debug)]
struct WrittenRows {
    /// The checksum of the stored codes of each row.
    checksums: Vec<u64>,
    error: OutputErrors,
}

/// The checksums and output errors of everything written of tensors that are rounded for their
/// layers' recorded inputs.
#[derive(Debug, Default)]
pub struct CompensatedTensors {
    /// The rows by tensor and first row.
    chunks: Mutex<BTreeMap<(TensorId, u64), WrittenRows>>,
}

impl CompensatedTensors {
    /// Records the rows of a tensor from row `first` on; `values` are their stored codes, of
    /// `row_bytes` each.
    pub(crate) fn record(
        &self,
        (tensor, first): (TensorId, u64),
        row_bytes: usize,
        values: &[u8],
        error: OutputErrors,
    ) {
        let checksums = values.chunks(row_bytes.max(1)).map(checksum).collect();
        self.chunks().insert((tensor, first), WrittenRows { checksums, error });
    }

    /// Returns whether the stored codes of rows equal those that were written; `None` if a row was
    /// not written.
    pub(crate) fn are_as_written(
        &self,
        (tensor, first): (TensorId, u64),
        row_bytes: usize,
        values: &[u8],
    ) -> Option<bool> {
        let chunks = self.chunks();
        for (row, values) in (first..).zip(values.chunks(row_bytes.max(1))) {
            let (&(_, start), written) = chunks.range((tensor, 0)..=(tensor, row)).next_back()?;
            let written = written.checksums.get(usize::try_from(row - start).ok()?)?;
            if *written != checksum(values) {
                return Some(false);
            }
        }
        Some(true)
    }

    /// The output error of a tensor, if it was rounded for recorded inputs.
    pub(crate) fn error(&self, tensor: TensorId) -> Option<OutputErrors> {
        let chunks = self.chunks();
        let mut all = chunks.range((tensor, 0)..=(tensor, u64::MAX)).map(|(_, rows)| &rows.error);
        let mut sum = *all.next()?;
        all.for_each(|error| sum.merge(error));
        Some(sum)
    }

    fn chunks(&self) -> MutexGuard<'_, BTreeMap<(TensorId, u64), WrittenRows>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn checksum(values: &[u8]) -> u64 {
    FixedState::default().hash_one(values)
}

/// The key in `__metadata__` that lists the int8 tensors of a file with compressed-tensors' own
/// scales, absmax/127.5.
pub(crate) const UPSTREAM_SCALES_KEY: &str = "quantscope.scales_of_absmax_127_5";

/// Returns the names of the tensors that an output lists under a key.
pub(crate) fn listed_names(out: &Checkpoint, list: &str) -> HashSet<String> {
    let texts = out.shards().iter().flat_map(|shard| &shard.metadata);
    let texts = texts.filter(|(key, _)| key == list);
    let names = texts.filter_map(|(_, text)| serde_json::from_str::<Vec<String>>(text).ok());
    names.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_in_other_chunks_than_they_were_written_in() {
        let values: Vec<u8> = (0..40).collect();
        let (tensor, other) = (TensorId(0), TensorId(1));
        let written = CompensatedTensors::default();
        for (first, chunk) in (0..).step_by(3).zip(values.chunks(12)) {
            written.record((tensor, first), 4, chunk, OutputErrors::default());
        }
        for rows in [1, 2, 4, 5, 10] {
            for (first, chunk) in (0..).step_by(rows).zip(values.chunks(4 * rows)) {
                let found = written.are_as_written((tensor, first), 4, chunk);
                assert_eq!(found, Some(true), "{first} {rows}");
            }
        }
        let mut changed = values.clone();
        changed[30] ^= 1;
        assert_eq!(written.are_as_written((tensor, 0), 4, &changed), Some(false));
        let beyond = [&values[36..], &[0; 4]].concat();
        assert_eq!(written.are_as_written((tensor, 9), 4, &beyond), None);
        assert_eq!(written.are_as_written((other, 0), 4, &values), None);
    }
}
