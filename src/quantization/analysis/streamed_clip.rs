//! One scale for elements that come in pieces, and are too many to be held.

use crate::quantization::analysis::multi_pass::{Asked, Found, Spread, Wanted};
use crate::quantization::analysis::single_pass::Run;
use crate::quantization::{
    Calibration, GroupQuantizers, QuantizationScheme, Quantizer, Rounding, kernels,
};
use crate::tensor::{FloatType, Shape};

/// The magnitude that a calibration maps onto the largest int8 value.
///
/// `each` gives all elements, which are finite, to the function it is given: the same in the
/// same pieces every time it is called, once and then as often as the calibration needs.
pub fn clip_of_pieces<E>(
    calibration: Calibration,
    dtype: FloatType,
    mut each: impl FnMut(&mut dyn FnMut(&[u8])) -> Result<(), E>,
) -> Result<f64, E> {
    let quantizer = Quantizer { calibration, scheme: QuantizationScheme::PER_TENSOR };
    let quantizers = GroupQuantizers::new(quantizer, &Shape::vector(0), None);
    let asked = Asked { quantizers, rounding: Rounding::HalfEven, dtype };
    let mut spread = Spread::default();
    each(&mut |bytes| spread.calibrate(vec![(0, kernels::range(dtype, bytes))]))?;
    spread.begin(&asked);
    for pass in 1..=asked.passes(false) {
        let mut found = Found::Nothing;
        each(&mut |bytes| {
            let piece = std::iter::once((0, Run { start: 0, bytes }));
            found.merge(spread.look(&asked, pass, None, Wanted::Error, piece));
        })?;
        spread.settle(&asked, pass, found);
    }
    Ok(spread.clips(&asked).next().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn pieces_have_the_clip_of_the_whole() {
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
            let whole = quantizer.clip_of(FloatType::F32, &bytes, Rounding::HalfEven);
            let pieces = clip_of_pieces(calibration, FloatType::F32, |look| {
                bytes.chunks(999 * 4).for_each(look);
                Ok::<(), Infallible>(())
            });
            assert_eq!(pieces, Ok(whole.expect("finite")), "{calibration}");
        }
        let none = clip_of_pieces(Calibration::Mse, FloatType::F32, |_| Ok::<(), Infallible>(()));
        assert_eq!(none, Ok(0.0));
    }
}
