//! Finds tensors that hold the same bytes, such as tied heads and copied layers.
//!
//! Only tensors with the same dtype, shape and statistics are compared byte by byte, so almost
//! nothing is read twice.

use super::{Job, Progress, Stopped};
use crate::checkpoint::{Checkpoint, Content, ReadError, Reader};
use crate::quantization::Statistics;
use crate::tensor::TensorId;
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes compared at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// Groups of tensors that may be duplicates of each other, in the order of the checkpoint.
pub type Candidates = Vec<Vec<TensorId>>;

/// Why the comparison ended early.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum DuplicatesError {
    #[error("{0}")]
    Checkpoint(#[from] ReadError),
    #[error("{0}")]
    Stopped(#[from] Stopped),
}

/// Groups tensors with the same statistics. Constant tensors are left out: two of them are
/// often equal by chance.
pub fn candidates<'s>(
    checkpoint: &Checkpoint,
    measured: impl Iterator<Item = (TensorId, &'s Statistics)>,
) -> Candidates {
    let mut alike: HashMap<_, Vec<TensorId>> = HashMap::new();
    for (id, s) in measured {
        if s.min == s.max || s.count == 0 || !matches!(checkpoint.content(id), Content::Plain(_)) {
            continue;
        }
        let tensor = checkpoint.tensor(id);
        let figures = [s.min, s.max, s.mean, s.std].map(f64::to_bits);
        let key = (tensor.dtype.name(), tensor.shape.dims(), figures, s.zeros, s.nan, s.inf);
        alike.entry(key).or_default().push(id);
    }
    let mut groups: Candidates = alike.into_values().filter(|group| group.len() > 1).collect();
    groups.iter_mut().for_each(|group| group.sort());
    groups.sort();
    groups
}

/// Starts a job whose one finding is the result of [`run`].
pub fn start(
    checkpoint: Arc<Checkpoint>,
    candidates: Candidates,
) -> std::io::Result<Job<DuplicatesResult>> {
    Job::start("duplicates", Arc::new(Progress::default()), move |progress, sender| {
        let _ = sender.send(run(&checkpoint, &candidates, progress));
    })
}

/// Each duplicate with the first tensor that holds the same bytes, in order.
pub type DuplicatesResult = Result<Vec<(TensorId, TensorId)>, DuplicatesError>;

/// Compares the candidates, and returns each duplicate with the first tensor it equals.
pub fn run(
    checkpoint: &Checkpoint,
    candidates: &Candidates,
    progress: &Progress,
) -> DuplicatesResult {
    let (mut a, mut b) = (checkpoint.reader(), checkpoint.reader());
    let mut found = Vec::new();
    for group in candidates {
        let mut firsts: Vec<TensorId> = Vec::new();
        'tensors: for &id in group {
            for &first in &firsts {
                if same(checkpoint, (&mut a, first), (&mut b, id), progress)? {
                    found.push((id, first));
                    continue 'tensors;
                }
            }
            firsts.push(id);
        }
    }
    found.sort();
    Ok(found)
}

fn same(
    checkpoint: &Checkpoint,
    (a, one): (&mut Reader, TensorId),
    (b, other): (&mut Reader, TensorId),
    progress: &Progress,
) -> Result<bool, DuplicatesError> {
    let (Content::Plain(one), Content::Plain(other)) =
        (checkpoint.content(one), checkpoint.content(other))
    else {
        return Ok(false);
    };
    let length = checkpoint.stored(*one).bytes();
    if checkpoint.stored(*other).bytes() != length {
        return Ok(false);
    }
    let mut at = 0;
    while at < length {
        progress.check()?;
        let part = at..(at + CHUNK_BYTES).min(length);
        if a.stored(*one, part.clone())? != b.stored(*other, part.clone())? {
            return Ok(false);
        }
        at = part.end;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::{AnalysisSpec, Calibration, QuantizationScheme, Quantizer, Rounding};
    use std::path::Path;

    /// A safetensors file of F32 vectors.
    fn file(directory: &Path, tensors: &[(&str, &[f32])]) -> std::path::PathBuf {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, values) in tensors {
            let start = data.len();
            data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            let described = serde_json::json!({
                "dtype": "F32", "shape": [values.len()], "data_offsets": [start, data.len()]
            });
            header.insert((*name).to_owned(), described);
        }
        let header = serde_json::to_vec(&header).expect("JSON");
        let length = (header.len() as u64).to_le_bytes();
        let path = directory.join("m.safetensors");
        std::fs::write(&path, [&length[..], &header, &data].concat()).expect("writes");
        path
    }

    #[test]
    fn only_the_same_bytes_are_duplicates() {
        let directory = tempfile::tempdir().expect("a directory");
        let values: &[f32] = &[1.0, 2.0, 3.0, 3.0, 0.0];
        // The same figures, in another order; and a constant.
        let (turned, constant): (&[f32], &[f32]) = (&[3.0, 2.0, 3.0, 1.0, 0.0], &[1.0; 5]);
        let path = file(
            directory.path(),
            &[
                ("a", values),
                ("b", turned),
                ("c", values),
                ("d", constant),
                ("e", constant),
                ("f", values),
            ],
        );
        let checkpoint = Checkpoint::open(&path).expect("opens");
        let quantizer =
            Quantizer { calibration: Calibration::MinMax, scheme: QuantizationScheme::PER_TENSOR };
        let spec = AnalysisSpec::errors(vec![quantizer], Rounding::HalfEven);
        let found = std::sync::Mutex::new(Vec::new());
        let order = super::super::scan::Order::new(checkpoint.ids().collect());
        let progress = Progress::default();
        super::super::scan::run(&checkpoint, &spec, &order, Some(1), &progress, &|(id, f)| {
            let statistics = f.expect("reads").statistics.expect("asked for");
            found.lock().expect("unpoisoned").push((id, statistics));
        })
        .expect("runs");
        let found = found.into_inner().expect("unpoisoned");
        let candidates = candidates(&checkpoint, found.iter().map(|(id, s)| (*id, s)));
        assert_eq!(candidates.len(), 1);
        let pairs = run(&checkpoint, &candidates, &progress).expect("reads");
        let names: Vec<_> = pairs
            .iter()
            .map(|(a, b)| (&*checkpoint.tensor(*a).name, &*checkpoint.tensor(*b).name))
            .collect();
        assert_eq!(names, [("c", "a"), ("f", "a")]);
        progress.cancel();
        assert!(matches!(
            run(&checkpoint, &candidates, &progress),
            Err(DuplicatesError::Stopped(_))
        ));
    }
}
