//! The results of analysing a tensor.

use crate::quantization::analysis::channel_losses::ChannelLosses;
use crate::quantization::analysis::spec::{AnalysisSpec, ErrorDetail};
use crate::quantization::loss::Loss;
use crate::quantization::quantizer::{NotQuantizable, Quantizer};
use crate::quantization::scales::Scales;
use crate::quantization::statistics::{ErrorSums, Range, Statistics};
use crate::quantization::value_histogram::ValueHistogram;

/// Everything measured of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Analysis {
    /// Range and non-finite elements.
    pub range: Range,
    /// `None` if the spec does not include errors.
    pub statistics: Option<Statistics>,
    /// One for each quantizer of the spec, in the same order.
    pub outcomes: Vec<Outcome>,
    /// `None` unless the spec includes it.
    pub histogram: Option<ValueHistogram>,
}

/// The result of one quantizer on one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The quantizer that was used: [`Calibration::Learned`] is replaced by min-max where no
    /// learned scales fit the scheme.
    ///
    /// [`Calibration::Learned`]: crate::quantization::Calibration::Learned
    pub quantizer: Quantizer,
    /// The scales and errors, or why the tensor cannot be quantized.
    pub result: Result<Quantized, NotQuantizable>,
}

/// The scales and errors of a quantized tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// The scales.
    pub scales: Scales,
    /// Present for [`ErrorDetail::Full`].
    pub error: Option<ErrorSums>,
    /// Present for [`ErrorDetail::Loss`].
    pub loss: Option<Loss>,
    /// The loss with each element weighted by its importance: present for ggml's block types if the
    /// importance is known and errors are computed.
    pub weighted: Option<Loss>,
    /// `None` unless the spec includes channels or the tensor holds the experts of a layer, and
    /// for results computed from a histogram.
    pub channels: Option<ChannelLosses>,
}

impl Quantized {
    /// The result for no elements yet.
    pub(super) fn empty(spec: &AnalysisSpec) -> Quantized {
        Quantized {
            scales: Scales::new(spec.keep_scales),
            error: (spec.errors == ErrorDetail::Full).then(ErrorSums::default),
            loss: (spec.errors == ErrorDetail::Loss).then(Loss::default),
            weighted: None,
            channels: None,
        }
    }

    /// Signal and noise power; `None` if no errors were computed.
    pub fn loss(&self) -> Option<Loss> {
        self.loss.or_else(|| self.error.as_ref().map(Loss::from))
    }

    /// The loss of each expert, in order; empty unless the tensor holds the experts of a layer.
    pub fn experts(&self) -> &[Loss] {
        self.channels.as_ref().map_or(&[], ChannelLosses::experts)
    }

    /// Adds the errors of further elements.
    pub(super) fn add(&mut self, sums: &ErrorSums) {
        if let Some(error) = &mut self.error {
            error.merge(sums);
        }
        if let Some(loss) = &mut self.loss {
            loss.merge(&sums.into());
        }
    }

    /// Adds the loss of further elements.
    pub(super) fn add_loss(&mut self, next: &Loss) {
        if let Some(loss) = &mut self.loss {
            loss.merge(next);
        }
    }

    /// Appends the scales and adds the errors of the groups that follow; their channels are
    /// left out.
    pub(super) fn append(&mut self, next: Quantized) {
        self.scales.append(next.scales);
        if let (Some(sums), Some(next)) = (&mut self.error, &next.error) {
            sums.merge(next);
        }
        if let (Some(loss), Some(next)) = (&mut self.loss, &next.loss) {
            loss.merge(next);
        }
        if let Some(next) = &next.weighted {
            self.weighted.get_or_insert_default().merge(next);
        }
    }
}
