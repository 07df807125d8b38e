//! Calibrates the scale that static quantization uses for a layer's inputs.

use crate::activations::error::{ActivationsError, Fault};
use crate::activations::recording::{Recording, Source};
use crate::activations::stream::Stream;
use crate::quantization::{Calibration, QuantizationType, clip_of_stream, symmetric_scale};
use crate::tensor::FloatType;

/// Finds the per-tensor scale of a layer's inputs as symmetric int8, over all batches. Returns
/// `None` if only a summary without ranges was recorded. `wanted` returns false once the job is
/// cancelled.
///
/// A summary has only the largest magnitude; calibrations that need more use min-max.
pub fn input_scale(
    stream: &mut Stream,
    recording: &Recording,
    calibration: Calibration,
    wanted: &dyn Fn() -> bool,
) -> Result<Option<f32>, ActivationsError> {
    let clip = match &recording.source {
        Source::Summary(summary) => match summary.absmax {
            Some(absmax) => calibration.clip_of_range(absmax),
            None => return Ok(None),
        },
        Source::Inputs(inputs) => clip_of_stream(calibration, FloatType::F32, |visit| {
            stream.each(inputs, wanted, |samples| visit(samples.bytes))
        })?,
    };
    match symmetric_scale(clip, QuantizationType::QInt8.max()) {
        Some(scale) => Ok(Some(scale)),
        None => match &recording.source {
            Source::Inputs(inputs) => Err(stream.fault(inputs, Fault::TooLarge(clip))),
            Source::Summary(_) => Ok(None),
        },
    }
}
