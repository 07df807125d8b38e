//! The formats that a model can be saved in, with their schemes.

use crate::checkpoint::Checkpoint;
use crate::export::OutputFormat;
use crate::plan::target::{Container, LinearScheme};

/// A format with its scheme, and whether the checkpoint can be saved in it.
#[derive(Clone, Debug, PartialEq)]
pub struct FormatFit {
    /// The container.
    pub container: Container,
    /// The format, or why this checkpoint cannot be saved in it, regardless of the marks.
    pub format: Result<OutputFormat, String>,
}

/// Every container, in the order of the lists.
pub(crate) fn containers() -> impl Iterator<Item = Container> {
    let linear = LinearScheme::ALL.into_iter().map(Container::CompressedTensors);
    let others = [
        Container::Burn,
        Container::Gguf,
        Container::ComfyUi,
        Container::Mlx,
        Container::Torchao,
        Container::FakeQuantized,
    ];
    std::iter::once(Container::Safetensors).chain(linear).chain(others)
}

/// Reviews every format for a checkpoint. Reads its `config.json`, so this is for the runner.
pub(crate) fn review(checkpoint: &Checkpoint) -> Vec<FormatFit> {
    let fit = |container: Container| {
        let format = OutputFormat::of(container);
        let format = match (format.is_directory(), checkpoint.model_config()) {
            (true, Err(error)) => Err(error.to_string()),
            _ => format.unfit(checkpoint).map_or(Ok(format), Err),
        };
        FormatFit { container, format }
    };
    containers().map(fit).collect()
}

/// One line on what a container is for.
pub(crate) fn summary(container: Container) -> &'static str {
    match container {
        Container::Safetensors => "int8 values beside scales, of any tensor",
        Container::CompressedTensors(scheme) => linear_summary(scheme),
        Container::Gguf => "ggml's block types, from GGUF",
        Container::Burn => "a burnpack file with Q8S tensors",
        Container::FakeQuantized => "floats rounded to int8, for evaluation",
        Container::ComfyUi => "safetensors with ComfyUI's markers",
        Container::Mlx => "safetensors with MLX's group-wise int8 or int4",
        Container::Torchao => "safetensors with torchao's int8 tensors",
    }
}

fn linear_summary(scheme: LinearScheme) -> &'static str {
    match scheme {
        LinearScheme::W8A8 => "int8 weights and inputs of Linear layers",
        LinearScheme::W8A16 => "int8 weights of Linear layers, in groups",
        LinearScheme::Presets => "Linear layers in int4, FP8, FP4 or a mix",
    }
}
