//! Estimates from a sample: evenly spread pieces of each tensor are measured as if they were all
//! of it.
//!
//! Estimates are a type of their own and never reach the cache, so that nothing takes them for
//! exact figures.

use super::{Job, JobError, Progress, each_chunk};
use crate::checkpoint::{Checkpoint, ReadError, Reader};
use crate::plan::effective_quantizer;
use crate::quantization::{Analysis, AnalysisSpec, Calibration, Loss, analyze};
use crate::tensor::{FloatType, Shape, TensorId};
use std::ops::Range;
use std::sync::Arc;

/// The smallest piece in bytes, unless one output channel is larger.
const MIN_PIECE_BYTES: u64 = 4 << 10;

/// The largest piece in bytes.
const MAX_PIECE_BYTES: u64 = 2 << 20;

/// The most bytes of one tensor that are measured.
const MAX_SAMPLE_BYTES: u64 = 32 << 20;

/// Fewer pieces give no usable standard error.
const MIN_PIECES: u64 = 8;

/// Pieces begin and end on multiples of this many channels, where these are short: the groups of
/// some schemes have as many.
const CHANNELS_OF_A_GROUP: u64 = 128;

/// Threads for a checkpoint on a server, which wait for answers most of the time.
const REMOTE_THREADS: usize = 8;

/// What a sample says of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Estimate {
    /// The figures of the elements in the sample.
    pub analysis: Analysis,
    /// The number of elements in the sample.
    pub elements: u64,
    /// For each quantizer the standard error of its SQNR in dB; `None` if there is no SQNR.
    pub standard_errors: Vec<Option<f64>>,
}

impl Estimate {
    /// Whether the sample is the whole tensor, so that its figures are exact.
    pub(crate) fn is_exact(&self, checkpoint: &Checkpoint, id: TensorId) -> bool {
        self.elements == checkpoint.tensor(id).parameters()
    }
}

/// One tensor's estimate. A tensor without float elements has none.
pub(crate) type Finding = (TensorId, Result<Estimate, ReadError>);

/// Starts a job that measures `share` of each tensor, between 0 and 1. Its progress counts
/// tensors' bytes in the sample.
pub(crate) fn start(
    checkpoint: Arc<Checkpoint>,
    spec: AnalysisSpec,
    tensors: Vec<TensorId>,
    share: f64,
    threads: Option<usize>,
) -> std::io::Result<Job<Result<Finding, JobError>>> {
    let threads = match threads {
        None if checkpoint.is_remote() => Some(REMOTE_THREADS),
        threads => threads,
    };
    Job::start("sample", Arc::new(Progress::default()), move |progress, sender| {
        let samples: Vec<_> = tensors
            .into_iter()
            .filter_map(|id| Some((id, Sample::new(&checkpoint, &spec, id, share)?)))
            .collect();
        progress.expect(samples.iter().map(|(_, sample)| sample.bytes()).sum());
        let counts = samples.iter().map(|_| 1);
        let done = each_chunk(counts, threads, progress, || {
            let mut reader = checkpoint.reader().direct();
            let (samples, spec, sender) = (&samples, &spec, sender.clone());
            move |number, _| {
                let Some((id, sample)) = samples.get(number) else { return Ok(()) };
                let estimate = sample.measure(&mut reader, spec, *id, progress);
                // The receiver is gone only after the job was cancelled.
                let _ = sender.send(Ok((*id, estimate)));
                Ok(())
            }
        });
        if let Err(error) = done {
            let _ = sender.send(Err(error));
        }
    })
}

/// The pieces of one tensor that are measured.
#[derive(Debug, PartialEq)]
struct Sample {
    dtype: FloatType,
    /// Elements of each piece, in order.
    pieces: Vec<Range<u64>>,
    /// The dimensions of one channel.
    channel: Vec<u64>,
    /// Elements of one channel.
    channel_len: u64,
    /// The share of the tensor that is measured.
    share: f64,
}

impl Sample {
    /// Chooses the pieces of a tensor; `None` for a tensor without float elements.
    fn new(
        checkpoint: &Checkpoint,
        spec: &AnalysisSpec,
        id: TensorId,
        share: f64,
    ) -> Option<Sample> {
        let dtype = checkpoint.float_type(id)?;
        // Scales that training has learned belong to certain channels.
        let is_learned = spec.quantizers.iter().any(|&quantizer| {
            effective_quantizer(checkpoint, id, quantizer).calibration == Calibration::Learned
        });
        let share = if is_learned { 1.0 } else { share };
        Some(Sample::of_shape(&checkpoint.tensor(id).shape, dtype, share))
    }

