//! What to compute of a tensor.

use crate::quantization::analysis::channel_losses::ChannelDetail;
use crate::quantization::quantizer::Quantizer;
use crate::quantization::scheme::Rounding;

/// How much to compute of what quantization loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorDetail {
    /// Nothing: only ranges and scales.
    None,
    /// Signal and noise power, which is what SQNR needs and cheaper than everything.
    Loss,
    /// Everything in [`ErrorSums`](crate::quantization::ErrorSums).
    Full,
}

/// What to compute of every tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct AnalysisSpec {
    /// The quantizers to evaluate; an analysis has one outcome for each.
    pub quantizers: Vec<Quantizer>,
    pub rounding: Rounding,
    /// What to compute of the errors. Moments are computed unless it is
    /// [`ErrorDetail::None`].
    pub errors: ErrorDetail,
    /// Whether to keep every scale instead of only their number and range.
    pub keep_scales: bool,
    /// Whether to count how often each value occurs.
    pub histogram: bool,
    /// What to compute of the losses of single output channels.
    pub channels: ChannelDetail,
}

impl AnalysisSpec {
    /// Computes ranges and scales; the scales are summarized, not kept.
    pub fn scales(quantizers: Vec<Quantizer>, rounding: Rounding) -> AnalysisSpec {
        AnalysisSpec {
            quantizers,
            rounding,
            errors: ErrorDetail::None,
            keep_scales: false,
            histogram: false,
            channels: ChannelDetail::None,
        }
    }

    /// Computes ranges, scales, moments and all error statistics.
    pub fn errors(quantizers: Vec<Quantizer>, rounding: Rounding) -> AnalysisSpec {
        AnalysisSpec { errors: ErrorDetail::Full, ..AnalysisSpec::scales(quantizers, rounding) }
    }

    /// Whether errors and moments are computed.
    pub(super) fn has_errors(&self) -> bool {
        self.errors != ErrorDetail::None
    }

    /// What to compute of channels: nothing where no errors are.
    pub(super) fn channel_detail(&self) -> ChannelDetail {
        match self.errors {
            ErrorDetail::None => ChannelDetail::None,
            ErrorDetail::Loss | ErrorDetail::Full => self.channels,
        }
    }
}
