//! Compares an output with its source on all cores.

use super::JobError;
use super::calibration::calibrate;
use super::ordered_fold::OrderedFold;
use super::{Job, Progress, each_chunk, lock};
use crate::checkpoint::Checkpoint;
use crate::export::partition::shares::assign;
use crate::export::verify::file_verifier::verify_files;
use crate::export::verify::tensor_verifier::TensorVerifier;
use crate::export::{KnownScales, Match, Pairing, Partition, share_absmax};
use crate::quantization::ggml::Importance;
use crate::quantization::{ErrorSums, Quantizer};
use crate::tensor::TensorId;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock};

/// The result of a verification.
#[derive(Clone, Debug, PartialEq)]
pub struct Verification {
    /// Every tensor of the output.
    pub tensors: Vec<Verified>,
}

/// One tensor of the output that is as expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The tensor in the output.
    pub out: TensorId,
    /// The tensor in the source.
    pub source: TensorId,
    /// The relation between the two tensors.
    pub matched: Match,
    /// The quantizer, if the tensor was quantized.
    pub quantizer: Option<Quantizer>,
    /// For a quantized tensor: the error of the bytes on disk against the source.
    pub error: Option<ErrorSums>,
}

/// Starts a job whose one finding is the result of [`run_with_importance`].
pub fn start(
    out: Arc<Checkpoint>,
    source: Arc<Checkpoint>,
    importance: Importance,
    threads: Option<usize>,
) -> std::io::Result<Job<Result<Verification, JobError>>> {
    start_partition(out, source, importance, None, threads)
}

/// Like [`start`], for one worker of several; `None` if there is only one.
pub fn start_partition(
    out: Arc<Checkpoint>,
    source: Arc<Checkpoint>,
    importance: Importance,
    partition: Option<Partition>,
    threads: Option<usize>,
) -> std::io::Result<Job<Result<Verification, JobError>>> {
    let share = out.total_bytes() / partition.map_or(1, |p| u64::from(p.count()));
    let progress = Arc::new(Progress::new(share));
    Job::start("verify", progress, move |progress, sender| {
        let ran = run_partition(&out, &source, importance, partition, threads, progress);
        let _ = sender.send(ran);
    })
}

/// Checks every byte of `out` against quantizing or dequantizing `source` again. An error
/// names the first tensor or file that differs.
pub fn run(
    out: &Checkpoint,
    source: &Checkpoint,
    threads: Option<usize>,
    progress: &Progress,
) -> Result<Verification, JobError> {
    run_with_importance(out, source, Importance::default(), threads, progress)
}

/// Like [`run`], for ggml blocks that were quantized with this importance.
pub fn run_with_importance(
    out: &Checkpoint,
    source: &Checkpoint,
    importance: Importance,
    threads: Option<usize>,
    progress: &Progress,
) -> Result<Verification, JobError> {
    run_partition(out, source, importance, None, threads, progress)
}

/// Like [`run_with_importance`], for one worker of several, which compares its share of the tensors. The
/// first worker also compares everything beside them: headers, indices and sidecar files.
fn run_partition(
    out: &Checkpoint,
    source: &Checkpoint,
    importance: Importance,
    partition: Option<Partition>,
    threads: Option<usize>,
    progress: &Progress,
) -> Result<Verification, JobError> {
    let pairing = Pairing::new(out, source)?.with_importance(importance);
    let share = partition.map(|partition| share(&pairing, partition));
    let known = KnownScales::new();
    let verification = tensors(&pairing, share.as_ref(), known, threads, progress)?;
    if partition.is_none_or(|partition| partition.index() == 1) {
        verify_files(&pairing, &|| !progress.is_cancelled())?;
    }
    progress.check()?;
    Ok(verification)
}

/// The tensors of the source that one worker compares.
fn share(pairing: &Pairing, partition: Partition) -> HashSet<TensorId> {
    let bytes: Vec<u64> = pairing.pairs.iter().map(|pair| pairing.out.bytes(pair.out)).collect();
    let workers = assign(&bytes, partition.count());
    let mine = |&worker: &usize| worker + 1 == partition.index() as usize;
    let pairs = pairing.pairs.iter().zip(&workers);
    pairs.filter(|(_, worker)| mine(worker)).map(|(pair, _)| pair.source).collect()
}

/// Compares the tensors of an output, but not its other files. With a `share`, compares only the
/// tensors made from these tensors of the source. `known` has scales of the source that were
/// computed before.
pub(super) fn tensors(
    pairing: &Pairing,
    share: Option<&HashSet<TensorId>>,
    mut known: KnownScales,
    threads: Option<usize>,
    progress: &Progress,
) -> Result<Verification, JobError> {
    let source = pairing.source;
    let has = |id: &TensorId| share.is_none_or(|share| share.contains(id));
    let together = pairing.scaled_together();
    let related: HashSet<TensorId> =
        together.iter().filter(|unit| unit.iter().any(has)).flatten().copied().collect();
    let wanted = pairing.to_calibrate().filter(|(id, ..)| has(id) || related.contains(id));
    calibrate(source, wanted, &mut known, threads, progress, &|_, _| {})?;
    share_absmax(&together, &mut known);
    let chunks: Vec<_> = pairing.pairs.iter().map(|pair| pairing.chunks(pair)).collect();
    let errors: Vec<_> = chunks.iter().map(|_| Mutex::new(OrderedFold::new(None))).collect();
    let finished: Vec<OnceLock<ErrorSums>> = chunks.iter().map(|_| OnceLock::new()).collect();
    let counts = pairing.pairs.iter().zip(&chunks);
    let counts = counts.map(|(pair, chunks)| if has(&pair.source) { chunks.count() } else { 0 });
    each_chunk(counts, threads, progress, || {
        let mut verifier = TensorVerifier::new(pairing, &known);
        let (chunks, errors, finished) = (&chunks, &errors, &finished);
        move |number, k| {
            let (Some(pair), Some(chunks)) = (pairing.pairs.get(number), chunks.get(number)) else {
                return Ok(());
            };
            let error = verifier.verify(pair, chunks, k)?;
            progress.advance(pairing.out.bytes(pair.out) / chunks.count());
            if let (Some(errors), Some(finished)) = (errors.get(number), finished.get(number)) {
                let sum = lock(errors).add(k, error, chunks.count(), added);
                sum.flatten().map(|sum| finished.set(sum));
            }
            Ok(())
        }
    })?;
    let compared = pairing.pairs.iter().zip(finished).filter(|(pair, _)| has(&pair.source));
    let tensors = compared.map(|(pair, error)| Verified {
        out: pair.out,
        source: pair.source,
        matched: pair.matched.clone(),
        quantizer: pairing.quantizer(pair).map(|(quantizer, _)| quantizer),
        error: error.into_inner(),
    });
    Ok(Verification { tensors: tensors.collect() })
}

fn added(so_far: &mut Option<ErrorSums>, next: Option<ErrorSums>) {
    match (so_far, next) {
        (Some(sum), Some(next)) => sum.merge(&next),
        (none, next) => *none = next,
    }
}
