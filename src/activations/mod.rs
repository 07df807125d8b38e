//! Recorded layer inputs: reads them in bounded memory, matches them to weights, calibrates
//! their scales, and measures the error of a layer's output.
//!
//! Captures are safetensors files written by `assets/record_activations.py`. For each layer `m`
//! they hold either `m.input`, the inputs themselves, or the summary `m.input.min`, `.max` and
//! `.mean_square`. llama.cpp's importance matrices are summaries too. Imports `checkpoint` and
//! below. Starts no threads and writes nothing.

mod calibrating;
mod captures;
mod channel_range;
mod convolution;
mod diagonal;
mod error;
mod imatrix;
mod matching;
mod output;
mod product;
mod recording;
mod stream;

pub use calibrating::input_scale;
pub use captures::Activations;
pub use channel_range::{ChannelQuantizer, ChannelRange, OutputSums, channel_ranges};
pub use convolution::{Convolution, METADATA_KEY};
pub use diagonal::Diagonal;
pub use error::{ActivationsError, Fault};
pub use output::{ActivationMode, Basis, Layer, OutputError};
pub use recording::{Batch, Inputs, LayerKind, Recording, Source, Summary};
pub use stream::Stream;
