//! The choices of a budget, and llama.cpp's mixes to compare them with.

use crate::checkpoint::Checkpoint;
use crate::plan::IMPORTANCE_SCHEMES;
use crate::plan::budget::{Choice, Curve};
use crate::plan::gguf_baseline::{MixPoint, mix_points};
use crate::plan::gguf_mix::GgufMix;
use crate::plan::target::Container;
use crate::quantization::QuantizationScheme;
use crate::quantization::ggml::Importance;
use crate::tensor::{BlockType, TensorId};
use crate::text::figures;
use crate::text::size::SizeLimit;
use std::collections::HashMap;

/// The curve of a budget and the choices that it consists of.
pub(super) struct BudgetChoices {
    pub curve: Curve,
    /// Bytes of the tensors that have no choice.
    pub fixed: u64,
    /// The choices of each tensor.
    pub options: HashMap<TensorId, Vec<Choice>>,
}

impl BudgetChoices {
    /// Compares llama.cpp's mixes with the curve.
    pub(super) fn mix_points(
        &self,
        checkpoint: &Checkpoint,
        importance: &Importance,
    ) -> Vec<MixPoint> {
        let has_importance = !importance.is_empty();
        mix_points(checkpoint, &self.curve, self.fixed, &self.options, has_importance)
    }
}

/// The block types that a budget chooses from for GGUF.
pub(super) fn gguf_schemes(importance: &Importance) -> Vec<QuantizationScheme> {
    let mut schemes = Container::Gguf.schemes();
    if !importance.is_empty() {
        schemes.extend(IMPORTANCE_SCHEMES);
    }
    schemes
}

/// Returns [`gguf_schemes`] and the types that a mix gives to tensors.
pub(super) fn schemes_with_mix(
    checkpoint: &Checkpoint,
    mix: GgufMix,
    importance: &Importance,
) -> Vec<QuantizationScheme> {
    let mut schemes = gguf_schemes(importance);
    for (_, block) in mix.types(checkpoint, !importance.is_empty()) {
        let scheme = QuantizationScheme::Ggml(block);
        // Q8_0 is in the list already, as int8 in blocks of 32.
        if block != BlockType::Q8_0 && !schemes.contains(&scheme) {
            schemes.push(scheme);
        }
    }
    schemes
}

/// Describes how much of a memory a size keeps in reserve; `None` for other sizes.
pub(super) fn reserve(limit: SizeLimit) -> Option<String> {
    let SizeLimit::Memory { bytes, reserve } = limit else { return None };
    let (bytes, reserve) = (figures::bytes(bytes), figures::bytes(reserve));
    Some(format!("of {bytes} of memory, {reserve} are kept in reserve for the context and buffers"))
}
