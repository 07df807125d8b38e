//! Errors of capture files.

use crate::checkpoint::ReadError;
use std::path::PathBuf;

/// Why recorded inputs cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum ActivationsError {
    #[error("{0}")]
    Checkpoint(#[from] ReadError),
    #[error("{}, '{}': {fault}", path.display(), name.escape_debug())]
    Recorded { path: PathBuf, name: String, fault: Box<Fault> },
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error("cancelled")]
    Cancelled,
}

/// A defect in the recording of one layer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum Fault {
    #[error("unsupported dtype: expected F64, F32, F16 or BF16, found {0}")]
    NotFloat(String),
    #[error("wrong last dimension: weight '{}' takes {expected} features, found {found}", .weight.escape_debug())]
    Width { weight: String, expected: u64, found: u64 },
    #[error("wrong shape for the convolution '{}' of shape {weight_shape}: expected [samples, channels, …] with {expected}, found {found}", .weight.escape_debug())]
    Channels { weight: String, weight_shape: String, found: String, expected: String },
    #[error("wrong number of values: weight '{}' takes {expected} features, found {found}", .weight.escape_debug())]
    Summary { weight: String, expected: u64, found: u64 },
    #[error("value {index} is not finite: found {value}")]
    NonFinite { index: u64, value: f64 },
    #[error(
        "stride, padding and dilation of the convolution are missing; record them with assets/record_activations.py"
    )]
    NoGeometry,
    #[error("invalid geometry of the convolution: {0}")]
    Geometry(String),
    #[error("unsupported layer: expected a weight with 2 to 5 dimensions, found {rank} in '{}'", .weight.escape_debug())]
    Rank { weight: String, rank: usize },
    #[error("unsupported layer: expected output channels along axis 0 of the weight, found '{}' with axis {axis}", .weight.escape_debug())]
    OutputAxis { weight: String, axis: usize },
    #[error("another file has a summary of the same layer; summaries cannot be merged")]
    TwoSummaries,
    #[error("invalid mean square of feature {index}: expected a finite number ≥ 0, found {value}")]
    MeanSquare { index: usize, value: f64 },
    #[error("inputs are too large for an f32 scale: largest magnitude {0:e}")]
    TooLarge(f64),
    #[error("no samples were recorded")]
    Empty,
}
