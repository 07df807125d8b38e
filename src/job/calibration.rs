//! Computes the scales that must be known before elements can be quantized.

use super::{JobError, Progress, lock, scan};
use crate::checkpoint::Checkpoint;
use crate::export::{KnownScales, SaveError};
use crate::quantization::{AnalysisSpec, Preset, Quantizer, Rounding};
use crate::tensor::TensorId;
use std::sync::{Mutex, PoisonError};

/// Computes the unknown scales that are needed before elements can be quantized. Calls `found` for
/// each tensor.
pub(super) fn calibrate(
    checkpoint: &Checkpoint,
    wanted: impl Iterator<Item = (TensorId, Quantizer, Rounding)>,
    known: &mut KnownScales,
    threads: Option<usize>,
    progress: &Progress,
    found: &(dyn Fn(TensorId, &[f32]) + Sync),
) -> Result<(), JobError> {
    let report = found;
    let mut by_quantizer: Vec<((Quantizer, Rounding), Vec<TensorId>)> = Vec::new();
    for (id, quantizer, rounding) in wanted.filter(|(id, ..)| !known.contains_key(id)) {
        match by_quantizer.iter_mut().find(|(key, _)| *key == (quantizer, rounding)) {
            Some((_, ids)) => ids.push(id),
            None => by_quantizer.push(((quantizer, rounding), vec![id])),
        }
    }
    let calibrated = Mutex::new(known);
    let failed: Mutex<Option<SaveError>> = Mutex::new(None);
    for ((quantizer, rounding), ids) in by_quantizer {
        progress.expect(scan::float_bytes(checkpoint, ids.iter().copied()));
        let spec =
            AnalysisSpec { keep_scales: true, ..AnalysisSpec::scales(vec![quantizer], rounding) };
        let order = scan::Order::new(ids);
        scan::run(checkpoint, &spec, &order, threads, progress, &|(id, found)| {
            let scales = found.map_err(SaveError::from).and_then(|analysis| {
                let absmax = analysis.range.absmax() as f32;
                let has_global = quantizer.scheme.preset().is_some_and(Preset::has_global_scale);
                let result = analysis.outcomes.into_iter().next().map(|o| o.result);
                match result {
                    // Only its largest magnitude is needed.
                    Some(Ok(_)) if has_global => Ok(vec![absmax]),
                    Some(Ok(quantized)) => Ok(quantized.scales.all.unwrap_or_default()),
                    Some(Err(why)) => Err(SaveError::NotQuantizable {
                        path: checkpoint.path().to_owned(),
                        tensor: checkpoint.tensor(id).name.to_string(),
                        why,
                    }),
                    None => Ok(Vec::new()),
                }
            });
            match scales {
                Ok(scales) => {
                    report(id, &scales);
                    lock(&calibrated).insert(id, scales);
                }
                Err(error) => _ = lock(&failed).get_or_insert(error),
            }
        })?;
    }
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}
