//! Compares an output with its source on all cores.

use super::JobError;
use super::ordered_fold::OrderedFold;
use super::save::calibrate;
use super::{Job, Progress, each_chunk, lock};
use crate::checkpoint::Checkpoint;
use crate::export::verify::file_verifier::verify_files;
use crate::export::verify::tensor_verifier::TensorVerifier;
use crate::export::{KnownScales, Match, Pairing, share_absmax};
use crate::quantization::ggml::Importance;
use crate::quantization::{Chunks, ErrorSums, Quantizer};
use crate::tensor::TensorId;
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
    /// How the two correspond.
    pub matched: Match,
    /// How it was quantized, if it was.
    pub quantizer: Option<Quantizer>,
    /// For a quantized tensor: the error of the bytes on disk against the source.
    pub error: Option<ErrorSums>,
}

/// Starts a job whose one finding is the result of [`run_weighed`].
pub fn start(
    out: Arc<Checkpoint>,
    source: Arc<Checkpoint>,
    importance: Importance,
    threads: Option<usize>,
) -> std::io::Result<Job<Result<Verification, JobError>>> {
    let progress = Arc::new(Progress::new(out.total_bytes()));
    Job::start("verify", progress, move |progress, sender| {
        let _ = sender.send(run_weighed(&out, &source, importance, threads, progress));
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
    run_weighed(out, source, Importance::default(), threads, progress)
}

/// As [`run`], where ggml's blocks were made by this importance.
pub fn run_weighed(
    out: &Checkpoint,
    source: &Checkpoint,
    importance: Importance,
    threads: Option<usize>,
    progress: &Progress,
) -> Result<Verification, JobError> {
    let pairing = Pairing::new(out, source)?.weighed_by(importance);
    let verification = tensors(&pairing, KnownScales::new(), threads, progress)?;
    verify_files(&pairing, &|| !progress.is_cancelled())?;
    progress.check()?;
    Ok(verification)
}

/// Compares the tensors of an output, but not its other files. `known` has scales of the
/// source that were found before.
pub(super) fn tensors(
    pairing: &Pairing,
    mut known: KnownScales,
    threads: Option<usize>,
    progress: &Progress,
) -> Result<Verification, JobError> {
    let source = pairing.source;
    calibrate(source, pairing.to_calibrate(), &mut known, threads, progress, &|_, _| {})?;
    share_absmax(&pairing.scaled_together(), &mut known);
    let chunks: Vec<_> = pairing.pairs.iter().map(|pair| pairing.chunks(pair)).collect();
    let errors: Vec<_> = chunks.iter().map(|_| Mutex::new(OrderedFold::new(None))).collect();
    let finished: Vec<OnceLock<ErrorSums>> = chunks.iter().map(|_| OnceLock::new()).collect();
    each_chunk(chunks.iter().map(Chunks::count), threads, progress, || {
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
    let tensors = pairing.pairs.iter().zip(finished).map(|(pair, error)| Verified {
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
