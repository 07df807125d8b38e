//! Calibrates and quantizes every weight of a network, and prints what each lost.
//!
//! ```sh
//! cargo run --example calibrate_and_quantize -- assets/demo.safetensors
//! ```

use quantscope::checkpoint::Checkpoint;
use quantscope::plan::quantizable;
use quantscope::quantization::{
    Calibration, Dequantize, QuantizationMode, QuantizationScheme, QuantizationType, Quantizer,
};
use quantscope::tensor::read_f64;
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args_os().nth(1).map(PathBuf::from);
    let path = argument.unwrap_or_else(|| "assets/demo.safetensors".into());
    let checkpoint = Checkpoint::open(&path)?;
    let quantizer = Quantizer {
        calibration: Calibration::MinMax,
        scheme: QuantizationScheme::PerChannel(
            QuantizationMode::Symmetric,
            QuantizationType::QInt8,
        ),
    };
    let mut reader = checkpoint.reader();
    for id in checkpoint.ids().filter(|&id| quantizable(&checkpoint, id)) {
        let tensor = checkpoint.tensor(id);
        let Some((dtype, bytes)) = reader.elements(id, 0..tensor.parameters())? else { continue };
        let quantized = quantizer.quantize_weights(dtype, &tensor.shape, bytes)?;
        let floats = Dequantize::default().map_tensor(&quantized);

        let (mut signal, mut noise) = (0.0, 0.0);
        for index in 0..quantized.values.len() {
            let before = read_f64(dtype, bytes, index).ok_or("too few elements")?;
            let after = read_f64(dtype, &floats, index).ok_or("too few elements")?;
            signal += before * before;
            noise += (before - after).powi(2);
        }
        let sqnr = 10.0 * (signal / noise).log10();
        println!("{:<24} {:>3} scales, {sqnr:.1} dB", tensor.name, quantized.scales.len());
    }
    Ok(())
}
