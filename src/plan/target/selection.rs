//! The target that a user chooses.

use crate::checkpoint::Format;
use crate::plan::target::container::{Container, LinearScheme};
use crate::plan::target::loader::Loader;
use crate::quantization::QuantizationScheme;

/// The loaders that are to open the output, and the format that is written for them.
///
/// By default there is no loader and the format is safetensors, for quantscope itself and for code
/// that reads the scales.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Target {
    loaders: Vec<Loader>,
    container: Container,
}

/// Why loaders and format cannot be combined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum TargetError {
    #[error(
        "{} opens {} and {} opens {}, and one output has one format; save it once for each",
        .0.0.title(), .0.1.name(), .1.0.title(), .1.1.name()
    )]
    Disagree((Loader, Container), (Loader, Container)),
    #[error("{} opens {}, not {}", loader.title(), expected.name(), found.name())]
    WrongFormat { loader: Loader, expected: Container, found: Container },
    #[error("{} opens GGUF, which is made from GGUF only; convert the model with llama.cpp's convert_hf_to_gguf.py first", .0.title())]
    NeedsGguf(Loader),
    #[error("{format} does not store {scheme}")]
    CannotStore { scheme: String, format: &'static str },
    #[error("{scheme} is a scheme of compressed-tensors, not of {format}")]
    NoSuchScheme { scheme: &'static str, format: &'static str },
    #[error("{scheme} is a scheme of ComfyUI, not of {format}")]
    OnlyComfyUi { scheme: &'static str, format: &'static str },
    #[error("nvfp4 is a block type of ggml; choose --scheme NVFP4_COMFYUI")]
    Nvfp4OfComfyUi,
    #[error("block types of ggml and mixes of llama.cpp are for --format gguf, not {format}")]
    OnlyGguf { format: &'static str },
    #[error("--layout is for --format burn, not {0}")]
    NoLayout(&'static str),
}

impl Target {
    /// A target with a format and no loader.
    pub fn format(container: Container) -> Target {
        Target { loaders: Vec::new(), container }
    }

    /// The target for `loaders`, with the format that all of them open. `source` is the format
    /// of the checkpoint. Without loaders this is the default target.
    pub fn for_loaders(loaders: &[Loader], source: Format) -> Result<Target, TargetError> {
        let mut sorted = loaders.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let opens = |loader: Loader| (loader, loader.container(source));
        let Some(&first) = sorted.first() else { return Ok(Target::default()) };
        let first = opens(first);
        if let Some(other) = sorted.iter().map(|&l| opens(l)).find(|(_, c)| *c != first.1) {
            return Err(TargetError::Disagree(first, other));
        }
        if first.1 == Container::Gguf && source != Format::Gguf {
            return Err(TargetError::NeedsGguf(first.0));
        }
        Ok(Target { loaders: sorted, container: first.1 })
    }

    /// Replaces the format. Fails if the loaders do not open it.
    pub fn with_format(mut self, found: Container) -> Result<Target, TargetError> {
        let expected = self.container;
        let opens_any = found == Container::FakeQuantized;
        match self.loaders.first() {
            Some(&loader) if expected.name() != found.name() && !opens_any => {
                Err(TargetError::WrongFormat { loader, expected, found })
            }
            _ => {
                self.container = found;
                Ok(self)
            }
        }
    }

    /// Replaces the scheme of compressed-tensors. Other formats are left unchanged.
    pub fn with_linear_scheme(mut self, scheme: LinearScheme) -> Target {
        if let Container::CompressedTensors(_) = self.container {
            self.container = Container::CompressedTensors(scheme);
        }
        self
    }

    /// Replaces the scheme of compressed-tensors by the one that `scheme` belongs to. Other formats
    /// are left unchanged.
    pub fn for_scheme(self, scheme: QuantizationScheme) -> Target {
        match scheme {
            QuantizationScheme::PerTensor(..) => self.with_linear_scheme(LinearScheme::W8A8),
            QuantizationScheme::PerBlock(..) => self.with_linear_scheme(LinearScheme::W8A16),
            QuantizationScheme::Preset(_) => self.with_linear_scheme(LinearScheme::Presets),
            _ => self,
        }
    }

    /// The loaders, sorted and without duplicates.
    pub fn loaders(&self) -> &[Loader] {
        &self.loaders
    }

    /// The format that is written.
    pub fn container(&self) -> Container {
        self.container
    }

    /// The format that is written of a checkpoint of the format `source`: if neither a loader nor
    /// a format was chosen, a GGUF becomes a GGUF.
    pub fn container_from(&self, source: Format) -> Container {
        match source {
            Format::Gguf if self.is_default() => Container::Gguf,
            _ => self.container,
        }
    }

    /// Whether neither a loader nor a format was chosen.
    pub fn is_default(&self) -> bool {
        *self == Target::default()
    }
}

impl std::fmt::Display for Target {
    /// `vllm, transformers (compressed-tensors W8A8)`, or the format alone.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.loaders.is_empty() {
            return write!(f, "{}", self.container);
        }
        let names: Vec<_> = self.loaders.iter().map(|loader| loader.name()).collect();
        write!(f, "{} ({})", names.join(", "), self.container)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_agree_on_one_format() {
        let both = Target::for_loaders(&[Loader::Vllm, Loader::Transformers], Format::Safetensors);
        let both = both.expect("both open compressed-tensors");
        assert_eq!(both.to_string(), "transformers, vllm (compressed-tensors W8A8)");
        let error = Target::for_loaders(&[Loader::Vllm, Loader::Burn], Format::Safetensors);
        assert!(error.expect_err("two formats").to_string().contains("one output has one format"));
        let error = Target::for_loaders(&[Loader::Ollama], Format::Safetensors);
        assert_eq!(error, Err(TargetError::NeedsGguf(Loader::Ollama)));
    }

    #[test]
    fn a_format_must_be_one_that_the_loader_opens() {
        let vllm = Target::for_loaders(&[Loader::Vllm], Format::Safetensors).expect("a target");
        let error = vllm.clone().with_format(Container::Burn).expect_err("not vLLM's");
        assert_eq!(error.to_string(), "vLLM opens compressed-tensors, not burn");
        assert!(vllm.with_format(Container::FakeQuantized).is_ok());
    }
}
