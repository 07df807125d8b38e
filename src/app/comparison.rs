//! The schemes of one tensor side by side, each with its worst output channel. Includes schemes
//! that are measured but cannot be saved.

use crate::app::job_answer::JobAnswer;
use crate::app::tensor_metrics::SCHEMES;
use crate::quantization::{
    AnalysisSpec, Calibration, ChannelDetail, Outcome, QuantizationMode, QuantizationScheme,
    QuantizationType, Quantizer, Rounding,
};
use crate::tensor::TensorId;

/// Schemes that users compare int8 with; no output format holds them.
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

/// The analysis that compares the schemes of a tensor.
pub fn comparison(calibration: Calibration, rounding: Rounding) -> AnalysisSpec {
    let further = MEASURED_ONLY.iter().map(|(scheme, _)| *scheme);
    let schemes = SCHEMES.into_iter().chain(further);
    let quantizer = |scheme| Quantizer { calibration, scheme };
    let spec = AnalysisSpec::errors(schemes.map(quantizer).collect(), rounding);
    AnalysisSpec { channels: ChannelDetail::Worst, ..spec }
}

/// The comparison of one tensor's schemes.
#[derive(Debug, Default)]
pub struct ComparisonView {
    outcomes: JobAnswer<TensorId, Vec<Outcome>>,
    /// The scheme that the user moved to, and the tensor for which.
    chosen: Option<(TensorId, QuantizationScheme)>,
}

impl ComparisonView {
    pub fn clear(&mut self) {
        self.outcomes.clear();
    }

    /// Puts the cursor on a scheme of a tensor.
    pub fn choose(&mut self, id: TensorId, scheme: QuantizationScheme) {
        self.chosen = Some((id, scheme));
    }

    /// The scheme that the user moved to.
    pub fn chosen(&self, id: TensorId) -> Option<QuantizationScheme> {
        self.chosen.filter(|(tensor, _)| *tensor == id).map(|(_, scheme)| scheme)
    }

    /// The tensor to measure now, if it has to be.
    pub fn request(&mut self, id: TensorId) -> Option<TensorId> {
        self.outcomes.request(id)
    }

    pub fn receive(&mut self, id: TensorId, found: Result<Vec<Outcome>, String>) {
        self.outcomes.receive(id, found);
    }

    /// The outcome of a scheme, once it is measured.
    pub fn outcome(&self, id: TensorId, scheme: QuantizationScheme) -> Option<&Outcome> {
        let outcomes = self.outcomes.answer(|tensor| *tensor == id)?.ok()?;
        outcomes.iter().find(|outcome| outcome.quantizer.scheme == scheme)
    }

    /// Why the tensor could not be measured.
    pub fn failure(&self, id: TensorId) -> Option<&str> {
        self.outcomes.answer(|tensor| *tensor == id)?.err()
    }
}
