//! What reaches a model's layers: recorded inputs, read in bounded memory and matched to the
//! weights they are multiplied with; the ranges they are quantized by; and what quantizing
//! loses in a layer's output.
//!
//! Captures are safetensors files as `assets/record_activations.py` writes them: for each
//! layer `m` either `m.input`, the inputs themselves, or its summary `m.input.min`, `.max`
//! and `.mean_square`. llama.cpp's importance matrices are summaries too. Nothing here
//! starts a thread or writes.

mod calibrating;
mod captures;
mod convolution;
mod diagonal;
mod error;
mod imatrix;
mod matching;
mod output;
mod product;
mod quantized_part;
mod recording;
mod stream;

pub use calibrating::input_scale;
pub use captures::Activations;
pub use convolution::{Convolution, METADATA_KEY};
pub use diagonal::Diagonal;
pub use error::{ActivationsError, Fault};
pub use output::{ActivationMode, Basis, Layer, OutputError};
pub use quantized_part::{OutputSums, Part, PartQuantizer, parts};
pub use recording::{Batch, Inputs, LayerKind, Recording, Source, Summary};
pub use stream::Stream;
