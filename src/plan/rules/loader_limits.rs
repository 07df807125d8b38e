//! The known limits of each loader, one table row per limit.

use crate::plan::rules::comfyui;
use crate::plan::rules::selected::Selected;
use crate::plan::target::{Container, LinearScheme, Loader};
use crate::quantization::QuantizationScheme;

/// The smallest group size of MLX's affine mode.
pub(super) const MLX_GROUP: u64 = 32;

/// What happens when a limit applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// The output would fail to load or load wrong values, so it is not written for this loader.
    Refuse,
    /// The output loads, but not everywhere.
    Warn,
    /// The tensors stay float by default.
    LeaveFloat,
}

/// When a limit applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Inputs are quantized, and the model stores its experts one by one.
    Int8InputsWithExperts,
    /// Inputs are quantized, and transformers merges the architecture's experts while loading.
    Int8InputsWithMergedExperts,
    /// Only weights are quantized, transformers merges the experts while loading, and one of
    /// them stays float.
    WeightOnlyWithFloatExperts,
    /// transformers cannot load any quantized layer of the architecture.
    RefusedArchitecture,
    /// transformers splits, joins or renames a quantized layer while loading.
    ConvertedLayer,
    /// Some experts of a layer are quantized and others are not.
    ExpertsOfALayerSplit,
    /// The model is a Llama 4.
    Llama4,
    /// Layers that are merged into one do not all have the same scheme.
    MergedLayerSplit,
    /// The output head is quantized.
    QuantizedHead,
    /// Only weights are quantized.
    WeightOnly,
    /// Only weights are quantized, with one scale per channel.
    WeightOnlyPerChannel,
    /// Inputs are quantized, and weights have one scale per tensor.
    OneScalePerTensor,
    /// Inputs are quantized, and the model has F32 weights.
    Int8InputsOfF32,
    /// Inputs are quantized with calibrated scales.
    StaticInputs,
    /// Inputs are quantized with calibrated scales, which config.json makes transformers ignore.
    UnusedInputScales,
    /// The tensor belongs to an image encoder.
    VisionPart,
    /// The format is ComfyUI's, and the tensors have the names of the diffusers library.
    DiffusersNames,
    /// The format is ComfyUI's, and a quantized tensor is not a layer that ComfyUI reads quantized.
    UnsupportedByComfyUi,
    /// The configuration is that of a model of the diffusers library.
    DiffusersModel,
    /// The format is MLX's or torchao's, and the loader joins a quantized expert with others.
    JoinedExpert,
    /// The format is MLX's, and the columns of a quantized layer do not divide into groups.
    UndividedGroups,
    /// A format of compressed-tensors, and a quantized layer whose last group is not whole.
    PartialGroup,
}

/// One limit of a loader.
#[derive(Clone, Copy, Debug)]
pub struct LoaderLimit {
    /// The loader with the limit.
    pub loader: Loader,
    /// The loader's version that the limit was checked with.
    pub version: &'static str,
    /// When the limit applies.
    pub condition: Condition,
    /// What happens to a plan that meets the condition.
    pub consequence: Consequence,
    /// Whether the limit is also reported, as a warning, when no loader was named.
    pub warn_without_target: bool,
    /// What happens and what to do. `{}` is replaced by the name that met the condition.
    pub sentence: &'static str,
}

