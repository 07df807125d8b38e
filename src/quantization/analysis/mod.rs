//! Measuring a tensor in chunks: the specification, the passes over the data, and merging.
//!
//! Chunks are fixed by the shape and merged in order, so the result does not depend on which
//! thread processes which chunk.

mod measurement;
mod multi_pass;
mod single_pass;
mod streamed_clip;
mod value_histogram;

pub use measurement::{
    Analysis, AnalysisSpec, First, KEPT_BYTES, Known, Measurement, Next, Outcome, Quantized,
    measure,
};
pub use streamed_clip::clip_of_pieces;
pub use value_histogram::{HistogramBuilder, ValueHistogram};
