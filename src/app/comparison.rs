//! The schemes of one tensor side by side, each with its worst output channel. Includes schemes
//! that are measured but cannot be saved.

use crate::app::job_answer::JobAnswer;
use crate::app::model::Model;
use crate::app::tensor_metrics::{SCHEMES, scheme_name};
use crate::plan::default_calibration;
use crate::quantization::{
    AnalysisSpec, ChannelDetail, Outcome, QuantizationMode, QuantizationScheme, QuantizationType,
    Quantizer,
};
use crate::tensor::TensorId;
use std::borrow::Cow;

/// Types that users compare int8 with, for targets that only store int8.
const MEASURED_ONLY: [(QuantizationScheme, &str); 4] = [
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

/// A row of the comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparedScheme {
    /// The scheme.
    pub scheme: QuantizationScheme,
    /// Its name.
    pub name: Cow<'static, str>,
    /// Whether it can be chosen and saved for the target.
    pub saved: bool,
}

/// The schemes to compare: those of the model and, if the target only stores int8, the types that
/// users compare int8 with.
pub fn compared(model: &Model) -> Vec<ComparedScheme> {
    let target = model.schemes();
    let is_int8 = target.iter().all(|scheme| SCHEMES.contains(scheme));
    let rows = model.scheme_rows().into_iter().map(|scheme| ComparedScheme {
        scheme,
        name: scheme_name(scheme),
        saved: is_int8 || target.contains(&scheme),
    });
    let others = MEASURED_ONLY.map(|(scheme, name)| ComparedScheme {
        scheme,
        name: name.into(),
        saved: false,
    });
    rows.chain(others.into_iter().filter(|_| is_int8)).collect()
}

/// The analysis that compares the schemes of a tensor.
pub(crate) fn comparison(model: &Model) -> AnalysisSpec {
    let calibration = default_calibration(&model.checkpoint);
    let rows = compared(model).into_iter();
    let quantizers = rows.map(|row| Quantizer { calibration, scheme: row.scheme }).collect();
    AnalysisSpec {
        channels: ChannelDetail::Worst,
        scale_storage: model.scale_storage(),
        shared_absmax: model.shared_absmax(),
        ..AnalysisSpec::errors(quantizers, model.plan().rounding)
    }
}

/// The comparison of one tensor's schemes.
#[derive(Debug, Default)]
pub struct ComparisonView {
    outcomes: JobAnswer<TensorId, Vec<Outcome>>,
    /// The scheme that the user moved to, with its tensor.
    chosen: Option<(TensorId, QuantizationScheme)>,
}

impl ComparisonView {
    /// Forgets the tensor.
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

    /// Takes the outcomes of the schemes.
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
