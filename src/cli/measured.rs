//! A tensor with its analysis, for the output of `analyze`.

use super::duplicates::Duplicates;
use super::listing::Row;
use super::scan::ScanResult;
use crate::checkpoint::Checkpoint;
use crate::quantization::{
    Diagnostic, ErrorStatistics, NotQuantizable, Quantized, Statistics, diagnostics,
};
use crate::tensor::TensorId;
use crate::text::names;
use std::fmt::Write as _;

/// A tensor and the result of its analysis.
pub(super) struct Measured {
    pub id: TensorId,
    /// The sort key: the SQNR in dB. Tensors without a scale come first, exact ones and then those
    /// without an SQNR last.
    pub rank: f64,
    pub found: Option<ScanResult>,
}

/// The cell `quantizable`: whether the tensor can be quantized, and its diagnostics.
pub(super) fn note(
    row: &Row,
    duplicates: &Duplicates,
    checkpoint: &Checkpoint,
    id: TensorId,
) -> String {
    let mut note = row.quantizable().into_owned();
    let odd =
        row.analysis.map(|analysis| diagnostics(&row.tensor.dtype, analysis)).unwrap_or_default();
    for flag in odd {
        // NaN and infinities are given as the reason already.
        if !matches!(flag, Diagnostic::Nan { .. } | Diagnostic::Inf { .. }) {
            let _ = write!(note, "; {flag}");
        }
    }
    if let Some(trained) = row.trained() {
        let _ = write!(note, "; {trained}");
    }
    if let Some(first) = duplicates.of(checkpoint, id) {
        let _ = write!(note, "; the same bytes as {}", names::visible(first));
    }
    note
}

impl Measured {
    /// The SQNR in dB for the first quantizer; `None` if it could not be measured.
    pub(super) fn sqnr_db(&self) -> Option<f64> {
        Some(quantized(&self.found)?.loss()?.sqnr_db())
    }

    /// The result of quantizer number `place`; `None` if the tensor cannot be quantized.
    pub(super) fn quantized(&self, place: usize) -> Option<&Quantized> {
        let analysis = self.found.as_ref()?.as_ref().ok()?;
        analysis.outcomes.get(place)?.result.as_ref().ok()
    }

    pub(super) fn statistics(&self) -> Option<&Statistics> {
        self.found.as_ref()?.as_ref().ok()?.statistics.as_ref()
    }
}

pub(super) fn rank(found: &Option<ScanResult>) -> f64 {
    // Tensors without a scale come first, as on the screen.
    let analysis = found.as_ref().and_then(|found| found.as_ref().ok());
    let first = analysis.and_then(|analysis| analysis.outcomes.first());
    let refusal = first.and_then(|outcome| outcome.result.as_ref().err());
    if matches!(
        refusal,
        Some(NotQuantizable::NonFinite { .. } | NotQuantizable::ScaleOverflow { .. })
    ) {
        return f64::NEG_INFINITY;
    }
    let quantized = quantized(found);
    let loss = quantized.and_then(|quantized| quantized.loss());
    loss.map_or(f64::INFINITY, |loss| loss.sqnr_db().min(f64::MAX))
}

pub(super) fn quantized(found: &Option<ScanResult>) -> Option<&Quantized> {
    let analysis = found.as_ref()?.as_ref().ok()?;
    analysis.outcomes.first()?.result.as_ref().ok()
}

pub(super) fn statistics(found: &Option<ScanResult>) -> Option<ErrorStatistics> {
    quantized(found)?.error.map(|sums| sums.statistics())
}
