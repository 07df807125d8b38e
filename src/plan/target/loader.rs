//! The programs that open a quantized model.

use crate::checkpoint::Format;
use crate::plan::target::container::{Container, LinearScheme};

/// A program or library that opens model files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Loader {
    /// Hugging Face's transformers.
    Transformers,
    /// Hugging Face's sentence-transformers.
    SentenceTransformers,
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// llama.cpp and programs that use it.
    LlamaCpp,
    /// Ollama.
    Ollama,
    /// The Burn framework.
    Burn,
    /// ComfyUI.
    ComfyUi,
    /// Apple's mlx-lm.
    Mlx,
    /// torchao, as transformers loads it.
    Torchao,
}

impl Loader {
    /// All loaders, in the order of the lists.
    pub const ALL: [Loader; 10] = [
        Loader::Transformers,
        Loader::SentenceTransformers,
        Loader::Vllm,
        Loader::Sglang,
        Loader::LlamaCpp,
        Loader::Ollama,
        Loader::Burn,
        Loader::ComfyUi,
        Loader::Mlx,
        Loader::Torchao,
    ];

    /// The name on the command line and in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Loader::Transformers => "transformers",
            Loader::SentenceTransformers => "sentence-transformers",
            Loader::Vllm => "vllm",
            Loader::Sglang => "sglang",
            Loader::LlamaCpp => "llama.cpp",
            Loader::Ollama => "ollama",
            Loader::Burn => "burn",
            Loader::ComfyUi => "comfyui",
            Loader::Mlx => "mlx",
            Loader::Torchao => "torchao",
        }
    }

    /// The name in sentences, in the project's own spelling.
    pub fn title(self) -> &'static str {
        match self {
            Loader::Vllm => "vLLM",
            Loader::Sglang => "SGLang",
            Loader::Ollama => "Ollama",
            Loader::Burn => "Burn",
            Loader::ComfyUi => "ComfyUI",
            Loader::Mlx => "MLX",
            other => other.name(),
        }
    }

    /// A one-line description for the help.
    pub fn summary(self) -> &'static str {
        match self {
            Loader::Transformers => "Hugging Face transformers with compressed-tensors",
            Loader::SentenceTransformers => "sentence-transformers with compressed-tensors",
            Loader::Vllm => "vLLM",
            Loader::Sglang => "SGLang",
            Loader::LlamaCpp => "llama.cpp: a GGUF file, or a directory for its converter",
            Loader::Ollama => "Ollama: a GGUF file",
            Loader::Burn => "Burn: a burnpack file",
            Loader::ComfyUi => "ComfyUI: safetensors with its markers",
            Loader::Mlx => "MLX: safetensors with its group-wise int8 or int4",
            Loader::Torchao => "torchao through transformers",
        }
    }

    /// The output format for this loader if the source has the format `source`.
    pub fn container(self, source: Format) -> Container {
        let linear = Container::CompressedTensors(LinearScheme::default());
        match self {
            Loader::Transformers | Loader::SentenceTransformers | Loader::Vllm | Loader::Sglang => {
                linear
            }
            Loader::LlamaCpp if source == Format::Gguf => Container::Gguf,
            Loader::LlamaCpp => linear,
            Loader::Ollama => Container::Gguf,
            Loader::Burn => Container::Burn,
            Loader::ComfyUi => Container::ComfyUi,
            Loader::Mlx => Container::Mlx,
            Loader::Torchao => Container::Torchao,
        }
    }
}

impl std::fmt::Display for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Loader {
    type Err = String;

    fn from_str(text: &str) -> Result<Loader, String> {
        let known = |loader: &Loader| loader.name().eq_ignore_ascii_case(text.trim());
        Loader::ALL.into_iter().find(known).ok_or_else(|| {
            let names = Loader::ALL.map(Loader::name).join(", ");
            format!("unknown loader '{}', expected one of {names}", text.escape_debug())
        })
    }
}
