//! What a person asks to be written.

use crate::plan::Plan;
use crate::tensor::FloatType;
use std::path::{Path, PathBuf};

/// The container a quantized model is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OutputFormat {
    /// safetensors with `T` as I8 and `T_scale` as F32, for any tensors at all.
    #[default]
    Safetensors,
    /// Floats that went through int8: what an evaluation sees before anything int8 exists.
    FakeQuantized,
}

impl OutputFormat {
    pub const ALL: [OutputFormat; 2] = [OutputFormat::Safetensors, OutputFormat::FakeQuantized];

    pub fn name(self) -> &'static str {
        match self {
            OutputFormat::Safetensors => "safetensors",
            OutputFormat::FakeQuantized => "fake-quantized",
        }
    }

    /// One line on what it is for.
    pub fn summary(self) -> &'static str {
        match self {
            OutputFormat::Safetensors => "int8 values and scales side by side; any tensors",
            OutputFormat::FakeQuantized => "floats that went through int8, to evaluate anywhere",
        }
    }
}

/// What is to be made of the checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    Quantize {
        plan: Plan,
        format: OutputFormat,
    },
    /// Floats back; `None`: each tensor in the type it had before.
    Dequantize {
        to: Option<FloatType>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub task: Task,
    pub out: PathBuf,
    /// Whether an existing `out` may be replaced.
    pub force: bool,
}

/// Whether a path is to be one file; any other is a directory.
pub fn is_single_file(out: &Path) -> bool {
    ["safetensors", "gguf", "bpk"].iter().any(|e| crate::checkpoint::has_extension(out, e))
}
