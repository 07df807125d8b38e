//! Block types of ggml: llama.cpp's mixes, and tensors that become F16.

use crate::checkpoint::Checkpoint;
use crate::cli::budget_choices::schemes_with_mix;
use crate::cli::error::{Error, UsageError};
use crate::cli::quantize::args::Quantize;
use crate::export::OutputFormat;
use crate::plan::gguf_baseline::MixPoint;
use crate::plan::gguf_mix::{GgufMix, becomes_f16, f16_mark};
use crate::plan::rules::TargetRules;
use crate::plan::target::Container;
use crate::plan::{Plan, SelectionError};
use crate::quantization::ggml::{Importance, ImportanceUse, importance_use};
use crate::quantization::{Calibration, ErrorDetail, QuantizationScheme, Quantizer};
use crate::tensor::TensorId;
use std::sync::Arc;

impl Quantize {
    /// The types that a mix of llama.cpp gives the selected tensors.
    pub(super) fn mix(
        &self,
        checkpoint: &Checkpoint,
        mix: GgufMix,
        tensors: &[TensorId],
        importance: &Importance,
    ) -> Result<Plan, Error> {
        let refuse = |why: String| Error::from(UsageError::options(checkpoint.path(), why));
        if self.has_budget() {
            return Err(refuse(format!(
                "{mix} fixes the types; --max-bytes and --min-sqnr choose them"
            )));
        }
        let mut plan = Plan::new(self.rounding.rounding);
        plan.mix = Some(mix);
        for (id, block) in mix.types(checkpoint, !importance.is_empty()) {
            if !tensors.contains(&id) {
                continue;
            }
            let needs_it = importance_use(block) == Some(ImportanceUse::Required);
            if needs_it && importance.get(id).is_none() {
                let name = checkpoint.tensor(id).name.escape_debug();
                let what = if importance.is_empty() {
                    "needs an importance matrix: name one with --activations"
                } else {
                    "needs importance, which --activations do not have for it"
                };
                return Err(refuse(format!("{mix} makes tensor '{name}' {block}, which {what}")));
            }
            let (calibration, scheme) = (Calibration::MinMax, QuantizationScheme::Ggml(block));
            plan.mark(id, Quantizer { calibration, scheme });
        }
        mark_f16(checkpoint, tensors, &mut plan);
        if plan.is_empty() {
            let path = checkpoint.path().to_owned();
            Err(SelectionError::Nothing { path, excluded: false }.into())
        } else {
            Ok(plan)
        }
    }

    /// Compares the mix with the curve over all types that a budget chooses from.
    pub(super) fn compare_mix(
        &self,
        checkpoint: &Arc<Checkpoint>,
        mix: GgufMix,
        rules: &TargetRules,
        importance: &Importance,
    ) -> Result<Vec<MixPoint>, Error> {
        let (format, detail) = (OutputFormat::Gguf, ErrorDetail::Full);
        let by_default = |id: &TensorId| rules.reason(checkpoint, *id).is_none();
        let tensors: Vec<TensorId> = checkpoint.ids().filter(by_default).collect();
        let schemes = schemes_with_mix(checkpoint, mix, importance);
        let mut outcomes =
            self.measure(checkpoint, format, tensors.clone(), schemes, detail, importance)?;
        outcomes.retain(|(_, found)| found.iter().all(|outcome| outcome.result.is_ok()));
        outcomes.sort_by_key(|(id, _)| *id);
        let choices = self.choices(checkpoint, format, rules, &outcomes, &tensors)?;
        let mut points = choices.mix_points(checkpoint, importance);
        points.retain(|point| point.mix == mix);
        Ok(points)
    }
}

/// The bytes that tensors lose which llama.cpp stores as F16.
pub(super) fn saved_by_f16(checkpoint: &Checkpoint, tensors: &[TensorId]) -> u64 {
    let halves = tensors.iter().filter(|&&id| becomes_f16(checkpoint, id));
    let sizes = halves.map(|&id| {
        let tensor = checkpoint.tensor(id);
        tensor.bytes.saturating_sub(Container::Gguf.bytes(f16_mark().scheme, tensor))
    });
    sizes.sum()
}

/// Marks the tensors that llama.cpp stores as F16 since no block divides their rows.
pub(super) fn mark_f16(checkpoint: &Checkpoint, tensors: &[TensorId], plan: &mut Plan) {
    for &id in tensors.iter().filter(|&&id| becomes_f16(checkpoint, id)) {
        plan.mark(id, f16_mark());
    }
}