    fn of_shape(shape: &Shape, dtype: FloatType, share: f64) -> Sample {
        let (elements, size) = (shape.elements(), dtype.size() as u64);
        let bytes = elements.saturating_mul(size);
        let mut channel_len = shape.channel_len().max(1);
        let mut channel = Vec::new();
        for &dim in shape.dims().iter().rev() {
            if channel.iter().product::<u64>() >= channel_len {
                break;
            }
            channel.insert(0, dim);
        }
        if channel_len * size > MAX_PIECE_BYTES {
            // A channel too large for a piece is divided.
            channel_len = (MAX_PIECE_BYTES / size).min(shape.row_len().max(1));
            channel = vec![channel_len];
        }
        let wanted = (bytes as f64 * share / MIN_PIECES as f64) as u64;
        let piece_bytes = wanted.clamp(MIN_PIECE_BYTES, MAX_PIECE_BYTES);
        let mut channels = (piece_bytes / (channel_len * size)).max(1);
        if channels >= CHANNELS_OF_A_GROUP
            || channel_len * size * CHANNELS_OF_A_GROUP <= piece_bytes
        {
            channels = channels.next_multiple_of(CHANNELS_OF_A_GROUP);
        }
        let piece_len = channels * channel_len;
        let total = elements.div_ceil(piece_len).max(1);
        let most = (MAX_SAMPLE_BYTES / (piece_len * size)).max(1);
        let count = ((total as f64 * share).ceil() as u64).max(MIN_PIECES.min(total)).min(total);
        let count = if share < 1.0 { count.min(most) } else { total };
        let pieces: Vec<Range<u64>> = (0..count)
            .map(|i| {
                // In the middle of its part of the tensor.
                let piece =
                    ((u128::from(2 * i + 1) * u128::from(total)) / u128::from(2 * count)) as u64;
                let start = piece * piece_len;
                start..(start + piece_len).min(elements)
            })
            .collect();
        let measured: u64 = pieces.iter().map(|piece| piece.end - piece.start).sum();
        let share = if elements == 0 { 1.0 } else { measured as f64 / elements as f64 };
        Sample { dtype, pieces, channel, channel_len, share }
    }

    fn elements(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.end - piece.start).sum()
    }

    fn bytes(&self) -> u64 {
        self.elements() * self.dtype.size() as u64
    }

    /// The shape of `elements` that lie in whole channels.
    fn shape(&self, elements: u64) -> Shape {
        let rows = elements / self.channel_len;
        let dims = std::iter::once(rows).chain(self.channel.iter().copied());
        let whole = Shape::new(dims.collect::<Vec<_>>());
        let whole = whole.filter(|shape| shape.elements() == elements);
        whole.unwrap_or_else(|| Shape::vector(elements))
    }

    fn measure(
        &self,
        reader: &mut Reader,
        spec: &AnalysisSpec,
        id: TensorId,
        progress: &Progress,
    ) -> Result<Estimate, ReadError> {
        let mut all = Vec::with_capacity(self.bytes() as usize);
        let mut losses: Vec<Vec<Loss>> = vec![Vec::new(); spec.quantizers.len()];
        for piece in &self.pieces {
            if progress.is_cancelled() {
                break;
            }
            let elements = piece.end - piece.start;
            let Some((_, bytes)) = reader.elements(id, piece.clone())? else { continue };
            if self.pieces.len() > 1 {
                let found = analyze(spec, self.dtype, &self.shape(elements), bytes);
                for (losses, outcome) in losses.iter_mut().zip(&found.outcomes) {
                    losses.extend(outcome.result.as_ref().ok().and_then(|found| found.loss()));
                }
            }
            all.extend_from_slice(bytes);
            progress.advance(elements * self.dtype.size() as u64);
        }
        let elements = all.len() as u64 / self.dtype.size() as u64;
        let analysis = analyze(spec, self.dtype, &self.shape(elements), &all);
        let has_sqnr = |place: usize| {
            let outcome = analysis.outcomes.get(place);
            outcome.is_some_and(|outcome| outcome.result.is_ok())
        };
        let standard_errors = losses.iter().enumerate().map(|(place, losses)| {
            if self.share >= 1.0 { Some(0.0) } else { standard_error_db(losses, self.share) }
                .filter(|_| has_sqnr(place))
        });
        let standard_errors = standard_errors.collect();
        Ok(Estimate { analysis, elements, standard_errors })
    }
}

