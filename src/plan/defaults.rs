//! Defaults: calibration and scheme if the user chooses none, and the calibration that applies
//! to one tensor.

use crate::checkpoint::{Checkpoint, Format};
use crate::quantization::{Calibration, QatMismatch, QatScales, QuantizationScheme, Quantizer};
use crate::tensor::TensorId;

/// The default calibration: learned scales if the checkpoint has any, else min-max.
pub fn default_calibration(checkpoint: &Checkpoint) -> Calibration {
    // Q8_0 blocks have scales of their own.
    if checkpoint.has_learned() && checkpoint.format() != Format::Gguf {
        Calibration::Learned
    } else {
        Calibration::MinMax
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

/// The quantizer that applies to a tensor: with the block type of ggml that fits its rows, and
/// [`Calibration::Learned`] only where it has learned scales that the scheme can hold.
#[inline]
pub fn effective_quantizer(
    checkpoint: &Checkpoint,
    id: TensorId,
    quantizer: Quantizer,
) -> Quantizer {
    // Most quantizers suit every tensor; this runs for each tensor at each key.
    let depends_on_tensor = match quantizer.scheme {
        QuantizationScheme::Ggml(_) | QuantizationScheme::Preset(_) => true,
        _ => quantizer.calibration == Calibration::Learned,
    };
    if !depends_on_tensor {
        return quantizer;
    }
    let scheme = quantizer.scheme.fitted_to(&checkpoint.tensor(id).shape);
    Quantizer { scheme, ..quantizer }.resolved(checkpoint.learned(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::BlockType;
    use std::path::Path;

    #[test]
    fn a_block_type_is_the_one_that_fits_the_rows() {
        let checkpoint = Checkpoint::open(Path::new("tests/data/gguf/floats.gguf")).expect("opens");
        let id = checkpoint.find("blk.0.attn_q.weight").expect("there");
        let of = |block| {
            let scheme = QuantizationScheme::Ggml(block);
            let quantizer = Quantizer { calibration: Calibration::MinMax, scheme };
            effective_quantizer(&checkpoint, id, quantizer).scheme
        };
        assert_eq!(of(BlockType::Q4_K), QuantizationScheme::Ggml(BlockType::Q5_0));
        assert_eq!(of(BlockType::Q8_0), QuantizationScheme::Ggml(BlockType::Q8_0));
    }
}
