//! The properties of output formats that a plan depends on.

use crate::plan::schemes::{PRESET_SCHEMES, SCHEMES};
use crate::quantization::{Preset, QuantizationScheme, ScaleStorage};
use crate::tensor::{BlockType, FloatType, Shape, TensorInfo};

/// The content of the marker of a layer quantized for ComfyUI.
pub(crate) fn comfyui_marker(scheme: QuantizationScheme) -> &'static str {
    match scheme.preset() {
        Some(Preset::Fp8) => r#"{"format": "float8_e4m3fn"}"#,
        Some(_) => r#"{"format": "nvfp4"}"#,
        None => r#"{"format": "int8_tensorwise"}"#,
    }
}

/// The sizes of MLX's groups, in the order of bytes.
const MLX_GROUPS: [u32; 3] = [128, 64, 32];

/// The container that an output is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Container {
    /// safetensors with int8 values and scales side by side. Holds any tensor.
    #[default]
    Safetensors,
    /// A model directory with Linear weights in the format of compressed-tensors.
    CompressedTensors(LinearScheme),
    /// GGUF with tensors in ggml block types.
    Gguf,
    /// burnpack with Q8S tensors.
    Burn,
    /// Float weights with int8 rounding applied.
    FakeQuantized,
    /// safetensors with ComfyUI's markers.
    ComfyUi,
    /// safetensors with MLX's group-wise int8 or int4.
    Mlx,
    /// safetensors with torchao's int8 tensors.
    Torchao,
}

/// How compressed-tensors quantizes a Linear layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LinearScheme {
    /// int8 weights, and inputs that are quantized to int8 when the model runs.
    #[default]
    W8A8,
    /// int8 weights in groups of columns, and float inputs.
    W8A16,
    /// Presets of compressed-tensors, the same for all layers or mixed.
    Presets,
}

impl LinearScheme {
    /// All schemes.
    pub const ALL: [LinearScheme; 3] =
        [LinearScheme::W8A8, LinearScheme::W8A16, LinearScheme::Presets];

    /// The int8 schemes.
    pub const INT8: [LinearScheme; 2] = [LinearScheme::W8A8, LinearScheme::W8A16];

    /// The name that compressed-tensors and vLLM use.
    pub fn name(self) -> &'static str {
        match self {
            LinearScheme::W8A8 => "W8A8",
            LinearScheme::W8A16 => "W8A16",
            LinearScheme::Presets => "presets",
        }
    }
}

