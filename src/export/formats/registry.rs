//! The table of output formats.

use crate::checkpoint::Checkpoint;
use crate::export::container_check;
use crate::export::error::SaveError;
use crate::export::formats::burn::Burn;
use crate::export::formats::comfyui::ComfyUi;
use crate::export::formats::compressed_tensors::CompressedTensors;
use crate::export::formats::dequantized;
use crate::export::formats::fake_quantized::FakeQuantized;
use crate::export::formats::gguf::Gguf;
use crate::export::formats::mlx::Mlx;
use crate::export::formats::presets::Presets;
use crate::export::formats::safetensors::Safetensors;
use crate::export::formats::torchao::Torchao;
use crate::export::formats::writer::{FormatWriter, OutputKind};
use crate::export::output_plan::OutputPlan;
use crate::export::request::{OutputFormat, Request, Task, WeightLayout};
use crate::plan::Plan;
use crate::plan::target::Container;
use crate::quantization::{QuantizationScheme, Quantizer, ScaleStorage};
use crate::tensor::TensorId;
use std::path::Path;

/// Defines the table of formats from rows of a format and its writer.
macro_rules! output_formats {
    ($([$($format:tt)+] $writer:expr;)*) => {
        const FORMATS: [OutputFormat; [$(stringify!($($format)+)),*].len()] =
            [$($($format)+),*];

        impl OutputFormat {
            pub(crate) fn writer(self) -> &'static dyn FormatWriter {
                match self {
                    $($($format)+ => &$writer,)*
                }
            }
        }
    };
}

output_formats! {
    [OutputFormat::Safetensors] Safetensors;
    [OutputFormat::Int8] CompressedTensors::INT8;
    [OutputFormat::Int8WeightOnly] CompressedTensors::INT8_WEIGHT_ONLY;
    [OutputFormat::Presets] Presets;
    [OutputFormat::Burn(WeightLayout::Source)] Burn { layout: WeightLayout::Source };
    [OutputFormat::Burn(WeightLayout::Burn)] Burn { layout: WeightLayout::Burn };
    [OutputFormat::Gguf] Gguf;
    [OutputFormat::ComfyUi] ComfyUi;
    [OutputFormat::Mlx] Mlx;
    [OutputFormat::Torchao] Torchao;
    [OutputFormat::FakeQuantized] FakeQuantized;
}

impl OutputFormat {
    /// Returns the format that writes a container, in the source's layout.
    pub fn of(container: Container) -> OutputFormat {
        let writes = |format: &OutputFormat| format.container() == container;
        FORMATS.into_iter().find(writes).unwrap_or_default()
    }

    /// Returns the container of the format, as plans name it.
    pub fn container(self) -> Container {
        self.writer().container()
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        self.writer().name()
    }

    /// The extension of an output that is one file; `None` if it is always a directory.
    pub fn ending(self) -> Option<&'static str> {
        match self.writer().output_kind() {
            OutputKind::File(extension) | OutputKind::FileOrDirectory(extension) => Some(extension),
            OutputKind::Directory => None,
        }
    }

    /// Whether the output is always one file.
    pub fn is_file(self) -> bool {
        matches!(self.writer().output_kind(), OutputKind::File(_))
    }

    /// Whether the output is always a model directory.
    pub fn is_directory(self) -> bool {
        self.writer().output_kind() == OutputKind::Directory
    }

    /// Returns the default scheme for `tensors`.
    pub fn default_scheme(
        self,
        checkpoint: &Checkpoint,
        tensors: impl IntoIterator<Item = TensorId>,
    ) -> QuantizationScheme {
        let tensors: Vec<_> = tensors.into_iter().collect();
        self.writer().default_scheme(checkpoint, &tensors)
    }

    /// Returns the type of stored scales. Errors are measured with scales rounded to it.
    pub fn scale_storage(self) -> ScaleStorage {
        self.container().scale_storage()
    }

    /// Returns why a checkpoint cannot be saved in the format, if so.
    pub fn unfit(self, checkpoint: &Checkpoint) -> Option<String> {
        self.writer().checkpoint_obstacle(checkpoint)
    }
}

/// Lays out the files of a task whose preconditions are met.
pub(crate) fn lay_out(
    checkpoint: &Checkpoint,
    request: &Request,
    output_plan: &mut OutputPlan,
) -> Result<(), SaveError> {
    match &request.task {
        Task::Quantize { plan, format } => {
            if let Some(why) = axis_obstacle(checkpoint, plan, *format) {
                return Err(SaveError::Unfit { path: checkpoint.path().to_owned(), why });
            }
            format.writer().lay_out(checkpoint, plan, request, output_plan)
        }
        Task::Dequantize { to } => dequantized::lay_out(checkpoint, *to, request, output_plan),
    }
}

/// Why a format cannot hold the scales of a marked tensor whose output channels lie along
/// another axis than the first.
fn axis_obstacle(checkpoint: &Checkpoint, plan: &Plan, format: OutputFormat) -> Option<String> {
    if matches!(format, OutputFormat::Safetensors | OutputFormat::FakeQuantized) {
        return None;
    }
    let is_strided = |(id, quantizer): &(TensorId, Quantizer)| {
        let scheme = quantizer.scheme;
        matches!(scheme, QuantizationScheme::PerChannel(..))
            && checkpoint.tensor(*id).shape.channel_major().is_some()
    };
    let (id, _) = plan.iter().find(is_strided)?;
    let tensor = checkpoint.tensor(id);
    let (name, format) = (tensor.name.escape_debug(), format.name());
    let axis = tensor.shape.channel_axes().output_axis();
    Some(format!(
        "tensor '{name}' cannot be {format}: its output channels lie along axis {axis}, expected axis 0; leave it out, or choose --format safetensors"
    ))
}

/// Opens a written file with the library that owns its format.
pub(crate) fn check_container(task: &Task, file: &Path) -> Result<(), SaveError> {
    let opened = match task {
        Task::Quantize { format, .. } => format.writer().check_container(file),
        Task::Dequantize { .. } => container_check::safetensors(file),
    };
    opened.map_err(|why| SaveError::FileDiffers { path: file.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_has_a_writer() {
        for container in Container::ALL {
            assert_eq!(OutputFormat::of(container).container(), container);
        }
    }
}
