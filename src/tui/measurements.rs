//! The analysis specs of the inspector's scans, and jobs that consist of more than one scan.

use crate::app::names;
use crate::app::outputs::{Outputs, OutputsEvent};
use crate::app::tensor_metrics::SCHEMES;
use crate::checkpoint::Checkpoint;
use crate::demo;
use crate::job::diff::Compared;
use crate::job::{Progress, diff, output};
use crate::plan::default_calibration;
use crate::quantization::{
    AnalysisSpec, Calibration, QuantizationScheme, Quantizer, Rounding, ScaleStorage,
};
use crate::tensor::TensorId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The spec of the calibration: the error of each scheme with min-max calibration, and with the
/// model's default calibration if that is another one.
pub(super) fn calibration_spec(
    schemes: &[QuantizationScheme],
    usual: Calibration,
    scale_storage: ScaleStorage,
) -> AnalysisSpec {
    AnalysisSpec {
        // Histograms are counted once, in the round that has the per-tensor scheme.
        histogram: schemes.contains(&QuantizationScheme::PER_TENSOR),
        scale_storage,
        ..AnalysisSpec::errors(quantizers(schemes, usual), Rounding::default())
    }
}

/// The spec that computes only the histogram.
pub(super) fn histogram_spec() -> AnalysisSpec {
    let nothing = AnalysisSpec::scales(Vec::new(), Rounding::default());
    AnalysisSpec { histogram: true, ..nothing }
}

fn quantizers(schemes: &[QuantizationScheme], usual: Calibration) -> Vec<Quantizer> {
    let other = (usual != Calibration::MinMax).then_some(usual);
    let calibrations = std::iter::once(Calibration::MinMax).chain(other);
    calibrations
        .flat_map(|calibration| {
            schemes.iter().map(move |&scheme| Quantizer { calibration, scheme })
        })
        .collect()
}

/// Groups tensors by quantizer, so that one scan measures all tensors with the same quantizer.
pub(super) fn group_by_quantizer(
    marks: Vec<(TensorId, Quantizer)>,
) -> Vec<(Quantizer, Vec<TensorId>)> {
    let mut groups: Vec<(Quantizer, Vec<TensorId>)> = Vec::new();
    for (id, quantizer) in marks {
        match groups.iter_mut().find(|(other, _)| *other == quantizer) {
            Some((_, tensors)) => tensors.push(id),
            None => groups.push((quantizer, vec![id])),
        }
    }
    groups
}

/// Opens the checkpoint at `path` and compares `checkpoint` with it.
pub(super) fn compare(
    checkpoint: &Checkpoint,
    path: &Path,
    threads: Option<usize>,
    progress: &Progress,
) -> Result<Vec<Compared>, String> {
    let other = demo::open_model(path).map_err(|error| error.to_string())?;
    diff::run(checkpoint, &other, threads, progress).map_err(|error| error.to_string())
}

/// Opens captured activations and measures the output error of each recorded layer under every
/// scheme. Reports each layer to `report` when it is done.
pub(super) fn measure_outputs(
    checkpoint: &Checkpoint,
    files: Vec<PathBuf>,
    scale_storage: ScaleStorage,
    threads: Option<usize>,
    progress: &Progress,
    report: &(dyn Fn(OutputsEvent) + Sync),
) {
    let captures = match demo::open_activations(&files, checkpoint) {
        Ok(captures) => Arc::new(captures),
        Err(error) => return report(OutputsEvent::Ended(Err(error.to_string()))),
    };
    let first = captures.unmatched().first().map(|(_, name)| names::visible(name).into_owned());
    let importance = captures.importance(checkpoint);
    report(OutputsEvent::Opened(Outputs {
        files,
        activations: Some(captures.clone()),
        importance: importance.clone(),
        recorded: captures.tensors().collect(),
        found: BTreeMap::new(),
        unmatched: (captures.unmatched().len(), first.unwrap_or_default()),
    }));
    let request = output::Request {
        tensors: captures.tensors().collect(),
        quantizers: quantizers(&SCHEMES, default_calibration(checkpoint)),
        rounding: Rounding::default(),
        scale_storage,
        calibration: Calibration::MinMax,
        importance,
    };
    let report_layer = |(id, result): output::Finding| {
        report(OutputsEvent::Found(id, result.map_err(|error| error.to_string())));
    };
    let ended = output::run(checkpoint, &captures, &request, threads, progress, &report_layer);
    report(OutputsEvent::Ended(ended.map_err(|stopped| stopped.to_string())));
}
