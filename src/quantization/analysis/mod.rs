//! Everything measured of one tensor: range, moments, histogram, scales, errors, diagnostics.
//!
//! An [`AnalysisSpec`] says what to compute. [`TensorAnalyzer`] divides a tensor into chunks
//! and chooses a strategy for each quantizer; `job` calls it from its threads. The rest of
//! `quantization` does not import this folder.

mod analyzer;
mod both_orders;
mod channel_losses;
mod coded;
mod diagnostics;
mod element_run;
mod ggml_blocks;
mod histogram_outcome;
mod in_memory;
mod multi_pass;
mod percentile_search;
mod results;
mod single_pass;
mod spec;
mod strategy;
mod streamed_clip;
mod tensor_quantizer;
#[cfg(test)]
mod tests;

pub use channel_losses::{ChannelDetail, ChannelLosses};
pub use diagnostics::{DIAGNOSTIC_NAMES, Diagnostic, OUTLIER_RATIO, diagnostics};
pub use in_memory::analyze;
pub use results::{Analysis, Outcome, Quantized};
pub use spec::{AnalysisSpec, ErrorDetail, ScaleStorage, SharedAbsmax};

pub(crate) use analyzer::{AnalysisState, FirstPassResult, FurtherPassResult, TensorAnalyzer};
pub(crate) use both_orders::BothOrders;
pub(crate) use strategy::MAX_KEPT_BYTES;
pub(crate) use streamed_clip::clip_of_stream;
