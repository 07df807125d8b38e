//! The output channels of one tensor: the range of each, and what it loses with a scale of
//! its own and with the scale of the whole tensor.

use super::JobError;
use super::{Job, Progress, each_chunk, lock};
use crate::checkpoint::{Checkpoint, ReadError, Reader};
use crate::quantization::kernels::{self, Quantization};
use crate::quantization::{
    Calibration, ErrorSums, QuantizationScheme, QuantizationType, Quantizer, Range, Rounding,
    ScaleStorage,
};
use crate::tensor::{FloatType, TensorId};
use std::sync::{Arc, Mutex, PoisonError};

/// Elements that one worker processes at a time; at least one channel.
const CHUNK_ELEMENTS: u64 = 1 << 17;

/// Which tensor's channels to measure, and how they are quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The tensor.
    pub tensor: TensorId,
    /// The scale of the whole tensor.
    pub shared: f32,
    /// How values halfway between two integers are rounded.
    pub rounding: Rounding,
    /// The type that scales are stored in.
    pub scale_storage: ScaleStorage,
}

/// Range and errors of one output channel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Channel {
    /// Largest magnitude.
    pub absmax: f64,
    /// SQNR in dB with the scale of the whole tensor; NaN if the channel has no scale because it
    /// holds NaN or infinities.
    pub shared_db: f64,
    /// SQNR in dB with the channel's own scale.
    pub own_db: f64,
}

/// All channels in order, or why they could not be read.
pub type ChannelsResult = Result<Vec<Channel>, JobError>;

/// Starts a job whose one finding is all channels in order.
pub fn start(
    checkpoint: Arc<Checkpoint>,
    request: Request,
    threads: Option<usize>,
) -> std::io::Result<Job<ChannelsResult>> {
    Job::start("channels", Arc::new(Progress::default()), move |progress, sender| {
        let _ = sender.send(run(&checkpoint, &request, threads, progress));
    })
}

