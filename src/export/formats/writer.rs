//! What a format must be able to do.

use crate::checkpoint::Checkpoint;
use crate::export::error::SaveError;
use crate::export::output_plan::OutputPlan;
use crate::export::request::Request;
use crate::plan::Plan;
use crate::quantization::{QuantizationScheme, ScaleStorage};
use crate::tensor::TensorId;
use std::path::Path;

/// What an output of a format is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputKind {
    /// One file with this extension.
    File(&'static str),
    /// A model directory.
    Directory,
    /// One file if the path has this extension, otherwise a model directory.
    FileOrDirectory(&'static str),
}

/// A format that quantized tensors can be written in.
pub(crate) trait FormatWriter: Sync {
    /// The format's name on the command line.
    fn name(&self) -> &'static str;

    /// One line of help.
    fn summary(&self) -> &'static str;

    /// Whether outputs are files or directories.
    fn output_kind(&self) -> OutputKind;

    /// The scheme for `tensors` when the user names none.
    fn default_scheme(&self, checkpoint: &Checkpoint, tensors: &[TensorId]) -> QuantizationScheme;

    /// Why no tensor of the checkpoint can be saved in the format, if none can.
    fn checkpoint_obstacle(&self, _: &Checkpoint) -> Option<String> {
        None
    }

    /// The type that scales are stored in.
    fn scale_storage(&self) -> ScaleStorage {
        ScaleStorage::F32
    }

    /// Adds the output's files, texts and warnings to `output_plan`. The plan holds only
    /// tensors that can be quantized, and OUT fits [`FormatWriter::output_kind`].
    fn lay_out(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        request: &Request,
        output_plan: &mut OutputPlan,
    ) -> Result<(), SaveError>;

    /// Opens a written file with the library that owns its container, where there is one.
    /// quantscope's own reader opens every output in any case. `Err`: why it does not open.
    fn check_container(&self, _file: &Path) -> Result<(), String> {
        Ok(())
    }
}
