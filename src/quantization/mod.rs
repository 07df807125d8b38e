//! The domain: calibration, schemes, error statistics, quantizing and dequantizing.
//!
//! Slices in, values out: nothing here opens a file, starts a thread or draws. The
//! vocabulary is the Burn Book's quantization chapter; the numerics are those of Burn,
//! PyTorch and compressed-tensors, bit for bit (see the README's *Numerics*).

mod calibration;
mod chunks;
mod dequantize;
mod difference;
pub mod kernels;
mod measure;
mod quantizer;
mod scheme;
mod statistics;

pub use calibration::{Calibration, narrowed_scale, stored_scale, symmetric_scale};
pub use chunks::Chunks;
pub use dequantize::Dequantize;
pub use difference::{Difference, difference};
pub use measure::{
    Analysis, Calibrated, First, Measurement, Outcome, Quantized, Questions, Scales, Second,
    measure,
};
pub use quantizer::{NotQuantizable, QuantizedTensor, Quantizer};
pub use scheme::{
    Groups, QuantizationMode, QuantizationScheme, QuantizationType, Rounding, UnknownScheme,
};
pub use statistics::{ErrorStatistics, ErrorSums, LevelSet, Moments, Range, Statistics, Verdict};
