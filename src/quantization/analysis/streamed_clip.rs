//! The clip of elements that are too many to hold in memory.

use crate::quantization::analysis::element_run::ElementRun;
use crate::quantization::analysis::multi_pass::{MultiPassState, PassResult};
use crate::quantization::analysis::spec::ErrorDetail;
use crate::quantization::analysis::tensor_quantizer::TensorQuantizer;
use crate::quantization::calibration::Calibration;
use crate::quantization::kernels;
use crate::quantization::quantizer::Quantizer;
use crate::quantization::scheme::{QuantizationScheme, Rounding};
use crate::tensor::{FloatType, Shape};

/// The magnitude that a calibration maps onto the largest int8 value, for one scale.
///
/// `read` passes all elements, which must be finite, to the given function in pieces. It is
/// called once and then as often as the calibration needs, and must give the same pieces
/// every time.
///
/// # Errors
///
/// The first error of `read`.
pub(crate) fn clip_of_stream<E>(
    calibration: Calibration,
    dtype: FloatType,
    mut read: impl FnMut(&mut dyn FnMut(&[u8])) -> Result<(), E>,
) -> Result<f64, E> {
    let quantizer = Quantizer { calibration, scheme: QuantizationScheme::PER_TENSOR };
    // A single group of the greatest possible length contains every index.
    let shape = Shape::vector(u64::MAX);
    let quantizer = TensorQuantizer::new(quantizer, Rounding::HalfEven, dtype, &shape, None);
    let mut state = MultiPassState::default();
    read(&mut |bytes| state.add_ranges(vec![(0, kernels::range(dtype, bytes))]))?;
    state.end_first_pass(&quantizer);
    for pass in 1..=quantizer.search_passes() {
        let mut all = PassResult::Nothing;
        read(&mut |bytes| {
            let piece = ElementRun { start: 0, dtype, bytes };
            all.append(state.measure(&quantizer, pass, ErrorDetail::None, None, piece));
        })?;
        state.end_pass(&quantizer, pass, all);
    }
    Ok(state.clips(&quantizer).next().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn a_stream_has_the_clip_of_its_elements_in_memory() {
        let mut bits = 1u32;
        let mut next = || {
            bits = bits.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            (bits >> 8) as f32 / 1e5 - 80.0
        };
        let bytes: Vec<u8> = (0..5000).flat_map(|_| next().to_le_bytes()).collect();
        for calibration in [
            "min-max",
            "percentile:0.02",
            "percentile:50",
            "percentile:99.9",
            "percentile:100",
            "mse",
            "clip:0.5",
            "magnitude:3",
        ] {
            let calibration: Calibration = calibration.parse().expect("a calibration");
            let quantizer = Quantizer { calibration, scheme: QuantizationScheme::PER_TENSOR };
            let in_memory = quantizer.clip_of(FloatType::F32, &bytes, Rounding::HalfEven);
            let streamed = clip_of_stream(calibration, FloatType::F32, |read| {
                bytes.chunks(999 * 4).for_each(read);
                Ok::<(), Infallible>(())
            });
            assert_eq!(streamed, Ok(in_memory.expect("finite")), "{calibration}");
        }
        let empty = clip_of_stream(Calibration::Mse, FloatType::F32, |_| Ok::<(), Infallible>(()));
        assert_eq!(empty, Ok(0.0));
    }
}