/// Measures every channel, on all cores.
pub fn run(
    checkpoint: &Checkpoint,
    request: &Request,
    threads: Option<usize>,
    progress: &Progress,
) -> Result<Vec<Channel>, JobError> {
    let shape = match checkpoint.channel_major(request.tensor) {
        Some((major, _)) => major,
        None => checkpoint.tensor(request.tensor).shape.with_contiguous_channels(),
    };
    let (channels, length) = (shape.channels(), shape.channel_len());
    if checkpoint.float_type(request.tensor).is_none() || shape.elements() == 0 {
        return Ok(Vec::new());
    }
    let at_once = (CHUNK_ELEMENTS / length.max(1)).max(1);
    progress.expect(checkpoint.bytes(request.tensor));
    let found = Mutex::new(vec![Channel::default(); channels as usize]);
    each_chunk([channels.div_ceil(at_once)].into_iter(), threads, progress, || {
        let mut reader = checkpoint.reader();
        let found = &found;
        move |_, k| {
            let numbers = k * at_once..channels.min((k + 1) * at_once);
            let measured = if length <= CHUNK_ELEMENTS {
                together(&mut reader, request, numbers.clone(), length)?
            } else {
                vec![channel(&mut reader, request, numbers.start * length, length)?]
            };
            for (number, channel) in numbers.clone().zip(measured) {
                if let Some(place) = lock(found).get_mut(number as usize) {
                    *place = channel;
                }
            }
            let bytes = checkpoint.bytes(request.tensor) / channels;
            progress.advance(bytes.saturating_mul(numbers.end - numbers.start));
            Ok(())
        }
    })?;
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Measures several channels, which are read at once: those that are not contiguous are read
/// row by row.
fn together(
    reader: &mut Reader,
    request: &Request,
    numbers: std::ops::Range<u64>,
    length: u64,
) -> Result<Vec<Channel>, ReadError> {
    let elements = numbers.start * length..numbers.end * length;
    let measured = reader.with_channel_major_bytes(request.tensor, elements, |dtype, bytes| {
        let channels = bytes.chunks_exact((length as usize * dtype.size()).max(1));
        channels
            .map(|bytes| {
                let range = kernels::range(dtype, bytes);
                let scale_type = request.scale_storage.scale_type(dtype);
                let Some(own) = own_scale(&range, scale_type) else {
                    return without_scale(&range);
                };
                let error = |scale| {
                    let params = quantization(scale, request.rounding);
                    kernels::error(dtype, bytes, params).statistics().sqnr_db
                };
                let (own_db, shared_db) = (error(own), error(request.shared));
                Channel { absmax: range.absmax(), shared_db, own_db }
            })
            .collect()
    })?;
    Ok(measured.unwrap_or_default())
}

/// Measures a channel that is longer than a chunk.
fn channel(
    reader: &mut Reader,
    request: &Request,
    start: u64,
    length: u64,
) -> Result<Channel, ReadError> {
    let pieces = || (start..start + length).step_by(CHUNK_ELEMENTS as usize);
    let float = reader.checkpoint().float_type(request.tensor).unwrap_or(FloatType::F32);
    let scale_type = request.scale_storage.scale_type(float);
    let mut range = Range::default();
    for at in pieces() {
        each(reader, request, at, start + length, |dtype, bytes| {
            range.merge(&kernels::range(dtype, bytes));
        })?;
    }
    let Some(own) = own_scale(&range, scale_type) else { return Ok(without_scale(&range)) };
    let params = |scale| quantization(scale, request.rounding);
    let (mut by_own, mut by_shared) = (ErrorSums::default(), ErrorSums::default());
    for at in pieces() {
        each(reader, request, at, start + length, |dtype, bytes| {
            by_own.merge(&kernels::error(dtype, bytes, params(own)));
            by_shared.merge(&kernels::error(dtype, bytes, params(request.shared)));
        })?;
    }
    Ok(Channel {
        absmax: range.absmax(),
        shared_db: by_shared.statistics().sqnr_db,
        own_db: by_own.statistics().sqnr_db,
    })
}

/// The scale that a channel of this range has by itself, as a format with scales of `scale_type`
/// stores it; `None` if it has none.
fn own_scale(range: &Range, scale_type: FloatType) -> Option<f32> {
    let quantizer =
        Quantizer { calibration: Calibration::MinMax, scheme: QuantizationScheme::PER_CHANNEL };
    let finite = range.is_finite();
    finite.then(|| quantizer.scale_for(range.absmax(), scale_type).ok()).flatten()
}

fn without_scale(range: &Range) -> Channel {
    Channel { absmax: range.absmax(), shared_db: f64::NAN, own_db: f64::NAN }
}

fn quantization(scale: f32, rounding: Rounding) -> Quantization {
    Quantization { scale, qtype: QuantizationType::QInt8, rounding }
}

fn each(
    reader: &mut Reader,
    request: &Request,
    at: u64,
    end: u64,
    visit: impl FnOnce(FloatType, &[u8]),
) -> Result<(), ReadError> {
    reader.with_channel_major_bytes(request.tensor, at..(at + CHUNK_ELEMENTS).min(end), visit)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::{AnalysisSpec, analyze};
    use crate::tensor::Shape;
    use std::path::Path;

    /// The channels' own errors add up to the error of the scheme per channel.
    #[test]
    fn channel_errors_equal_those_of_the_per_channel_scheme() {
        let path = Path::new("tests/data/tiny-llama/single/model.safetensors");
        let checkpoint = Checkpoint::open(path).expect("opens");
        let id = checkpoint.find("model.layers.0.mlp.up_proj.weight").expect("there");
        let request = Request {
            tensor: id,
            shared: 0.002,
            rounding: Rounding::HalfEven,
            scale_storage: ScaleStorage::F32,
        };
        let run = |threads| run(&checkpoint, &request, Some(threads), &Progress::default());
        let found = run(1).expect("reads");
        assert_eq!(found, run(2).expect("reads"));
        let shape = &checkpoint.tensor(id).shape;
        assert_eq!(found.len() as u64, shape.channels());
        let mut reader = checkpoint.reader();
        let spec = AnalysisSpec::errors(
            vec![Quantizer {
                calibration: Calibration::MinMax,
                scheme: QuantizationScheme::PER_TENSOR,
            }],
            Rounding::HalfEven,
        );
        let length = shape.channel_len();
        for (number, channel) in (0..).zip(&found) {
            let read = reader.elements(id, number * length..(number + 1) * length);
            let (dtype, bytes) = read.expect("reads").expect("floats");
            let alone = analyze(&spec, dtype, &Shape::vector(length), bytes);
            let error = alone.outcomes[0].result.as_ref().expect("finite").error.expect("asked");
            assert_eq!(channel.absmax, alone.range.absmax());
            assert!((channel.own_db - error.statistics().sqnr_db).abs() < 1e-6);
        }
    }
}
