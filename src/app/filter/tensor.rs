//! A tensor of the model as filters see it.

use crate::activations::ActivationMode;
use crate::app::filter::term::{Metric, Property, Subject};
use crate::app::model::Model;
use crate::app::tensor_metrics::{Measurement, Sqnr};
use crate::plan::Obstacle;
use crate::plan::rules::Reason;
use crate::quantization::{Diagnostic, Rating};
use crate::tensor::TensorId;

pub(crate) struct TensorSubject<'m> {
    /// The model.
    pub model: &'m Model,
    /// The tensor.
    pub id: TensorId,
}

impl Subject for TensorSubject<'_> {
    fn name(&self) -> &str {
        &self.model.checkpoint.tensor(self.id).name
    }

    fn index(&self) -> Option<usize> {
        Some(self.id.index())
    }

    fn metric(&self, metric: Metric) -> Option<f64> {
        let (model, id) = (self.model, self.id);
        let tensor = model.checkpoint.tensor(id);
        match metric {
            Metric::Size => Some(tensor.bytes as f64),
            Metric::Parameters => Some(tensor.parameters() as f64),
            Metric::Sqnr => model.sqnr(id).decibels(),
            Metric::Output => model.output(id).and_then(|error| error.db(ActivationMode::Weights)),
            Metric::Absmax => {
                model.measurement(id).metrics().map(|metrics| metrics.statistics.absmax)
            }
        }
    }

    fn dtype_begins(&self, wanted: &str) -> bool {
        let packed = self.model.checkpoint.packed_format(self.id);
        begins(self.model.checkpoint.tensor(self.id).dtype.name(), wanted)
            || packed.is_some_and(|layout| begins(&layout.name(), wanted))
    }

    fn is(&self, property: Property) -> bool {
        let (model, id) = (self.model, self.id);
        let flagged = |fits: fn(&Diagnostic) -> bool| {
            model.measurement(id).metrics().is_some_and(|metrics| metrics.flags.iter().any(fits))
        };
        let rating = |rating| model.rating(id) == Some(rating);
        match property {
            Property::Marked => model.is_marked(id),
            Property::Quantizable => model.quantizable(id),
            Property::Quantized => model.checkpoint.packed_format(id).is_some(),
            Property::Float => model.checkpoint.float_type(id).is_some(),
            Property::Flagged => flagged(|_| true),
            Property::Nan => flagged(|flag| matches!(flag, Diagnostic::Nan { .. })),
            Property::Inf => flagged(|flag| matches!(flag, Diagnostic::Inf { .. })),
            Property::Zero => flagged(|flag| matches!(flag, Diagnostic::Zero)),
            Property::Constant => flagged(|flag| matches!(flag, Diagnostic::Constant(_))),
            Property::Underflow => flagged(|flag| matches!(flag, Diagnostic::Underflow)),
            Property::BeyondF16 => flagged(|flag| matches!(flag, Diagnostic::BeyondF16 { .. })),
            Property::Outlier => flagged(|flag| matches!(flag, Diagnostic::OutlierChannel { .. })),
            Property::Duplicate => flagged(|flag| matches!(flag, Diagnostic::Duplicate(_))),
            Property::Dead => flagged(|flag| matches!(flag, Diagnostic::DeadChannels(_))),
            Property::NoScale => model.sqnr(id) == Sqnr::Impossible,
            Property::Unreadable => matches!(model.measurement(id), Measurement::Unreadable(_)),
            Property::Waiting => model.sqnr(id) == Sqnr::Waiting,
            Property::Poor => rating(Rating::Poor),
            Property::Fair => rating(Rating::Fair),
            Property::Good => rating(Rating::Good),
            Property::Excellent => rating(Rating::Excellent),
            Property::Norm => matches!(model.obstacle(id), Some(Obstacle::Norm)),
            Property::Embedding => matches!(
                model.reason(id),
                Some(
                    Reason::Obstacle(Obstacle::Embedding)
                        | Reason::LookupTable
                        | Reason::VocabularyTable(_)
                )
            ),
            // Only rows of a comparison are in these states.
            Property::Changed
            | Property::Identical
            | Property::Added
            | Property::Removed
            | Property::Reshaped => false,
        }
    }
}

/// Whether a name begins with a text in lower case, whatever its own case.
pub(crate) fn begins(name: &str, wanted: &str) -> bool {
    if name.is_ascii() {
        let start = name.as_bytes().get(..wanted.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(wanted.as_bytes()))
    } else {
        name.to_lowercase().starts_with(wanted)
    }
}
