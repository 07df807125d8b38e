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

/// What plans, options and lists depend on in a format: a row of the table of formats.
struct FormatFacts {
    /// The name of `--format`, without the scheme of compressed-tensors.
    name: &'static str,
    /// One line of help on the command line.
    help: &'static str,
    /// A few words on the screen.
    summary: &'static str,
    /// Whether the format holds only Linear layers.
    holds_linear_only: bool,
    /// Whether all marked tensors must have the same scheme.
    has_one_scheme: bool,
    /// The type that scales are stored in.
    scale_storage: ScaleStorage,
    /// Returns the schemes that a budget chooses from, smallest first.
    schemes: fn() -> Vec<QuantizationScheme>,
    /// Whether blocks of any size can be stored, if one of `schemes` has blocks.
    has_any_block_size: bool,
    /// Returns whether a preset can be stored.
    stores_preset: fn(Preset) -> bool,
    /// Whether every block type of ggml can be stored.
    stores_ggml: bool,
    /// Returns why a weight of this shape cannot have a scheme; `None` if it can.
    scheme_obstacle: fn(QuantizationScheme, &Shape) -> Option<String>,
    /// Returns the bytes of everything that is stored for a quantized tensor. The number is the
    /// size of a scale in bytes.
    bytes: fn(QuantizationScheme, &TensorInfo, u64) -> u64,
}

impl FormatFacts {
    /// safetensors with int8 values and scales. The other rows say in what they differ.
    const SAFETENSORS: FormatFacts = FormatFacts {
        name: "safetensors",
        help: "int8 values and scales side by side; any tensors",
        summary: "int8 values beside scales, of any tensor",
        holds_linear_only: false,
        has_one_scheme: false,
        scale_storage: ScaleStorage::F32,
        schemes: || SCHEMES.to_vec(),
        has_any_block_size: true,
        stores_preset: |_| false,
        stores_ggml: false,
        scheme_obstacle: preset_obstacle,
        bytes: |scheme, tensor, scale_bytes| scheme.bytes(&tensor.shape, scale_bytes),
    };

    /// compressed-tensors with [`LinearScheme::W8A8`].
    const COMPRESSED_TENSORS: FormatFacts = FormatFacts {
        name: "compressed-tensors",
        help: "a directory for transformers, vLLM, llama.cpp's converter; Linear layers",
        summary: "int8 weights and inputs of Linear layers",
        holds_linear_only: true,
        has_one_scheme: true,
        // The model's own type. No loader has F64 scales.
        scale_storage: ScaleStorage::ElementType,
        schemes: || vec![QuantizationScheme::PER_TENSOR, QuantizationScheme::PER_CHANNEL],
        ..FormatFacts::SAFETENSORS
    };
}

/// Defines the table of formats from rows of a container and its facts.
macro_rules! formats {
    ($([$($container:tt)+] $facts:expr;)*) => {
        impl Container {
            /// Every format with each of its schemes, in the order of lists.
            pub const ALL: [Container; [$(stringify!($($container)+)),*].len()] =
                [$($($container)+),*];

            fn facts(self) -> &'static FormatFacts {
                match self {
                    $($($container)+ => {
                        const FACTS: FormatFacts = $facts;
                        &FACTS
                    })*
                }
            }
        }
    };
}

