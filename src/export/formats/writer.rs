//! The interface of an output format.

use crate::checkpoint::Checkpoint;
use crate::export::container_check;
use crate::export::error::SaveError;
use crate::export::output_plan::OutputPlan;
use crate::export::request::Request;
use crate::plan::Plan;
use crate::plan::target::Container;
use crate::quantization::QuantizationScheme;
use crate::tensor::TensorId;
use std::path::Path;

/// The form of an output on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputKind {
    /// One file with this extension.
    File(&'static str),
    /// A model directory.
    Directory,
    /// One file if the path has this extension, otherwise a model directory.
    FileOrDirectory(&'static str),
}

/// Plans the files of an output in one format.
pub(crate) trait FormatWriter: Sync {
    /// The format's name on the command line.
    fn name(&self) -> &'static str;

    /// The container, as plans name it.
    fn container(&self) -> Container;

    /// Whether outputs are files or directories.
    fn output_kind(&self) -> OutputKind;

    /// The default scheme for `tensors`.
    fn default_scheme(&self, checkpoint: &Checkpoint, tensors: &[TensorId]) -> QuantizationScheme;

    /// Returns why no tensor of the checkpoint can be saved in the format, if so.
    fn checkpoint_obstacle(&self, _: &Checkpoint) -> Option<String> {
        None
    }

    /// Adds the output's files, texts and warnings to `output_plan`. The plan only marks tensors
    /// that can be quantized, and OUT fits [`FormatWriter::output_kind`].
    fn lay_out(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        request: &Request,
        output_plan: &mut OutputPlan,
    ) -> Result<(), SaveError>;

    /// Opens a written file with the library that owns its container, which is safetensors unless
    /// the format overrides it. Returns the reason if the file does not open. quantscope's own
    /// reader opens every output in any case.
    fn check_container(&self, file: &Path) -> Result<(), String> {
        container_check::safetensors(file)
    }
}
