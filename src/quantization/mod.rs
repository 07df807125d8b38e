//! Quantization itself: schemes, calibration, scales, errors, and the analysis of a tensor.
//!
//! Slices in, values out: nothing here opens a file, starts a thread or draws. Everything
//! except `tensor` may import this folder; it imports `tensor` alone. The vocabulary is that
//! of the Burn Book's quantization chapter, and the int8 numerics are bit for bit those of
//! Burn, PyTorch and compressed-tensors.

mod analysis;
mod calibration;
mod channel_major;
mod chunks;
mod clipping;
pub(crate) mod compensation;
mod dequantize;
mod difference;
pub mod ggml;
mod group_scales;
mod grouped_run;
mod groups;
pub mod kernels;
mod loss;
mod preset;
mod preset_parts;
mod presets;
mod qat_scales;
mod quantization_type;
mod quantize_weights;
mod quantizer;
mod rating;
pub(crate) mod scale_tiles;
mod scales;
mod scheme;
mod statistics;
mod strided_rows;
mod value_histogram;

pub use analysis::{
    Analysis, AnalysisSpec, ChannelDetail, ChannelLosses, DIAGNOSTIC_NAMES, Diagnostic,
    ErrorDetail, OUTLIER_RATIO, Outcome, Quantized, ScaleStorage, SharedAbsmax, analyze,
    diagnostics,
};
pub use calibration::{CLIP_CANDIDATES, Calibration, clips, stored_scale, symmetric_scale};
pub use chunks::Chunks;
pub use compensation::InputRounding;
pub use dequantize::Dequantize;
pub use difference::{Difference, difference};
pub use groups::{GroupSlice, Groups};
pub use loss::Loss;
pub use preset::{Preset, PresetGroup, UnknownPreset};
pub use preset_parts::{PresetPart, StoredPart};
pub use presets::encode as encode_preset;
pub use qat_scales::{QatMismatch, QatScales};
pub use quantization_type::QuantizationType;
pub use quantize_weights::QuantizedTensor;
pub use quantizer::{NotQuantizable, Quantizer};
pub use rating::{Rating, Thresholds};
pub use scales::Scales;
pub use scheme::{QuantizationMode, QuantizationScheme, Rounding, UnknownScheme};
pub use statistics::{ErrorStatistics, ErrorSums, LevelSet, Moments, Range, Statistics};
pub use value_histogram::{HistogramBuilder, ValueHistogram};

pub(crate) use analysis::{
    AnalysisState, BothOrders, FirstPassResult, FurtherPassResult, MAX_KEPT_BYTES, TensorAnalyzer,
    clip_of_stream,
};
pub(crate) use calibration::narrowed_scale;
pub(crate) use dequantize::dequantize_groups;
pub(crate) use group_scales::{GroupQuantizers, GroupScales, ScaledGroup};
pub(crate) use presets::{EncodedRows, OutputErrors, PresetCoder, SeenCodes, shape_bytes};
