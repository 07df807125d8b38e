//! Measures one tensor quantized per tensor with a clip, over all of its elements: the same
//! figures as a save has.

use super::JobError;
use super::scan::{self, Order};
use super::{PendingJob, Progress, each_chunk, lock};
use crate::checkpoint::Checkpoint;
use crate::quantization::{
    AnalysisSpec, Calibration, ErrorStatistics, QuantizationScheme, Quantizer, Rounding,
    ScaleStorage,
};
use crate::tensor::{FloatType, TensorId, read_f64};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Elements counted by one worker at a time.
const CHUNK_ELEMENTS: u64 = 1 << 17;

/// Which tensor to measure, and with which clip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// The tensor.
    pub tensor: TensorId,
    /// How the clip is chosen.
    pub calibration: Calibration,
    /// The magnitude beyond which elements count as clipped.
    pub clip: f64,
    /// How values halfway between two integers are rounded.
    pub rounding: Rounding,
    /// The type that the scale is stored in.
    pub scale_storage: ScaleStorage,
}

/// The scale, the error and the number of clipped elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipMeasurement {
    /// The scale with the clip.
    pub scale: f32,
    /// The quantization error with the clip.
    pub error: ErrorStatistics,
    /// Elements beyond the clip.
    pub beyond: u64,
}

/// `None` if the tensor has no scale.
pub type ClipResult = Result<Option<ClipMeasurement>, JobError>;

/// A job whose one finding is the measured error.
pub(crate) fn prepare(
    checkpoint: Arc<Checkpoint>,
    request: Request,
    threads: Option<usize>,
) -> PendingJob<ClipResult> {
    PendingJob::new("clip", Arc::default(), move |progress, sender| {
        let _ = sender.send(run(&checkpoint, &request, threads, progress));
    })
}

/// Measures on all cores.
pub fn run(
    checkpoint: &Checkpoint,
    request: &Request,
    threads: Option<usize>,
    progress: &Progress,
) -> ClipResult {
    let &Request { tensor, calibration, clip, rounding, scale_storage } = request;
    let quantizer = Quantizer { calibration, scheme: QuantizationScheme::PER_TENSOR };
    let spec = AnalysisSpec { scale_storage, ..AnalysisSpec::errors(vec![quantizer], rounding) };
    let found = Mutex::new(None);
    scan::run(checkpoint, &spec, &Order::new(vec![tensor]), threads, progress, &|finding| {
        *lock(&found) = Some(finding.1);
    })?;
    let analysis = match found.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(analysis) => analysis?,
        None => return Ok(None),
    };
    let quantized = analysis.outcomes.into_iter().next().and_then(|found| found.result.ok());
    let Some((quantized, error)) = quantized.and_then(|q| q.error.map(|error| (q, error))) else {
        return Ok(None);
    };
    let beyond = count_beyond(checkpoint, tensor, clip, threads, progress)?;
    Ok(Some(ClipMeasurement { scale: quantized.scales.max, error: error.statistics(), beyond }))
}

fn count_beyond(
    checkpoint: &Checkpoint,
    tensor: TensorId,
    clip: f64,
    threads: Option<usize>,
    progress: &Progress,
) -> Result<u64, JobError> {
    let elements = checkpoint.tensor(tensor).parameters();
    let count = AtomicU64::new(0);
    each_chunk([elements.div_ceil(CHUNK_ELEMENTS)].into_iter(), threads, progress, || {
        let mut reader = checkpoint.reader();
        let count = &count;
        move |_, k| {
            let range = k * CHUNK_ELEMENTS..elements.min((k + 1) * CHUNK_ELEMENTS);
            let here =
                reader.with_bytes(tensor, range, |dtype, bytes| beyond(dtype, bytes, clip))?;
            count.fetch_add(here.unwrap_or(0), Relaxed);
            Ok(())
        }
    })?;
    Ok(count.into_inner())
}

fn beyond(dtype: FloatType, bytes: &[u8], clip: f64) -> u64 {
    let is_beyond = |x: f64| u64::from(x.is_finite() && x.abs() > clip);
    match dtype {
        FloatType::F32 => {
            let all = bytes.as_chunks().0.iter().map(|&raw| f32::from_le_bytes(raw));
            all.map(|x| is_beyond(x.into())).sum()
        }
        FloatType::F64 => {
            let all = bytes.as_chunks().0.iter().map(|&raw| f64::from_le_bytes(raw));
            all.map(is_beyond).sum()
        }
        FloatType::F16 | FloatType::BF16 => {
            let elements = 0..bytes.len() / dtype.size();
            elements.filter_map(|at| read_f64(dtype, bytes, at)).map(is_beyond).sum()
        }
    }
}
