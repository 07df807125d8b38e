//! What was written, and how it compares with what was promised.

use crate::export::sidecar_file::LeftOutFiles;
use crate::quantization::ErrorStatistics;
use std::path::PathBuf;
use std::time::Duration;

/// One quantized tensor: its error as measured from the file that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub tensor: String,
    pub scheme: String,
    /// Computed from the source and the bytes on disk, or while these were written.
    pub on_disk: ErrorStatistics,
}

/// What an output was compared with before it was renamed into place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifiedAgainst {
    /// The source, which was read again.
    Source,
    /// The digests that were taken when the output was written.
    Digests,
}

/// The outcome of a save that was verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    pub out: PathBuf,
    pub files: usize,
    /// Bytes of tensors before.
    pub before: u64,
    /// Bytes of the files written, headers included.
    pub written: u64,
    /// Tensors that were changed, with their error on disk; empty after dequantizing.
    pub quantized: Vec<Comparison>,
    /// Tensors that were turned into floats.
    pub dequantized: usize,
    /// Tensors that are byte for byte what they were.
    pub unchanged: usize,
    /// Files beside the weights that were copied.
    pub sidecar_files: usize,
    /// Files and directories beside the weights that were not copied, because they hold other
    /// copies of them.
    pub left_out: LeftOutFiles,
    pub against: VerifiedAgainst,
    /// Bytes that an earlier save, which was cut off, had finished.
    pub resumed: u64,
    pub warnings: Vec<String>,
    pub elapsed: Duration,
}
