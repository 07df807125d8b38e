//! Comparing two checkpoints tensor by tensor, on all cores.

use super::JobError;
use super::ordered_fold::OrderedFold;
use super::{Job, Progress, each_chunk, lock};
use crate::checkpoint::{Checkpoint, Content, ReadError};
use crate::quantization::{Chunks, Difference, difference};
use crate::tensor::{DType, Shape, TensorId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

/// Elements that are compared at a time.
const CHUNK_ELEMENTS: u64 = 1 << 17;

/// A tensor name that one or both checkpoints have, and what changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    pub name: String,
    pub change: Change,
}

/// The change of a tensor from A to B.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Only B has it.
    Added { dtype: DType, shape: Shape },
    /// Only A has it.
    Removed { dtype: DType, shape: Shape },
    /// Both have it, with different shapes.
    Reshaped { from: Shape, to: Shape },
    /// Both have it, with the same shape.
    Common {
        from: DType,
        to: DType,
        /// The difference of the values; `None` if one of the two is not a float tensor.
        difference: Option<Difference>,
        /// Whether the stored bytes are the same.
        identical: bool,
    },
}

impl Change {
    /// SQNR of B against A in dB; infinite if nothing differs.
    pub fn sqnr_db(&self) -> Option<f64> {
        match self {
            Change::Common { difference: Some(d), .. } => Some(d.sums.statistics().sqnr_db),
            _ => None,
        }
    }
}

/// Starts a job whose one finding is the result of [`run`].
pub(crate) fn start(
    a: Arc<Checkpoint>,
    b: Arc<Checkpoint>,
    threads: Option<usize>,
) -> std::io::Result<Job<Result<Vec<Compared>, JobError>>> {
    Job::start("diff", Arc::new(Progress::default()), move |progress, sender| {
        let _ = sender.send(run(&a, &b, threads, progress));
    })
}

/// Compares every tensor. The result lists A's tensors in their order, then those that only B
/// has.
pub(crate) fn run(
    a: &Checkpoint,
    b: &Checkpoint,
    threads: Option<usize>,
    progress: &Progress,
) -> Result<Vec<Compared>, JobError> {
    let in_b: HashMap<&str, TensorId> =
        b.ids().map(|id| (b.tensor(id).name.as_str(), id)).collect();
    let in_a: HashMap<&str, TensorId> =
        a.ids().map(|id| (a.tensor(id).name.as_str(), id)).collect();
    let pairs: Vec<(TensorId, TensorId)> = a
        .ids()
        .filter_map(|id| Some((id, *in_b.get(a.tensor(id).name.as_str())?)))
        .filter(|&(x, y)| a.tensor(x).shape == b.tensor(y).shape)
        .collect();
    let chunks: Vec<Chunks> = pairs.iter().map(|&(x, y)| chunks(a, x, b, y)).collect();
    progress.expect(pairs.iter().map(|&(x, _)| a.bytes(x)).fold(0, u64::saturating_add));
    let sums: Vec<_> =
        pairs.iter().map(|_| Mutex::new(OrderedFold::new(ChunkFindings::default()))).collect();
    let found: Vec<OnceLock<ChunkFindings>> = pairs.iter().map(|_| OnceLock::new()).collect();
    each_chunk(chunks.iter().map(Chunks::count), threads, progress, || {
        let (mut from, mut to) = (a.reader(), b.reader());
        let (pairs, chunks, sums, found) = (&pairs, &chunks, &sums, &found);
        move |number, k| {
            let (Some(&(x, y)), Some(chunks)) = (pairs.get(number), chunks.get(number)) else {
                return Ok(());
            };
            let next = compare(&mut from, x, &mut to, y, chunks.range(k))?;
            progress.advance(a.bytes(x) / chunks.count());
            if let (Some(sums), Some(found)) = (sums.get(number), found.get(number)) {
                let whole = lock(sums).add(k, next, chunks.count(), ChunkFindings::merge);
                if let Some(whole) = whole {
                    let _ = found.set(whole);
                }
            }
            Ok(())
        }
    })?;
    let mut common: HashMap<TensorId, (TensorId, ChunkFindings)> = pairs
        .into_iter()
        .zip(found)
        .map(|((x, y), found)| (x, (y, found.into_inner().unwrap_or_default())))
        .collect();
    let mut all = Vec::new();
    for id in a.ids() {
        let info = a.tensor(id);
        let change = match (common.remove(&id), in_b.get(info.name.as_str())) {
            (Some((other, found)), _) => Change::Common {
                from: info.dtype.clone(),
                to: b.tensor(other).dtype.clone(),
                difference: found.difference,
                identical: !found.bytes_differ,
            },
            (None, Some(&other)) => {
                Change::Reshaped { from: info.shape.clone(), to: b.tensor(other).shape.clone() }
            }
            (None, None) => {
                Change::Removed { dtype: info.dtype.clone(), shape: info.shape.clone() }
            }
        };
        all.push(Compared { name: info.name.to_string(), change });
    }
    for info in b.tensors().iter().filter(|info| !in_a.contains_key(info.name.as_str())) {
        let change = Change::Added { dtype: info.dtype.clone(), shape: info.shape.clone() };
        all.push(Compared { name: info.name.to_string(), change });
    }
    Ok(all)
}