impl Container {
    /// The name of `--format`.
    pub fn name(self) -> &'static str {
        match self {
            Container::Safetensors => "safetensors",
            Container::CompressedTensors(_) => "compressed-tensors",
            Container::Gguf => "gguf",
            Container::Burn => "burn",
            Container::FakeQuantized => "fake-quantized",
            Container::ComfyUi => "comfyui",
            Container::Mlx => "mlx",
            Container::Torchao => "torchao",
        }
    }

    /// Returns the format with this name, compressed-tensors with its default scheme.
    pub fn from_name(name: &str) -> Option<Container> {
        let all = [
            Container::Safetensors,
            Container::CompressedTensors(LinearScheme::default()),
            Container::Gguf,
            Container::Burn,
            Container::FakeQuantized,
            Container::ComfyUi,
            Container::Mlx,
            Container::Torchao,
        ];
        all.into_iter().find(|container| container.name() == name)
    }

    /// Returns whether the format holds only Linear layers.
    pub fn holds_linear_only(self) -> bool {
        matches!(self, Container::CompressedTensors(_) | Container::Mlx | Container::Torchao)
    }

    /// Returns whether all marked tensors must have the same scheme.
    pub fn has_one_scheme(self) -> bool {
        matches!(
            self,
            Container::CompressedTensors(LinearScheme::W8A8 | LinearScheme::W8A16) | Container::Mlx
        )
    }

    /// Returns the schemes that a budget chooses from in this format, smallest first.
    pub fn schemes(self) -> Vec<QuantizationScheme> {
        let blocks = [128, 64, 32].map(QuantizationScheme::per_block);
        match self {
            Container::Safetensors | Container::FakeQuantized => SCHEMES.to_vec(),
            Container::CompressedTensors(LinearScheme::W8A8) => {
                vec![QuantizationScheme::PER_TENSOR, QuantizationScheme::PER_CHANNEL]
            }
            Container::CompressedTensors(LinearScheme::W8A16) => {
                [&[QuantizationScheme::PER_CHANNEL][..], &blocks].concat()
            }
            Container::CompressedTensors(LinearScheme::Presets) => PRESET_SCHEMES.to_vec(),
            Container::Gguf => [
                BlockType::Q2_K,
                BlockType::Q3_K,
                BlockType::IQ3_S,
                BlockType::IQ4_XS,
                BlockType::Q4_K,
                BlockType::Q5_K,
                BlockType::Q6_K,
            ]
            .map(QuantizationScheme::Ggml)
            .into_iter()
            .chain([QuantizationScheme::per_block(32)])
            .collect(),
            Container::Burn => [&[QuantizationScheme::PER_TENSOR][..], &blocks].concat(),
            Container::ComfyUi => {
                let presets = Preset::COMFYUI.map(QuantizationScheme::Preset).into_iter();
                let int8 = [QuantizationScheme::PER_TENSOR, QuantizationScheme::PER_CHANNEL];
                presets.chain(int8).collect()
            }
            Container::Mlx => {
                let int4 = MLX_GROUPS.map(|size| QuantizationScheme::Preset(Preset::W4A16(size)));
                int4.into_iter().chain(blocks).collect()
            }
            Container::Torchao => SCHEMES.to_vec(),
        }
    }

    /// Returns why a weight of this shape cannot have a scheme; `None` if it can.
    pub fn scheme_obstacle(self, scheme: QuantizationScheme, shape: &Shape) -> Option<String> {
        let preset = scheme.preset().filter(|_| self != Container::Mlx);
        if let Some(preset) = preset {
            return preset.obstacle(shape);
        }
        let columns = shape.row_len();
        let size = match (self, scheme) {
            (
                Container::CompressedTensors(LinearScheme::W8A16)
                | Container::Mlx
                | Container::Torchao
                | Container::Gguf,
                QuantizationScheme::PerBlock(_, _, size),
            )
            | (Container::Mlx, QuantizationScheme::Preset(Preset::W4A16(size))) => size,
            (Container::Gguf, QuantizationScheme::Ggml(block)) => {
                let fitting = block.fitting(columns);
                return fitting.is_none().then(|| {
                    format!("its rows of {columns} are not whole blocks of {block} or smaller ones")
                });
            }
            // A packed 32-bit word holds four int8 values.
            (
                Container::CompressedTensors(LinearScheme::W8A16),
                QuantizationScheme::PerChannel(..),
            ) => 4,
            _ => return None,
        };
        (!columns.is_multiple_of(u64::from(size)))
            .then(|| format!("its {columns} columns are not a multiple of {size}"))
    }

    /// The type that scales are stored in. Errors are measured against scales rounded to it.
    pub fn scale_storage(self) -> ScaleStorage {
        match self {
            // The model's own type. No loader has F64 scales, and MLX computes in their type.
            Container::CompressedTensors(_) | Container::Mlx => ScaleStorage::ElementType,
            Container::Gguf => ScaleStorage::F16,
            Container::Safetensors
            | Container::Burn
            | Container::FakeQuantized
            | Container::ComfyUi
            | Container::Torchao => ScaleStorage::F32,
        }
    }

    /// Bytes of everything that is stored for a quantized tensor. For fake-quantized, which
    /// stores floats, those of int8 values and F32 scales.
    pub fn bytes(self, scheme: QuantizationScheme, tensor: &TensorInfo) -> u64 {
        let float = tensor.dtype.float().unwrap_or(FloatType::F32);
        let scale_bytes = self.scale_storage().scale_bytes(float);
        if let (Container::Mlx, Some(preset)) = (self, scheme.preset()) {
            return preset.affine_bytes(&tensor.shape, scale_bytes);
        }
        let scales = scheme.groups(&tensor.shape).count();
        let further = match self {
            // The shape: two integers of 64 bits.
            Container::CompressedTensors(LinearScheme::W8A16) if scheme.is_scaled_int8() => 16,
            Container::ComfyUi => comfyui_marker(scheme).len() as u64,
            // A bias for each group, of the type of the scales.
            Container::Mlx => scales * scale_bytes,
            // A zero point of one byte for each scale.
            Container::Torchao => scales,
            _ => 0,
        };
        scheme.bytes(&tensor.shape, scale_bytes) + further
    }

    /// Returns whether the format can store a scheme. A format with blocks accepts any block
    /// size, except GGUF.
    pub fn can_store(self, scheme: QuantizationScheme) -> bool {
        let is_block =
            |scheme: &QuantizationScheme| matches!(scheme, QuantizationScheme::PerBlock(..));
        if let Some(preset) = scheme.preset() {
            return match self {
                Container::FakeQuantized => true,
                Container::CompressedTensors(LinearScheme::Presets) => {
                    !Preset::COMFYUI.contains(&preset)
                }
                Container::Mlx | Container::ComfyUi => self.schemes().contains(&scheme),
                _ => false,
            };
        }
        if let (Container::Gguf, Some(_)) = (self, scheme.ggml()) {
            return true;
        }
        let any_block = !matches!(self, Container::Gguf) && is_block(&scheme);
        let schemes = self.schemes();
        schemes.contains(&scheme) || any_block && schemes.iter().any(is_block)
    }
}

impl std::fmt::Display for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Container::CompressedTensors(scheme) => {
                write!(f, "{} {}", self.name(), scheme.name())
            }
            _ => f.write_str(self.name()),
        }
    }
}
