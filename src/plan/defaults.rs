//! Defaults: calibration and scheme if the user chooses none, and the calibration that applies
//! to one tensor.

use crate::checkpoint::{Checkpoint, Format};
use crate::quantization::{Calibration, QatMismatch, QatScales, QuantizationScheme, Quantizer};
use crate::tensor::TensorId;

/// The default calibration: learned scales if the checkpoint has any, else min-max.
pub fn default_calibration(checkpoint: &Checkpoint) -> Calibration {
    // Q8_0 blocks have scales of their own.
    match checkpoint.has_learned() && checkpoint.format() != Format::Gguf {
        true => Calibration::Learned,
        false => Calibration::MinMax,
    }
}

/// The default scheme: per channel if a tensor has learned scales that only that scheme can
/// hold, else per tensor.
pub fn default_scheme(checkpoint: &Checkpoint) -> QuantizationScheme {
    let (tensor, channel) = (QuantizationScheme::PER_TENSOR, QuantizationScheme::PER_CHANNEL);
    let needs_channels = |learned: &QatScales| {
        learned.fits(tensor) == Err(QatMismatch::OneScale) && learned.fits(channel).is_ok()
    };
    let any = checkpoint.ids().filter_map(|id| checkpoint.learned(id)).any(needs_channels);
    if any && checkpoint.format() != Format::Gguf { channel } else { tensor }
}

/// The quantizer that applies to a tensor: [`Calibration::Learned`] only where the tensor has
/// learned scales that the scheme can hold.
pub fn effective_quantizer(
    checkpoint: &Checkpoint,
    id: TensorId,
    quantizer: Quantizer,
) -> Quantizer {
    quantizer.resolved(checkpoint.learned(id))
}
