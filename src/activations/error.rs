//! What can be wrong with captures, as sentences for the person who must act.

use crate::checkpoint::CheckpointError;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ActivationsError {
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    #[error("{}, '{}': {fault}", path.display(), name.escape_debug())]
    Recorded { path: PathBuf, name: String, fault: Box<Fault> },
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error("cancelled")]
    Cancelled,
}

/// What is wrong with one recording.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error("its type is {0}, expected F64, F32, F16 or BF16")]
    NotFloat(String),
    #[error("its last dimension is {found}, the layer's weight '{}' takes {expected} features", .weight.escape_debug())]
    Width { weight: String, expected: u64, found: u64 },
    #[error("its shape is {found}, the convolution's weight '{}' is {weight_shape}: expected [samples, channels, …] with {expected}", .weight.escape_debug())]
    Channels { weight: String, weight_shape: String, found: String, expected: String },
    #[error("it holds {found} values, the layer's weight '{}' takes {expected} features", .weight.escape_debug())]
    Summary { weight: String, expected: u64, found: u64 },
    #[error("its value {index} is {value}; inputs must be finite")]
    NonFinite { index: u64, value: f64 },
    #[error(
        "the layer is a convolution, and the file does not say its stride, padding and dilation; record it with assets/record_activations.py, which does"
    )]
    NoGeometry,
    #[error("what the file says of the convolution is not understood: {0}")]
    Geometry(String),
    #[error("the layer's weight '{}' has {rank} dimensions, expected those of a linear layer or a convolution", .weight.escape_debug())]
    Rank { weight: String, rank: usize },
    #[error("it is a summary, and another file has one of the same layer; summaries do not join")]
    TwoSummaries,
    #[error("its mean square of feature {index} is {value}, which no mean square is")]
    MeanSquare { index: usize, value: f64 },
    #[error("its inputs are too large for a scale: their largest magnitude is {0:e}")]
    TooLarge(f64),
    #[error("it has no samples")]
    Empty,
}
