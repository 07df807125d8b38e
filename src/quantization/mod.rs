//! The domain: calibration, schemes, error statistics, quantizing and dequantizing.
//!
//! Slices in, values out: nothing here opens a file, starts a thread or draws. The
//! vocabulary is the Burn Book's quantization chapter; the numerics are those of Burn,
//! PyTorch and compressed-tensors, bit for bit (see the README's *Numerics*).

mod analysis;
mod calibration;
mod channels;
mod chunks;
mod clipping;
mod dequantize;
mod diagnostics;
mod difference;
mod group_scales;
mod groups;
pub mod kernels;
mod loss;
mod qat_scales;
mod quantize_weights;
mod quantizer;
mod rating;
mod scales;
mod scheme;
mod statistics;

pub use analysis::{
    Analysis, AnalysisSpec, First, HistogramBuilder, KEPT_BYTES, Known, Measurement, Next, Outcome,
    Quantized, ValueHistogram, clip_of_pieces, measure,
};
pub use calibration::{CLIPS, Calibration, clips, narrowed_scale, stored_scale, symmetric_scale};
pub use channels::{ChannelErrors, ChannelQuestion};
pub use chunks::Chunks;
pub use dequantize::{Dequantize, dequantize_groups};
pub use diagnostics::{DIAGNOSTIC_NAMES, Diagnostic, OUTLIER, flags};
pub use difference::{Difference, difference};
pub use group_scales::{GroupQuantizers, GroupScales, ScaledGroup};
pub use groups::{GroupSlice, Groups};
pub use loss::Loss;
pub use qat_scales::{NotTaken, QatScales};
pub use quantize_weights::QuantizedTensor;
pub use quantizer::{NotQuantizable, Quantizer};
pub use rating::{Rating, Thresholds};
pub use scales::Scales;
pub use scheme::{QuantizationMode, QuantizationScheme, QuantizationType, Rounding, UnknownScheme};
pub use statistics::{ErrorStatistics, ErrorSums, LevelSet, Moments, Range, Statistics};
