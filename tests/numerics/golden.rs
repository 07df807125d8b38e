//! Quantized tensors equal those of Burn's engines bit for bit.
//!
//! `burn.safetensors` holds `<case>.input` and, per engine, `.q`, `.scale` and `.dequant`:
//! without a prefix from Burn 0.22's ndarray engine, which rounds half away from zero, and
//! with the prefix `flex023.` from Burn 0.23, which rounds half to even. Both are per tensor
//! and, with the prefix `block32.`, per block of 32 contiguous values of the last axis.

use quantscope::quantization::{
    Calibration, Dequantize, NotQuantizable, QuantizationScheme, QuantizedTensor, Quantizer,
    Rounding,
};
use quantscope::tensor::{FloatType, Shape};
use safetensors::{Dtype, SafeTensors};
use std::path::Path;

/// The cases in which Burn overflows.
const OVERFLOWS: [&str; 2] = ["huge_max", "huge_just_over"];

fn read() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/burn.safetensors");
    std::fs::read(path).expect("the golden file")
}

fn float(dtype: Dtype) -> FloatType {
    match dtype {
        Dtype::F32 => FloatType::F32,
        Dtype::F16 => FloatType::F16,
        Dtype::BF16 => FloatType::BF16,
        other => panic!("an input of {other:?}"),
    }
}

fn quantize(
    golden: &SafeTensors,
    case: &str,
    scheme: QuantizationScheme,
    rounding: Rounding,
) -> Result<QuantizedTensor, NotQuantizable> {
    let input = golden.tensor(&format!("{case}.input")).expect("an input");
    let shape: Vec<u64> = input.shape().iter().map(|&d| d as u64).collect();
    let shape = Shape::new(shape).expect("a shape");
    let quantizer = Quantizer { calibration: Calibration::MinMax, scheme };
    let dtype = float(input.dtype());
    match rounding {
        Rounding::HalfEven => quantizer.quantize_weights(dtype, &shape, input.data()),
        Rounding::HalfAway => {
            quantizer.quantize_weights_rounding(dtype, &shape, input.data(), rounding)
        }
    }
}

fn cases<'a>(golden: &'a SafeTensors) -> impl Iterator<Item = &'a str> {
    golden.names().into_iter().filter_map(|name| name.strip_suffix(".input"))
}

#[test]
fn values_scales_and_floats_equal_burn() {
    let bytes = read();
    let golden = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let mut compared = 0;
    for case in cases(&golden).filter(|case| !OVERFLOWS.contains(case)) {
        for (engine, rounding) in [("", Rounding::HalfAway), (".flex023", Rounding::HalfEven)] {
            for (block, scheme) in [
                ("", QuantizationScheme::PER_TENSOR),
                (".block32", QuantizationScheme::per_block(32)),
            ] {
                let part = |part| golden.tensor(&format!("{case}{engine}{block}.{part}"));
                let Ok(q) = part("q") else { continue };
                // Burn computes 16-bit types in 16 bits, and does not reject NaN and infinity.
                let input = golden.tensor(&format!("{case}.input")).expect("an input");
                if input.dtype() != Dtype::F32 || case.starts_with("nan") || case.starts_with("inf")
                {
                    continue;
                }
                let what = format!("{case}{engine}{block}");
                let quantized = quantize(&golden, case, scheme, rounding).expect(&what);
                let values: Vec<u8> = quantized.values.iter().map(|&q| q.cast_unsigned()).collect();
                assert_eq!(values, q.data(), "{what}: values");
                assert_eq!(quantized.scales.len() * 4, part("scale").expect(&what).data().len());
                for (raw, &scale) in
                    part("scale").expect(&what).data().chunks(4).zip(&quantized.scales)
                {
                    let burn = f32::from_le_bytes(raw.try_into().expect("four bytes"));
                    // For zeros, or if the scale underflows, the ndarray engine stores a scale of
                    // 0. Burn 0.23 and quantscope store the smallest normal f32.
                    let expected = if burn == 0.0 { f32::MIN_POSITIVE } else { burn };
                    assert_eq!(scale.to_bits(), expected.to_bits(), "{what}: scales");
                }
                let floats = Dequantize { to: None }.map_tensor(&quantized);
                // The sign of a zero is that of the product, as in Burn.
                assert_eq!(floats, part("dequant").expect(&what).data(), "{what}: floats");
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "only {compared} compared");
}

#[test]
fn dequantized_values_are_finite_where_burn_overflows() {
    let bytes = read();
    let golden = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    for case in OVERFLOWS {
        let quantized = quantize(&golden, case, QuantizationScheme::PER_TENSOR, Rounding::HalfEven)
            .expect(case);
        for raw in (Dequantize { to: None }).map_tensor(&quantized).as_chunks::<4>().0 {
            assert!(f32::from_le_bytes(*raw).is_finite(), "{case}");
        }
    }
}

#[test]
fn tensors_with_nan_or_infinity_are_refused() {
    let bytes = read();
    let golden = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    for case in cases(&golden).filter(|c| c.starts_with("nan") || c.starts_with("inf")) {
        let result = quantize(&golden, case, QuantizationScheme::PER_TENSOR, Rounding::HalfEven);
        assert!(matches!(result, Err(NotQuantizable::NonFinite { .. })), "{case}: {result:?}");
    }
}
