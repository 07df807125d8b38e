//! Divides an output among workers.

use crate::checkpoint::{Checkpoint, StoredId};
use crate::export::output_plan::{Entry, MadeFrom, OutputPlan};
use crate::export::partition::Partition;
use crate::export::verify::pairing::parts;
use crate::tensor::TensorId;
use foldhash::{HashMap, HashMapExt};
use std::collections::HashSet;
use std::ops::Range;

/// Workers get whole files if there are at least this many files per worker.
const WHOLE_FILES_PER_WORKER: usize = 4;

/// The share of one worker in an output.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Share {
    /// The tensors of the source that the worker reads.
    pub(crate) tensors: HashSet<TensorId>,
    /// The entries that it writes, as indices of the file and of the entry in it, in order.
    pub(crate) entries: Vec<(usize, usize)>,
}

impl Share {
    fn add(&mut self, unit: Unit) {
        self.tensors.extend(unit.tensor);
        self.entries.extend(unit.entries);
    }

    /// Size of the worker's entries in bytes.
    pub(crate) fn bytes(&self, output_plan: &OutputPlan) -> u64 {
        let bytes = |&(file, entry): &(usize, usize)| {
            Some(output_plan.files.get(file)?.entries.get(entry)?.bytes)
        };
        self.entries.iter().filter_map(bytes).sum()
    }

    /// The byte ranges of a file that belong to the worker, in order. Adjacent entries are one
    /// range.
    pub(crate) fn ranges(&self, output_plan: &OutputPlan, file: usize) -> Vec<Range<u64>> {
        let Some(out) = output_plan.files.get(file) else { return Vec::new() };
        let entries = self.entries.iter().filter(|(of, _)| *of == file);
        let mut ranges: Vec<Range<u64>> = entries
            .filter_map(|&(_, entry)| {
                let start = *out.offsets.get(entry)?;
                Some(start..start + out.entries.get(entry)?.bytes)
            })
            .filter(|range| !range.is_empty())
            .collect();
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|next, range| {
            let adjacent = range.end == next.start;
            if adjacent {
                range.end = next.end;
            }
            adjacent
        });
        ranges
    }
}

/// Entries that one worker must write together: those of one tensor of the source, or one that is
/// not made from a tensor.
struct Unit {
    tensor: Option<TensorId>,
    entries: Vec<(usize, usize)>,
    bytes: u64,
}

/// Returns the share of each worker, in order. Every entry that is made from the source is in
/// exactly one share, and the entries of one tensor are in the same share. Shares are contiguous in
/// the order of the output and of about equal size in bytes; a share can be empty. With many files a
/// worker gets whole files, except for tensors that are in several files.
pub(crate) fn shares(checkpoint: &Checkpoint, output_plan: &OutputPlan, count: u32) -> Vec<Share> {
    let mut shares = vec![Share::default(); count as usize];
    for (unit, worker) in assigned_units(checkpoint, output_plan, count) {
        if let Some(share) = shares.get_mut(worker) {
            share.add(unit);
        }
    }
    shares.iter_mut().for_each(|share| share.entries.sort_unstable());
    shares
}

/// Returns what must be written together, and the worker that writes it.
fn assigned_units(
    checkpoint: &Checkpoint,
    output_plan: &OutputPlan,
    count: u32,
) -> impl Iterator<Item = (Unit, usize)> {
    let units = units(checkpoint, output_plan);
    let workers = count as usize;
    let by_file = output_plan.files.len() >= workers.saturating_mul(WHOLE_FILES_PER_WORKER);
    let assigned: Vec<usize> = if by_file {
        let mut bytes = vec![0; output_plan.files.len()];
        let file = |unit: &Unit| unit.entries.first().map_or(0, |(file, _)| *file);
        for unit in &units {
            if let Some(bytes) = bytes.get_mut(file(unit)) {
                *bytes += unit.bytes;
            }
        }
        let files = assign(&bytes, count);
        units.iter().map(|unit| files.get(file(unit)).copied().unwrap_or(0)).collect()
    } else {
        assign(&units.iter().map(|unit| unit.bytes).collect::<Vec<_>>(), count)
    };
    units.into_iter().zip(assigned)
}