/// Every known limit.
pub const LOADER_LIMITS: [LoaderLimit; 31] = [
    LoaderLimit {
        loader: Loader::Transformers,
        version: "5.24",
        condition: Condition::RefusedArchitecture,
        consequence: Consequence::Refuse,
        warn_without_target: true,
        sentence: "fails to load a '{}' model as soon as config.json has a quantization_config: its rules that split or join weights cannot be combined with scales; use --format fake-quantized",
    },
    LoaderLimit {
        loader: Loader::Transformers,
        version: "5.24",
        condition: Condition::Int8InputsWithMergedExperts,
        consequence: Consequence::Refuse,
        warn_without_target: true,
        sentence: "fails to load a W8A8 model whose experts are stored one by one ('{}'); use --scheme W8A16 or --format fake-quantized",
    },
    LoaderLimit {
        loader: Loader::Transformers,
        version: "5.24",
        condition: Condition::WeightOnlyWithFloatExperts,
        consequence: Consequence::Refuse,
        warn_without_target: true,
        sentence: "loads experts only if all of them are quantized, and '{}' is not; quantize all experts with --scheme W8A16",
    },
    LoaderLimit {
        loader: Loader::Transformers,
        version: "5.24",
        condition: Condition::ConvertedLayer,
        consequence: Consequence::Refuse,
        warn_without_target: true,
        sentence: "splits, joins or renames '{}' while loading and does not find its scale; leave it out",
    },
    LoaderLimit {
        loader: Loader::Transformers,
        version: "5.24",
        condition: Condition::UnusedInputScales,
        consequence: Consequence::Warn,
        warn_without_target: false,
        sentence: "reports the scales of inputs as unexpected keys and leaves inputs as floats; to quantize them, load with quantization_config=CompressedTensorsConfig(dequantize=False)",
    },
    LoaderLimit {
        loader: Loader::Transformers,
        version: "5.24",
        condition: Condition::Llama4,
        consequence: Consequence::Refuse,
        warn_without_target: true,
        sentence: "leaves the experts of Llama 4 random as soon as config.json has a quantization_config; use --format fake-quantized or safetensors",
    },
    LoaderLimit {
        loader: Loader::Transformers,
        version: "5.24",
        condition: Condition::PartialGroup,
        consequence: Consequence::Refuse,
        warn_without_target: false,
        sentence: "does not pad groups (compressed-tensors 0.20), and the columns of '{}' are not a multiple of its group size; leave it in float",
    },
    LoaderLimit {
        loader: Loader::Vllm,
        version: "0.32",
        condition: Condition::MergedLayerSplit,
        consequence: Consequence::Refuse,
        warn_without_target: true,
        sentence: "joins {} into one layer and loads it only if all of it has one scheme or none is quantized; quantize the rest too, or leave all of it out",
    },
    LoaderLimit {
        loader: Loader::Vllm,
        version: "0.32",
        condition: Condition::ExpertsOfALayerSplit,
        consequence: Consequence::Refuse,
        warn_without_target: true,
        sentence: "looks at the first expert of a layer only, and loads zeros where others differ: '{}' is quantized in part; quantize all experts of a layer or none",
    },
    LoaderLimit {
        loader: Loader::Vllm,
        version: "0.32",
        condition: Condition::OneScalePerTensor,
        consequence: Consequence::Refuse,
        warn_without_target: true,
        sentence: "does not load one scale per tensor: that loads in transformers only; --scheme per-channel loads everywhere and loses less",
    },
    LoaderLimit {
        loader: Loader::Vllm,
        version: "before 0.24",
        condition: Condition::QuantizedHead,
        consequence: Consequence::Warn,
        warn_without_target: true,
        sentence: "does not load a quantized output head, and '{}' is the output head",
    },
    LoaderLimit {
        loader: Loader::Vllm,
        version: "0.32",
        condition: Condition::WeightOnly,
        consequence: Consequence::Warn,
        warn_without_target: false,
        sentence: "has no CPU kernel for W8A16: it needs a GPU; W8A8 runs on both",
    },
    LoaderLimit {
        loader: Loader::Vllm,
        version: "0.32",
        condition: Condition::Int8InputsWithExperts,
        consequence: Consequence::Warn,
        warn_without_target: false,
        sentence: "has no CPU kernel for int8 experts ('{}'): it needs a GPU",
    },
    LoaderLimit {
        loader: Loader::Vllm,
        version: "0.32",
        condition: Condition::Int8InputsOfF32,
        consequence: Consequence::Warn,
        warn_without_target: false,
        sentence: "runs int8 on a CPU only with --dtype bfloat16, and '{}' is F32",
    },
    LoaderLimit {
        loader: Loader::Vllm,
        version: "0.32",
        condition: Condition::VisionPart,
        consequence: Consequence::LeaveFloat,
        warn_without_target: false,
        sentence: "keeps the image encoder in float, and '{}' belongs to it",
    },
    LoaderLimit {
        loader: Loader::Sglang,
        version: "0.5 (by reading)",
        condition: Condition::MergedLayerSplit,
        consequence: Consequence::Refuse,
        warn_without_target: false,
        sentence: "joins {} into one layer and loads it only if all of it has one scheme or none is quantized; quantize the rest too, or leave all of it out",
    },
    LoaderLimit {
        loader: Loader::Sglang,
        version: "0.5 (by reading)",
        condition: Condition::ExpertsOfALayerSplit,
        consequence: Consequence::Refuse,
        warn_without_target: false,
        sentence: "needs one scheme for all experts of a layer: '{}' is quantized in part; quantize all experts of a layer or none",
    },
    LoaderLimit {
        loader: Loader::Sglang,
        version: "0.5 (by reading)",
        condition: Condition::OneScalePerTensor,
        consequence: Consequence::Refuse,
        warn_without_target: false,
        sentence: "does not load one scale per tensor with inputs quantized for each token; use --scheme per-channel",
    },
    LoaderLimit {
        loader: Loader::Sglang,
        version: "0.5 (by reading)",
        condition: Condition::VisionPart,
        consequence: Consequence::LeaveFloat,
        warn_without_target: false,
        sentence: "keeps the image encoder in float, and '{}' belongs to it",
    },
    LoaderLimit {
        loader: Loader::LlamaCpp,
        version: "b6900",
        condition: Condition::StaticInputs,
        consequence: Consequence::Refuse,
        warn_without_target: false,
        sentence: "has a converter that takes no calibrated input scales; use --activation-scheme dynamic",
    },
    LoaderLimit {
        loader: Loader::LlamaCpp,
        version: "b6900",
        condition: Condition::OneScalePerTensor,
        consequence: Consequence::Refuse,
        warn_without_target: false,
        sentence: "has a converter that takes no single scale per tensor; use --scheme per-channel",
    },
    LoaderLimit {
        loader: Loader::LlamaCpp,
        version: "b6900",
        condition: Condition::WeightOnlyPerChannel,
        consequence: Consequence::Refuse,
        warn_without_target: false,
        sentence: "has a converter that takes W8A16 in groups only; use --scheme per-block:32, 64 or 128",
    },
    LoaderLimit {
        loader: Loader::LlamaCpp,
        version: "b6900",
        condition: Condition::VisionPart,
        consequence: Consequence::LeaveFloat,
        warn_without_target: false,
        sentence: "converts the image encoder from floats, and '{}' belongs to it",
    },
    LoaderLimit {
        loader: Loader::ComfyUi,
        version: "0.38 (by reading)",
        condition: Condition::DiffusersNames,
        consequence: Consequence::Refuse,
        warn_without_target: true,
        sentence: "renames the weights of a model with diffusers' names ('{}') while loading, and loses their scales; convert the model to ComfyUI's names first",
    },
    LoaderLimit {
        loader: Loader::Transformers,
        version: "5.24",
        condition: Condition::DiffusersModel,
        consequence: Consequence::Refuse,
        warn_without_target: false,
        sentence: "does not open models of the diffusers library, and config.json is that of '{}'; use --format fake-quantized",
    },
    LoaderLimit {
        loader: Loader::Vllm,
        version: "0.32",
        condition: Condition::DiffusersModel,
        consequence: Consequence::Refuse,
        warn_without_target: false,
        sentence: "does not open models of the diffusers library, and config.json is that of '{}'; use --format fake-quantized",
    },
    LoaderLimit {
        loader: Loader::ComfyUi,
        version: "0.38 (by reading)",
        condition: Condition::UnsupportedByComfyUi,
        consequence: Consequence::Refuse,
        warn_without_target: true,
        sentence: "reads only Linear and Embedding layers outside the image decoder as quantized ones, and '{}' is not one; leave it out",
    },
    LoaderLimit {
        loader: Loader::Mlx,
        version: "0.32 (mlx-lm)",
        condition: Condition::JoinedExpert,
        consequence: Consequence::Refuse,
        warn_without_target: true,
        sentence: "joins the experts of a layer while loading, but for most models not their scales: '{}' is an expert; leave the experts out",
    },
    LoaderLimit {
        loader: Loader::Mlx,
        version: "0.32 (mlx-lm)",
        condition: Condition::UndividedGroups,
        consequence: Consequence::Refuse,
        warn_without_target: true,
        sentence: "has groups of 32 columns or more, which do not divide those of '{}'; leave it out",
    },
    LoaderLimit {
        loader: Loader::Torchao,
        version: "0.18",
        condition: Condition::JoinedExpert,
        consequence: Consequence::Refuse,
        warn_without_target: true,
        sentence: "does not load experts that transformers joins while loading: '{}' is one; leave the experts out",
    },
    LoaderLimit {
        loader: Loader::Torchao,
        version: "0.18",
        condition: Condition::ConvertedLayer,
        consequence: Consequence::Refuse,
        warn_without_target: true,
        sentence: "does not find the scale of '{}', which transformers splits, joins or renames while loading; leave it out",
    },
];

