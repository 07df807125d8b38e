//! The result of a save and of its verification.

use crate::export::sidecar_file::LeftOutFiles;
use crate::quantization::ErrorStatistics;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// The error of one quantized tensor, measured from the written file.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The name of the tensor.
    pub tensor: String,
    /// The scheme of the tensor.
    pub scheme: String,
    /// Computed from the source and the bytes on disk, or while writing them.
    pub on_disk: ErrorStatistics,
    /// Present if it was rounded for the layer's recorded inputs.
    pub output: Option<OutputComparison>,
}

/// The error of a layer's outputs over the recorded inputs, ‖(W−Ŵ)x‖² / ‖Wx‖² in dB.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputComparison {
    /// With each element rounded to nearest by scales of whole ranges.
    pub nearest_db: f64,
    /// With each element rounded to nearest by scales of the clips that were found.
    pub clipped_db: Option<f64>,
    /// With errors compensated.
    pub compensated_db: Option<f64>,
}

impl OutputComparison {
    /// As saved.
    pub fn saved_db(&self) -> f64 {
        self.compensated_db.or(self.clipped_db).unwrap_or(self.nearest_db)
    }
}

/// What an output was compared with before it was renamed into place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifiedAgainst {
    /// The source, read again.
    Source,
    /// The digests computed while the output was written.
    Digests,
}

/// The result of a verified save.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// The path of the output.
    pub out: PathBuf,
    /// Number of written files with tensors.
    pub files: usize,
    /// Total bytes of the source's tensors.
    pub before: u64,
    /// Total bytes of the written files, including headers.
    pub written: u64,
    /// Tensors that were changed, with their error on disk. Empty after dequantizing.
    pub quantized: Vec<Comparison>,
    /// Number of dequantized tensors.
    pub dequantized: usize,
    /// Number of tensors that were copied unchanged.
    pub unchanged: usize,
    /// Number of files that were written beside the weights, such as `config.json`.
    pub texts: usize,
    /// Number of copied files that are not weights.
    pub sidecar_files: usize,
    /// Files and directories that were not copied because they hold other copies of the weights.
    pub left_out: LeftOutFiles,
    /// What the output was verified against.
    pub against: VerifiedAgainst,
    /// Bytes taken over from an earlier, interrupted save.
    pub resumed: u64,
    /// Sentences for the user.
    pub warnings: Vec<String>,
    /// Duration of the save.
    pub elapsed: Duration,
}