/// The result for a chunk, or for all chunks so far.
#[derive(Clone, Debug, Default)]
struct ChunkFindings {
    difference: Option<Difference>,
    bytes_differ: bool,
}

impl ChunkFindings {
    fn merge(&mut self, next: ChunkFindings) {
        self.bytes_differ |= next.bytes_differ;
        match (&mut self.difference, next.difference) {
            (Some(sum), Some(next)) => sum.merge(&next),
            (none, next) => *none = next,
        }
    }
}

/// Chunks of elements if both are float tensors, and of bytes otherwise.
fn chunks(a: &Checkpoint, x: TensorId, b: &Checkpoint, y: TensorId) -> Chunks {
    match (a.float_type(x), b.float_type(y)) {
        (Some(_), Some(_)) => Chunks::new(&a.tensor(x).shape, CHUNK_ELEMENTS, None),
        _ => Chunks::new(&Shape::vector(a.bytes(x).max(1)), CHUNK_ELEMENTS * 8, None),
    }
}

fn compare(
    from: &mut crate::checkpoint::Reader,
    x: TensorId,
    to: &mut crate::checkpoint::Reader,
    y: TensorId,
    range: std::ops::Range<u64>,
) -> Result<ChunkFindings, ReadError> {
    let (a, b) = (from.checkpoint(), to.checkpoint());
    if a.float_type(x).is_some() && b.float_type(y).is_some() {
        let before = from.elements(x, range.clone())?;
        let after = to.elements(y, range)?;
        let (Some(before), Some(after)) = (before, after) else {
            return Ok(ChunkFindings::default());
        };
        let plain = matches!((a.content(x), b.content(y)), (Content::Plain(_), Content::Plain(_)));
        let found = difference(before, after);
        return Ok(ChunkFindings {
            difference: Some(found),
            bytes_differ: !plain || before != after,
        });
    }
    let (Content::Plain(before), Content::Plain(after)) = (a.content(x), b.content(y)) else {
        return Ok(ChunkFindings { difference: None, bytes_differ: true });
    };
    // Elements that cannot be decoded are not known to be equal.
    let unreadable = a.unreadable(x).is_some() || b.unreadable(y).is_some();
    if unreadable || a.tensor(x).dtype != b.tensor(y).dtype || a.bytes(x) != b.bytes(y) {
        return Ok(ChunkFindings { difference: None, bytes_differ: true });
    }
    let end = range.end.min(a.bytes(x));
    let bytes_differ =
        from.stored(*before, range.start..end)? != to.stored(*after, range.start..end)?;
    Ok(ChunkFindings { difference: None, bytes_differ })
}