/// The standard error of 10·log₁₀(ΣS/ΣN), where S and N are the signal and the noise of pieces
/// that are a share of all: that of a ratio estimate (Cochran, Sampling Techniques, 6.3), with
/// the correction for a finite population, times the slope of the logarithm.
fn standard_error_db(losses: &[Loss], share: f64) -> Option<f64> {
    let count = losses.len() as f64;
    if losses.len() < 2 {
        return None;
    }
    let signal: f64 = losses.iter().map(|loss| loss.signal).sum();
    let noise: f64 = losses.iter().map(|loss| loss.noise).sum();
    if noise == 0.0 || signal == 0.0 {
        return Some(0.0);
    }
    let ratio = noise / signal;
    let squares: f64 = losses.iter().map(|loss| (loss.noise - ratio * loss.signal).powi(2)).sum();
    let variance = (1.0 - share).max(0.0) * count / (count - 1.0) * squares / signal.powi(2);
    Some(10.0 / std::f64::consts::LN_10 * variance.sqrt() / ratio)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(dims: &[u64]) -> Shape {
        Shape::new(dims.to_vec()).expect("fits")
    }

    #[test]
    fn pieces_are_whole_channels_and_evenly_spread() {
        for dims in [&[4096, 4096][..], &[1000, 333], &[7, 5, 3, 3], &[100_000], &[8, 64, 1024]] {
            for share in [0.01, 0.05, 0.5, 1.0] {
                let shape = shape(dims);
                let sample = Sample::of_shape(&shape, FloatType::F16, share);
                let mut end = 0;
                for piece in &sample.pieces {
                    assert!(piece.start >= end && piece.end <= shape.elements(), "{sample:?}");
                    assert!(piece.start.is_multiple_of(sample.channel_len));
                    end = piece.end;
                }
                assert_eq!(share == 1.0, sample.elements() == shape.elements() && share == 1.0);
                let first = sample.pieces.first().expect("one").start;
                let last = shape.elements() - sample.pieces.last().expect("one").end;
                assert!(first.abs_diff(last) <= shape.elements() / 8, "{sample:?}");
            }
        }
        let sample = Sample::of_shape(&shape(&[4096, 4096]), FloatType::BF16, 0.05);
        assert!((0.05..0.08).contains(&sample.share), "{}", sample.share);
    }

    #[test]
    fn memory_is_bounded_for_any_tensor() {
        for dims in [&[1 << 20, 1 << 16][..], &[1, 1 << 40], &[2, 1 << 30]] {
            let sample = Sample::of_shape(&shape(dims), FloatType::F32, 0.05);
            assert!(sample.bytes() <= MAX_SAMPLE_BYTES, "{dims:?}");
            let longest = sample.pieces.iter().map(|piece| piece.end - piece.start).max();
            assert!(longest.expect("one") * 4 <= MAX_PIECE_BYTES);
        }
    }

    /// The spread of the estimates of many samples is what the formula says.
    #[test]
    fn the_standard_error_is_the_spread_of_estimates() {
        let mut state = 12_345u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let (mut estimates, mut claimed) = (Vec::new(), 0.0);
        for _ in 0..2000 {
            let losses: Vec<Loss> = (0..20)
                .map(|_| Loss { signal: 1.0 + random(), noise: 0.01 * (0.5 + random()) })
                .collect();
            let signal: f64 = losses.iter().map(|loss| loss.signal).sum();
            let noise: f64 = losses.iter().map(|loss| loss.noise).sum();
            estimates.push(10.0 * (signal / noise).log10());
            claimed += standard_error_db(&losses, 0.0).expect("enough pieces") / 2000.0;
        }
        let mean = estimates.iter().sum::<f64>() / 2000.0;
        let spread = (estimates.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 2000.0).sqrt();
        assert!((claimed / spread - 1.0).abs() < 0.1, "{claimed} {spread}");
        assert_eq!(standard_error_db(&[Loss::default()], 0.1), None);
    }
}