impl LoaderLimit {
    /// Returns the limits of a loader, including those of the loader it is built on.
    pub fn of(loader: Loader) -> impl Iterator<Item = &'static LoaderLimit> {
        let built_on = match loader {
            Loader::SentenceTransformers => Loader::Transformers,
            other => other,
        };
        LOADER_LIMITS.iter().filter(move |limit| limit.loader == loader || limit.loader == built_on)
    }

    /// Returns the sentence with the loader's name and version, and the name that met the
    /// condition.
    pub(super) fn message(&self, met_by: &str) -> String {
        let version = match self.version {
            version if version.starts_with("before") => {
                format!("{} {version}", self.loader.title())
            }
            version => format!("{} {version}", self.loader.title()),
        };
        format!("{version} {}", self.sentence.replace("{}", met_by))
    }
}

impl Condition {
    /// Returns whether the condition is about int8 schemes only.
    pub(super) fn is_of_int8(self) -> bool {
        matches!(
            self,
            Condition::Int8InputsWithExperts
                | Condition::Int8InputsWithMergedExperts
                | Condition::Int8InputsOfF32
                | Condition::WeightOnly
                | Condition::WeightOnlyPerChannel
                | Condition::OneScalePerTensor
                | Condition::StaticInputs
        )
    }

    /// Returns the name that meets the condition, for the sentence; `None` if nothing meets it.
    pub(super) fn met_by(self, selected: &Selected) -> Option<String> {
        let Selected { linear, .. } = *selected;
        let int8_expert = || selected.int8_input_expert().map(|id| selected.name(id));
        let some = |holds: bool| holds.then(String::new);
        match self {
            Condition::Int8InputsWithExperts => int8_expert(),
            Condition::Int8InputsWithMergedExperts => {
                int8_expert().filter(|_| selected.architecture.merges_experts())
            }
            Condition::WeightOnlyWithFloatExperts
                if matches!(linear, Some(LinearScheme::W8A16 | LinearScheme::Presets))
                    && selected.architecture.merges_experts() =>
            {
                let float = selected.experts().find(|&id| !selected.plan.is_marked(id));
                float.map(|id| selected.name(id))
            }
            Condition::ExpertsOfALayerSplit if linear.is_some() => selected.split_experts(),
            Condition::RefusedArchitecture if linear.is_some() => {
                selected.architecture.refused_part().map(str::to_owned)
            }
            Condition::ConvertedLayer
                if linear.is_some() || selected.container == Container::Torchao =>
            {
                selected.converted().map(|id| selected.name(id))
            }
            Condition::DiffusersModel if linear.is_some() => {
                selected.architecture.diffusers_class().map(str::to_owned)
            }
            Condition::UnsupportedByComfyUi if selected.container == Container::ComfyUi => {
                selected.unsupported_by_comfyui().map(|id| selected.name(id))
            }
            Condition::JoinedExpert
                if matches!(selected.container, Container::Mlx | Container::Torchao) =>
            {
                selected.quantized_expert().map(|id| selected.name(id))
            }
            Condition::PartialGroup if linear.is_some() => {
                selected.partial_group().map(|id| selected.name(id))
            }
            Condition::UndividedGroups if selected.container == Container::Mlx => {
                selected.undivided(MLX_GROUP).map(|id| selected.name(id))
            }
            Condition::Int8InputsOfF32 if selected.has_linear(LinearScheme::W8A8) => {
                selected.wide().map(|id| selected.name(id))
            }
            Condition::Llama4 => some(
                linear.is_some()
                    && ["llama4", "llama4_text"]
                        .iter()
                        .any(|name| selected.architecture.is_or_holds(name)),
            ),
            Condition::MergedLayerSplit if linear.is_some() => selected.split_merged_layers(),
            Condition::QuantizedHead if linear.is_some() => {
                selected.head().map(|id| selected.module(id))
            }
            Condition::WeightOnly => some(selected.has_linear(LinearScheme::W8A16)),
            Condition::WeightOnlyPerChannel => some(
                linear == Some(LinearScheme::W8A16)
                    && selected.has_scheme(|s| matches!(s, QuantizationScheme::PerChannel(..))),
            ),
            Condition::OneScalePerTensor => some(
                linear == Some(LinearScheme::W8A8)
                    && selected.has_scheme(|s| matches!(s, QuantizationScheme::PerTensor(..))),
            ),
            Condition::StaticInputs => {
                some(linear == Some(LinearScheme::W8A8) && selected.plan.inputs.is_static())
            }
            Condition::UnusedInputScales => some(
                matches!(linear, Some(LinearScheme::W8A8 | LinearScheme::Presets))
                    && selected.plan.inputs.is_static(),
            ),
            Condition::DiffusersNames if selected.container == Container::ComfyUi => {
                comfyui::diffusers_name(selected.checkpoint).map(str::to_owned)
            }
            Condition::VisionPart if linear.is_some() => {
                selected.vision().map(|id| selected.name(id))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sentence_names_its_loader_and_has_no_placeholder() {
        for limit in LOADER_LIMITS {
            let sentence = limit.message("model.layers.0");
            assert!(sentence.starts_with(limit.loader.title()), "{sentence}");
            assert!(!sentence.contains("{}") && !sentence.ends_with('.'), "{sentence}");
        }
    }
}
