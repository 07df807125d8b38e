//! The request for an output.

use crate::export::error::SaveError;
use crate::plan::Plan;
use crate::tensor::FloatType;
use std::path::{Path, PathBuf};

/// The format that a quantized model is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OutputFormat {
    /// safetensors with `T` as I8 and `T_scale` as F32. Holds any tensor.
    #[default]
    Safetensors,
    /// compressed-tensors `int-quantized`: a model directory whose Linear weights are I8.
    /// Activations are quantized too when the model runs.
    Int8,
    /// compressed-tensors `pack-quantized`: only weights are quantized, in groups of columns.
    Int8WeightOnly,
    /// One safetensors file with ComfyUI's markers.
    ComfyUi,
    /// A model directory for MLX, with int8 or int4 in groups of columns.
    Mlx,
    /// A model directory with torchao's int8 tensors.
    Torchao,
    /// compressed-tensors with presets: int4, FP8 and FP4 weights, one preset for all or
    /// several.
    Presets,
    /// Float weights with the rounding of quantization applied, for evaluation.
    FakeQuantized,
    /// burnpack with Q8S tensors.
    Burn(WeightLayout),
    /// GGUF with tensors in ggml's blocks. The source must be GGUF.
    Gguf,
}

/// The orientation of a linear layer's weight in the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightLayout {
    /// As in the source.
    #[default]
    Source,
    /// `[in, out]`, as in Burn's `Linear`, from PyTorch's `[out, in]`.
    Burn,
}

impl WeightLayout {
    /// All layouts.
    pub const ALL: [WeightLayout; 2] = [WeightLayout::Source, WeightLayout::Burn];

    /// The name on the command line and in a file's metadata.
    pub fn name(self) -> &'static str {
        match self {
            WeightLayout::Source => "source",
            WeightLayout::Burn => "burn",
        }
    }

    /// One line of help.
    pub fn summary(self) -> &'static str {
        match self {
            WeightLayout::Source => "as in the source",
            WeightLayout::Burn => "[in, out] as Burn's Linear has them, from [out, in]",
        }
    }
}

/// The task of a request.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant describes its fields")]
pub enum Task {
    /// Quantize the marked tensors.
    Quantize { plan: Plan, format: OutputFormat },
    /// Convert quantized tensors to floats of one type; `None` for their original types.
    Dequantize { to: Option<FloatType> },
}

/// A task and the path of its output.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What to do.
    pub task: Task,
    /// The path of the output.
    pub out: PathBuf,
    /// Whether an existing `out` may be replaced.
    pub force: bool,
    /// Patterns of files to copy into an output directory although they hold another copy of the
    /// weights. They match paths relative to the model's directory; `*` matches `/` too.
    pub copy: Vec<String>,
}

impl Request {
    /// Creates the error for an output that cannot be laid out.
    pub(crate) fn refuse(&self, why: String) -> SaveError {
        SaveError::Unfit { path: self.out.clone(), why }
    }

    /// Returns whether the output is quantized GGUF.
    pub(crate) fn writes_gguf(&self) -> bool {
        matches!(self.task, Task::Quantize { format: OutputFormat::Gguf, .. })
    }
}

/// Returns whether an output path names one file. Any other path names a directory.
pub(crate) fn is_single_file(out: &Path) -> bool {
    ["safetensors", "gguf", "bpk"].iter().any(|e| crate::checkpoint::has_extension(out, e))
}
