//! `quantize --dry-run`: what a save would write, measured without writing it.

use crate::checkpoint::Checkpoint;
use crate::cli::error::Error;
use crate::cli::options::WorkArgs;
use crate::cli::scan::Scan;
use crate::export::{Comparison, OutputPlan, Receipt, Request, Task, VerifiedAgainst};
use crate::plan::gguf_mix::becomes_f16_in;
use crate::quantization::{AnalysisSpec, Quantizer};
use std::sync::Arc;
use std::time::Duration;

/// The receipt that a save of `request` would have, with predicted errors. Reads the marked
/// tensors and writes nothing.
pub(super) fn predict(
    checkpoint: &Arc<Checkpoint>,
    request: &Request,
    work: &WorkArgs,
) -> Result<Receipt, Error> {
    let output_plan = OutputPlan::new(checkpoint, request)?;
    let (mut quantized, mut halves) = (Vec::new(), 0);
    if let Task::Quantize { plan, format } = &request.task {
        // A tensor that becomes F16 is not quantized.
        let is_quantized = |id| !becomes_f16_in(format.container(), checkpoint, id);
        let marked: Vec<_> = plan.iter().filter(|(id, _)| is_quantized(*id)).collect();
        halves = plan.len() - marked.len();
        let mut distinct: Vec<Quantizer> = Vec::new();
        for (_, quantizer) in &marked {
            if !distinct.contains(quantizer) {
                distinct.push(*quantizer);
            }
        }
        let spec = AnalysisSpec {
            scale_storage: format.scale_storage(),
            importance: plan.importance.clone(),
            ..AnalysisSpec::errors(distinct, plan.rounding)
        };
        let ids = marked.iter().map(|(id, _)| *id).collect();
        for found in Scan::start(checkpoint, ids, spec, "predicting", work, None)? {
            let (id, found) = found?;
            let Some(analysis) = found.transpose()? else { continue };
            let wanted = plan.get(id);
            let mut outcomes = analysis.outcomes.iter();
            let outcome = outcomes.find(|outcome| Some(outcome.quantizer) == wanted);
            let error = outcome.and_then(|outcome| outcome.result.as_ref().ok()?.error);
            quantized.extend(wanted.zip(error).map(|(quantizer, error)| Comparison {
                tensor: checkpoint.tensor(id).name.to_string(),
                scheme: quantizer.scheme.to_string(),
                on_disk: error.statistics(),
                output: None,
            }));
        }
    }
    Ok(Receipt {
        out: request.out.clone(),
        files: output_plan.files.len(),
        before: checkpoint.total_bytes(),
        written: output_plan.bytes(),
        unchanged: checkpoint.tensors().len().saturating_sub(quantized.len() + halves),
        quantized,
        dequantized: 0,
        texts: output_plan.texts.len(),
        sidecar_files: output_plan.sidecar_files.len(),
        left_out: output_plan.left_out,
        against: VerifiedAgainst::Source,
        resumed: 0,
        warnings: output_plan.warnings,
        elapsed: Duration::ZERO,
    })
}
