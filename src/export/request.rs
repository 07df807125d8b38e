//! What a person asks to be written.

use crate::checkpoint::formats::gguf::Q8_0_ELEMENTS;
use crate::checkpoint::{Checkpoint, CheckpointError, Format};
use crate::export::compressed_tensors;
use crate::plan::Plan;
use crate::plan::default_scheme;
use crate::quantization::QuantizationScheme;
use crate::tensor::{FloatType, TensorId};
use std::path::{Path, PathBuf};

/// The container a quantized model is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OutputFormat {
    /// safetensors with `T` as I8 and `T_scale` as F32, for any tensors at all.
    #[default]
    Safetensors,
    /// compressed-tensors `int-quantized`: a model's directory whose Linear weights are I8,
    /// with activations quantized as they come.
    Int8,
    /// compressed-tensors `pack-quantized`: weights only, a scale for each group of columns.
    Int8WeightOnly,
    /// Floats that went through int8: what an evaluation sees before anything int8 exists.
    FakeQuantized,
    /// Burn's own container, with Q8S tensors.
    Burn(WeightLayout),
    /// GGUF with Q8_0 tensors, from a GGUF file.
    Gguf,
}

/// Which way round the weights of linear layers lie in the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightLayout {
    /// As in the source.
    #[default]
    Source,
    /// `[in, out]`, as Burn's `Linear` has them, from PyTorch's `[out, in]`.
    Burn,
}

impl WeightLayout {
    pub const ALL: [WeightLayout; 2] = [WeightLayout::Source, WeightLayout::Burn];

    pub fn name(self) -> &'static str {
        match self {
            WeightLayout::Source => "source",
            WeightLayout::Burn => "burn",
        }
    }

    pub fn summary(self) -> &'static str {
        match self {
            WeightLayout::Source => "as in the source",
            WeightLayout::Burn => "[in, out] as Burn's Linear has them, from [out, in]",
        }
    }
}

impl OutputFormat {
    pub const ALL: [OutputFormat; 6] = [
        OutputFormat::Safetensors,
        OutputFormat::Int8,
        OutputFormat::Int8WeightOnly,
        OutputFormat::Burn(WeightLayout::Source),
        OutputFormat::Gguf,
        OutputFormat::FakeQuantized,
    ];

    pub fn name(self) -> &'static str {
        match self {
            OutputFormat::Safetensors => "safetensors",
            OutputFormat::Int8 => "int8",
            OutputFormat::Int8WeightOnly => "int8-weight-only",
            OutputFormat::FakeQuantized => "fake-quantized",
            OutputFormat::Burn(_) => "burn",
            OutputFormat::Gguf => "gguf",
        }
    }

    /// One line on what it is for.
    pub fn summary(self) -> &'static str {
        match self {
            OutputFormat::Safetensors => "int8 values and scales side by side; any tensors",
            OutputFormat::Int8 => "a directory for transformers, vLLM, llama.cpp; Linear layers",
            OutputFormat::Int8WeightOnly => "the same in blocks, activations left as floats",
            OutputFormat::FakeQuantized => "floats that went through int8, to evaluate anywhere",
            OutputFormat::Burn(_) => "a burnpack file with Q8S tensors, for Burn's load_file",
            OutputFormat::Gguf => "Q8_0 for llama.cpp, from a GGUF file of floats",
        }
    }

    /// What the name of an output of one file ends with; `None` if it is never one file.
    pub fn ending(self) -> Option<&'static str> {
        match self {
            OutputFormat::Safetensors | OutputFormat::FakeQuantized => Some("safetensors"),
            OutputFormat::Int8 | OutputFormat::Int8WeightOnly => None,
            OutputFormat::Burn(_) => Some("bpk"),
            OutputFormat::Gguf => Some("gguf"),
        }
    }

    /// Whether the output is always one file.
    pub fn is_file(self) -> bool {
        matches!(self, OutputFormat::Burn(_) | OutputFormat::Gguf)
    }

    /// Whether the output is a model's directory; else it may be one file too.
    pub fn is_directory(self) -> bool {
        matches!(self, OutputFormat::Int8 | OutputFormat::Int8WeightOnly)
    }

    /// The scheme of `tensors` when none is asked for.
    pub fn default_scheme(
        self,
        checkpoint: &Checkpoint,
        tensors: impl IntoIterator<Item = TensorId>,
    ) -> QuantizationScheme {
        match self {
            OutputFormat::Safetensors | OutputFormat::FakeQuantized => default_scheme(&checkpoint),
            OutputFormat::Burn(_) => QuantizationScheme::PER_TENSOR,
            OutputFormat::Gguf => QuantizationScheme::per_block(Q8_0_ELEMENTS as u32),
            OutputFormat::Int8 => QuantizationScheme::PER_CHANNEL,
            OutputFormat::Int8WeightOnly => {
                let shapes: Vec<_> =
                    tensors.into_iter().map(|id| &checkpoint.tensor(id).shape).collect();
                compressed_tensors::default_group_scheme(&shapes)
            }
        }
    }

    /// Those of `tensors` that the format cannot hold as int8, each with the reason.
    pub fn refused(
        self,
        checkpoint: &Checkpoint,
        tensors: &[TensorId],
    ) -> Result<Vec<(TensorId, String)>, CheckpointError> {
        if !self.is_directory() {
            return Ok(Vec::new());
        }
        let config = checkpoint.model_config()?.unwrap_or_default();
        let refused = tensors
            .iter()
            .filter_map(|&id| Some((id, compressed_tensors::not_linear(checkpoint, &config, id)?)));
        Ok(refused.collect())
    }

    /// Why a checkpoint cannot be saved in this format, whatever is selected.
    pub fn unfit(self, checkpoint: &Checkpoint) -> Option<String> {
        match self {
            OutputFormat::Safetensors | OutputFormat::FakeQuantized | OutputFormat::Burn(_) => None,
            OutputFormat::Gguf => (checkpoint.format() != Format::Gguf).then(|| {
                format!(
                    "only GGUF becomes GGUF, and this is {}; for llama.cpp save it as int8, which its converter takes",
                    checkpoint.format().name()
                )
            }),
            OutputFormat::Int8 | OutputFormat::Int8WeightOnly => {
                compressed_tensors::unfit(checkpoint)
            }
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
pub(crate) fn is_single_file(out: &Path) -> bool {
    ["safetensors", "gguf", "bpk"].iter().any(|e| crate::checkpoint::has_extension(out, e))
}