/// Returns the share of one worker.
pub(crate) fn share(
    checkpoint: &Checkpoint,
    output_plan: &OutputPlan,
    partition: Partition,
) -> Share {
    let place = partition.index() as usize - 1;
    let mut share = Share::default();
    let units = assigned_units(checkpoint, output_plan, partition.count());
    units.filter(|(_, worker)| *worker == place).for_each(|(unit, _)| share.add(unit));
    share.entries.sort_unstable();
    share
}

/// Returns the worker of each item for the given sizes: all bytes are divided evenly, and an item
/// belongs to the worker whose range contains its middle. Workers are in ascending order.
pub(crate) fn assign(bytes: &[u64], count: u32) -> Vec<usize> {
    let total: u128 = bytes.iter().map(|&bytes| u128::from(bytes)).sum();
    let count = u128::from(count.max(1));
    let mut before: u128 = 0;
    let worker = bytes.iter().map(|&bytes| {
        let twice_middle = 2 * before + u128::from(bytes);
        before += u128::from(bytes);
        let worker = twice_middle * count / (2 * total).max(1);
        worker.min(count - 1) as usize
    });
    worker.collect()
}

fn units(checkpoint: &Checkpoint, output_plan: &OutputPlan) -> Vec<Unit> {
    let owners: HashMap<StoredId, TensorId> = checkpoint
        .ids()
        .flat_map(|id| parts(checkpoint, id).into_iter().map(move |part| (part, id)))
        .collect();
    let mut units: Vec<Unit> = Vec::new();
    let mut of_tensor: HashMap<TensorId, usize> = HashMap::new();
    for (file, out) in output_plan.files.iter().enumerate() {
        for (number, entry) in out.entries.iter().enumerate() {
            let Some(tensor) = source(entry, &owners) else { continue };
            let known = tensor.and_then(|tensor| of_tensor.get(&tensor).copied());
            let place = known.unwrap_or(units.len());
            if known.is_none() {
                units.push(Unit { tensor, entries: Vec::new(), bytes: 0 });
                tensor.map(|tensor| of_tensor.insert(tensor, place));
            }
            if let Some(unit) = units.get_mut(place) {
                unit.entries.push((file, number));
                unit.bytes += entry.bytes;
            }
        }
    }
    units
}

/// Returns the tensor that an entry is made from. `None` if the entry is determined by the plan
/// only, `Some(None)` if it is a stored tensor that belongs to no tensor.
fn source(entry: &Entry, owners: &HashMap<StoredId, TensorId>) -> Option<Option<TensorId>> {
    match entry.made_from {
        MadeFrom::Literal(_) | MadeFrom::Zeros => None,
        MadeFrom::Stored(stored) | MadeFrom::Transposed(stored) => {
            Some(owners.get(&stored).copied())
        }
        MadeFrom::Values { tensor, .. }
        | MadeFrom::Scales { tensor }
        | MadeFrom::Biases { tensor }
        | MadeFrom::Floats { tensor, .. }
        | MadeFrom::FakeQuantized { tensor, .. }
        | MadeFrom::PresetValues { tensor, .. }
        | MadeFrom::PresetPart { tensor, .. }
        | MadeFrom::GgmlBlocks { tensor, .. } => Some(Some(tensor)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_are_contiguous_and_no_worker_exceeds_its_part_by_more_than_an_item(
            bytes in prop::collection::vec(0u64..1 << 40, 0..200),
            count in 1u32..40,
        ) {
            let assigned = assign(&bytes, count);
            prop_assert_eq!(assigned.len(), bytes.len());
            prop_assert!(assigned.is_sorted());
            let largest = bytes.iter().copied().max().unwrap_or(0);
            let even = bytes.iter().sum::<u64>() / u64::from(count);
            for worker in 0..count as usize {
                let of_worker = bytes.iter().zip(&assigned).filter(|(_, of)| **of == worker);
                let sum: u64 = of_worker.map(|(bytes, _)| bytes).sum();
                prop_assert!(sum <= even + largest + 1, "{sum} of {even}");
            }
        }
    }

    #[test]
    fn more_workers_than_items_leaves_workers_without_any() {
        assert_eq!(assign(&[5, 5], 4), [1, 3]);
        assert!(assign(&[], 3).is_empty());
        assert_eq!(assign(&[0, 0], 3), [0, 0]);
    }
}
