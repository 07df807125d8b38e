//! The schemes side by side, of one tensor: also those that are measured and not saved,
//! and each with its worst output channel.

use super::tensor_metrics::SCHEMES;
use crate::quantization::{
    AnalysisSpec, Calibration, ChannelDetail, Outcome, QuantizationMode, QuantizationScheme,
    QuantizationType, Quantizer, Rounding,
};
use crate::tensor::TensorId;

/// Types that users compare int8 with; no format holds them.
pub const MEASURED_ONLY: [(QuantizationScheme, &str); 4] = [
    (
        QuantizationScheme::PerChannel(QuantizationMode::Symmetric, QuantizationType::F8E4M3),
        "fp8 channel",
    ),
    (
        QuantizationScheme::PerTensor(QuantizationMode::Symmetric, QuantizationType::F8E4M3),
        "fp8 tensor",
    ),
    (
        QuantizationScheme::PerBlock(QuantizationMode::Symmetric, QuantizationType::QInt4, 32),
        "int4 bl. 32",
    ),
    (
        QuantizationScheme::PerChannel(QuantizationMode::Symmetric, QuantizationType::QInt4),
        "int4 channel",
    ),
];

/// What the comparison of one tensor asks.
pub fn comparison(calibration: Calibration, rounding: Rounding) -> AnalysisSpec {
    let further = MEASURED_ONLY.iter().map(|(scheme, _)| *scheme);
    let schemes = SCHEMES.into_iter().chain(further);
    let quantizer = |scheme| Quantizer { calibration, scheme };
    let questions = AnalysisSpec::errors(schemes.map(quantizer).collect(), rounding);
    AnalysisSpec { channels: ChannelDetail::Worst, ..questions }
}

/// The comparison that was asked for last.
#[derive(Debug, Default)]
pub struct ComparisonView {
    asked: Option<TensorId>,
    found: Option<(TensorId, Result<Vec<Outcome>, String>)>,
}

impl ComparisonView {
    pub fn forget(&mut self) {
        *self = ComparisonView::default();
    }

    /// Whether the tensor's comparison has to be made; said once.
    pub fn wants(&mut self, id: TensorId) -> bool {
        let known = self.found.as_ref().map(|(tensor, _)| *tensor);
        if known == Some(id) || self.asked == Some(id) {
            return false;
        }
        self.asked = Some(id);
        true
    }

    pub fn take(&mut self, id: TensorId, found: Result<Vec<Outcome>, String>) {
        if self.asked == Some(id) {
            self.asked = None;
            self.found = Some((id, found));
        }
    }

    /// What a scheme makes of the tensor, once it is known.
    pub fn outcome(&self, id: TensorId, scheme: QuantizationScheme) -> Option<&Outcome> {
        let (tensor, found) = self.found.as_ref()?;
        let outcomes = found.as_ref().ok().filter(|_| *tensor == id)?;
        outcomes.iter().find(|outcome| outcome.quantizer.scheme == scheme)
    }

    /// Why there is none.
    pub fn failure(&self, id: TensorId) -> Option<&str> {
        let (tensor, found) = self.found.as_ref()?;
        found.as_ref().err().filter(|_| *tensor == id).map(String::as_str)
    }
}