formats! {
    [Container::Safetensors] FormatFacts::SAFETENSORS;
    [Container::CompressedTensors(LinearScheme::W8A8)] FormatFacts::COMPRESSED_TENSORS;
    [Container::CompressedTensors(LinearScheme::W8A16)] FormatFacts {
        summary: "int8 weights of Linear layers, in groups",
        schemes: || [&[QuantizationScheme::PER_CHANNEL][..], &blocks()].concat(),
        scheme_obstacle: |scheme, shape| match scheme {
            QuantizationScheme::PerBlock(_, _, size) => undivided(shape, size),
            // A packed 32-bit word holds four int8 values.
            QuantizationScheme::PerChannel(..) => undivided(shape, 4),
            _ => preset_obstacle(scheme, shape),
        },
        // The shape: two integers of 64 bits.
        bytes: |scheme, tensor, scale_bytes| {
            let shape = if scheme.is_scaled_int8() { 16 } else { 0 };
            scheme.bytes(&tensor.shape, scale_bytes) + shape
        },
        ..FormatFacts::COMPRESSED_TENSORS
    };
    [Container::CompressedTensors(LinearScheme::Presets)] FormatFacts {
        summary: "Linear layers in int4, FP8, FP4 or a mix",
        has_one_scheme: false,
        schemes: || PRESET_SCHEMES.to_vec(),
        stores_preset: |preset| preset != Preset::Nvfp4ComfyUi,
        ..FormatFacts::COMPRESSED_TENSORS
    };
    [Container::Burn] FormatFacts {
        name: "burn",
        help: "a burnpack file with Q8S tensors, for Burn's load_file",
        summary: "a burnpack file with Q8S tensors",
        schemes: || [&[QuantizationScheme::PER_TENSOR][..], &blocks()].concat(),
        ..FormatFacts::SAFETENSORS
    };
    [Container::Gguf] FormatFacts {
        name: "gguf",
        help: "block types for llama.cpp, from a GGUF file of floats",
        summary: "ggml's block types, from GGUF",
        scale_storage: ScaleStorage::F16,
        schemes: gguf_schemes,
        has_any_block_size: false,
        stores_ggml: true,
        scheme_obstacle: |scheme, shape| match scheme {
            QuantizationScheme::PerBlock(_, _, size) => undivided(shape, size),
            QuantizationScheme::Ggml(block) => {
                let columns = shape.row_len();
                let why = || {
                    format!("its rows of {columns} are not whole blocks of {block} or smaller ones")
                };
                block.fitting(columns).is_none().then(why)
            }
            _ => preset_obstacle(scheme, shape),
        },
        // Rows that no block divides become F16.
        bytes: |scheme, tensor, scale_bytes| match scheme {
            QuantizationScheme::Ggml(block)
                if block.fitting(tensor.shape.row_len()).is_none() =>
            {
                tensor.shape.elements() * FloatType::F16.size() as u64
            }
            _ => scheme.bytes(&tensor.shape, scale_bytes),
        },
        ..FormatFacts::SAFETENSORS
    };
    [Container::ComfyUi] FormatFacts {
        name: "comfyui",
        help: "one file with ComfyUI's markers; Linear layers, int8, FP8 or NVFP4",
        summary: "safetensors with ComfyUI's markers",
        schemes: comfyui_schemes,
        stores_preset: |preset| Preset::COMFYUI.contains(&preset),
        bytes: |scheme, tensor, scale_bytes| {
            scheme.bytes(&tensor.shape, scale_bytes) + comfyui_marker(scheme).len() as u64
        },
        ..FormatFacts::SAFETENSORS
    };
    [Container::Mlx] FormatFacts {
        name: "mlx",
        help: "a directory for mlx-lm; Linear layers in groups, int8 or int4",
        summary: "safetensors with MLX's group-wise int8 or int4",
        holds_linear_only: true,
        has_one_scheme: true,
        // MLX computes in the type of the scales, which is that of the model.
        scale_storage: ScaleStorage::ElementType,
        schemes: mlx_schemes,
        stores_preset: |preset| mlx_schemes().contains(&QuantizationScheme::Preset(preset)),
        scheme_obstacle: |scheme, shape| match scheme {
            QuantizationScheme::PerBlock(_, _, size)
            | QuantizationScheme::Preset(Preset::W4A16(size)) => undivided(shape, size),
            _ => None,
        },
        bytes: |scheme, tensor, scale_bytes| match scheme.preset() {
            Some(preset) => preset.affine_bytes(&tensor.shape, scale_bytes),
            // A bias for each group, of the type of the scales.
            None => {
                let groups = scheme.groups(&tensor.shape).count();
                scheme.bytes(&tensor.shape, scale_bytes) + groups * scale_bytes
            }
        },
        ..FormatFacts::SAFETENSORS
    };
    [Container::Torchao] FormatFacts {
        name: "torchao",
        help: "a directory for torchao in transformers; Linear layers",
        summary: "safetensors with torchao's int8 tensors",
        holds_linear_only: true,
        scheme_obstacle: |scheme, shape| match scheme {
            QuantizationScheme::PerBlock(_, _, size) => undivided(shape, size),
            _ => preset_obstacle(scheme, shape),
        },
        // A zero point of one byte for each scale.
        bytes: |scheme, tensor, scale_bytes| {
            let zero_points = scheme.groups(&tensor.shape).count();
            scheme.bytes(&tensor.shape, scale_bytes) + zero_points
        },
        ..FormatFacts::SAFETENSORS
    };
    // Stores floats; sizes are those of int8 values and F32 scales.
    [Container::FakeQuantized] FormatFacts {
        name: "fake-quantized",
        help: "float weights with int8 rounding applied, for evaluation",
        summary: "floats rounded to int8, for evaluation",
        stores_preset: |_| true,
        ..FormatFacts::SAFETENSORS
    };
}

