//! The domain: calibration, schemes, error statistics, quantizing and dequantizing.
//!
//! Slices in, values out: nothing here opens a file, starts a thread or draws. The
//! vocabulary is the Burn Book's quantization chapter; the numerics are those of Burn,
//! PyTorch and compressed-tensors, bit for bit (see the README's *Numerics*).

mod calibration;
mod channels;
mod chunks;
mod clipping;
mod dequantize;
mod difference;
mod distribution;
mod health;
pub mod kernels;
mod learned;
mod loss;
mod measure;
mod quantizer;
mod scales;
mod scheme;
mod spread;
mod statistics;
mod streamed;
mod verdict;
mod whole;

pub use calibration::{CLIPS, Calibration, clips, narrowed_scale, stored_scale, symmetric_scale};
pub use channels::{ChannelErrors, ChannelQuestion};
pub use chunks::Chunks;
pub use dequantize::Dequantize;
pub use difference::{Difference, difference};
pub use distribution::{Distribution, Tally};
pub use health::{FLAG_NAMES, Flag, OUTLIER, flags};
pub use learned::{Learned, NotTaken, PerGroup};
pub use loss::Loss;
pub use measure::{
    Analysis, First, KEPT_BYTES, Known, Measurement, Next, Outcome, Quantized, Questions, measure,
};
pub use quantizer::{NotQuantizable, QuantizedTensor, Quantizer};
pub use scales::Scales;
pub use scheme::{
    Groups, QuantizationMode, QuantizationScheme, QuantizationType, Rounding, UnknownScheme,
};
pub use statistics::{ErrorStatistics, ErrorSums, LevelSet, Moments, Range, Statistics};
pub use streamed::clip_of_pieces;
pub use verdict::{Thresholds, Verdict};