fn blocks() -> [QuantizationScheme; 3] {
    [128, 64, 32].map(QuantizationScheme::per_block)
}

fn gguf_schemes() -> Vec<QuantizationScheme> {
    let types = [
        BlockType::Q2_K,
        BlockType::Q3_K,
        BlockType::IQ3_S,
        BlockType::IQ4_XS,
        BlockType::Q4_K,
        BlockType::Q5_K,
        BlockType::Q6_K,
    ];
    let int8 = QuantizationScheme::per_block(32);
    types.map(QuantizationScheme::Ggml).into_iter().chain([int8]).collect()
}

fn comfyui_schemes() -> Vec<QuantizationScheme> {
    let presets = Preset::COMFYUI.map(QuantizationScheme::Preset).into_iter();
    presets.chain([QuantizationScheme::PER_TENSOR, QuantizationScheme::PER_CHANNEL]).collect()
}

fn mlx_schemes() -> Vec<QuantizationScheme> {
    let int4 = MLX_GROUPS.map(|size| QuantizationScheme::Preset(Preset::W4A16(size)));
    int4.into_iter().chain(blocks()).collect()
}

/// Returns why a weight of this shape cannot have a preset; `None` for other schemes.
fn preset_obstacle(scheme: QuantizationScheme, shape: &Shape) -> Option<String> {
    scheme.preset()?.obstacle(shape)
}

/// Returns why the rows of this shape cannot be divided into runs of `size` elements, if so.
fn undivided(shape: &Shape, size: u32) -> Option<String> {
    let columns = shape.row_len();
    (!columns.is_multiple_of(u64::from(size)))
        .then(|| format!("its {columns} columns are not a multiple of {size}"))
}

impl Container {
    /// The name of `--format`.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// One line of help for the command line.
    pub fn help(self) -> &'static str {
        self.facts().help
    }

    /// A few words on what the format stores, with the scheme of compressed-tensors.
    pub fn summary(self) -> &'static str {
        self.facts().summary
    }

    /// The formats of `--format`, compressed-tensors once with its default scheme.
    pub fn named() -> impl Iterator<Item = Container> {
        let has_own_name = |container: &Container| match container {
            Container::CompressedTensors(scheme) => *scheme == LinearScheme::default(),
            _ => true,
        };
        Container::ALL.into_iter().filter(has_own_name)
    }

    /// Returns the format with this name, compressed-tensors with its default scheme.
    pub fn from_name(name: &str) -> Option<Container> {
        Container::named().find(|container| container.name() == name)
    }

    /// Returns whether the format holds only Linear layers.
    pub fn holds_linear_only(self) -> bool {
        self.facts().holds_linear_only
    }

    /// Returns whether all marked tensors must have the same scheme.
    pub fn has_one_scheme(self) -> bool {
        self.facts().has_one_scheme
    }

    /// Returns the schemes that a budget chooses from in this format, smallest first.
    pub fn schemes(self) -> Vec<QuantizationScheme> {
        (self.facts().schemes)()
    }

    /// Returns why a weight of this shape cannot have a scheme; `None` if it can.
    pub fn scheme_obstacle(self, scheme: QuantizationScheme, shape: &Shape) -> Option<String> {
        (self.facts().scheme_obstacle)(scheme, shape)
    }

    /// The type that scales are stored in. Errors are measured against scales rounded to it.
    pub fn scale_storage(self) -> ScaleStorage {
        self.facts().scale_storage
    }

    /// Bytes of everything that is stored for a quantized tensor. For fake-quantized, which
    /// stores floats, those of int8 values and F32 scales.
    pub fn bytes(self, scheme: QuantizationScheme, tensor: &TensorInfo) -> u64 {
        let float = tensor.dtype.float().unwrap_or(FloatType::F32);
        (self.facts().bytes)(scheme, tensor, self.scale_storage().scale_bytes(float))
    }

    /// Returns whether the format can store a scheme. A format with blocks accepts any block
    /// size, except GGUF.
    pub fn can_store(self, scheme: QuantizationScheme) -> bool {
        let facts = self.facts();
        if let Some(preset) = scheme.preset() {
            return (facts.stores_preset)(preset);
        }
        if facts.stores_ggml && scheme.ggml().is_some() {
            return true;
        }
        let is_block =
            |scheme: &QuantizationScheme| matches!(scheme, QuantizationScheme::PerBlock(..));
        let schemes = self.schemes();
        let any_block = facts.has_any_block_size && is_block(&scheme);
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
