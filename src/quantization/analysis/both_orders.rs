//! Analysing a tensor whose output channels are not contiguous.
//!
//! What depends on output channels is computed from the elements in channel-major order, as if
//! the tensor were stored with the axes of its output channels first. Everything else is
//! computed in storage order.

use crate::quantization::analysis::channel_losses::ChannelDetail;
use crate::quantization::analysis::results::{Analysis, Outcome};
use crate::quantization::analysis::spec::AnalysisSpec;
use crate::quantization::quantizer::{NotQuantizable, Quantizer};
use crate::quantization::scheme::QuantizationScheme;

/// A spec divided by the order of the elements that its parts need.
#[derive(Clone, Debug)]
pub(crate) struct BothOrders {
    /// The quantizers of the whole spec.
    quantizers: Vec<Quantizer>,
    /// What is computed in storage order.
    pub stored: AnalysisSpec,
    /// What is computed in channel-major order.
    pub channel_major: AnalysisSpec,
}

fn is_by_channel(quantizer: &Quantizer) -> bool {
    matches!(quantizer.scheme, QuantizationScheme::PerChannel(..))
}

/// Returns whether a quantizer has one scale, so that losses of channels can be measured in
/// channel-major order.
fn has_one_scale(quantizer: &Quantizer) -> bool {
    matches!(quantizer.scheme, QuantizationScheme::PerTensor(..))
}

impl BothOrders {
    /// Divides a spec; `None` if storage order will do for any tensor.
    pub(crate) fn new(spec: &AnalysisSpec) -> Option<BothOrders> {
        let all = spec.quantizers.iter().copied();
        let needs_channels = spec.channel_detail() != ChannelDetail::None;
        let in_channels: Vec<Quantizer> = all
            .clone()
            .filter(|q| is_by_channel(q) || needs_channels && has_one_scale(q))
            .collect();
        if in_channels.is_empty() && !needs_channels {
            return None;
        }
        let stored = AnalysisSpec {
            quantizers: all.filter(|q| !is_by_channel(q)).collect(),
            channels: ChannelDetail::None,
            ..spec.clone()
        };
        let channel_major =
            AnalysisSpec { quantizers: in_channels, histogram: false, ..spec.clone() };
        Some(BothOrders { quantizers: spec.quantizers.clone(), stored, channel_major })
    }

    /// The analysis of the whole spec.
    pub(crate) fn join(&self, stored: Analysis, channel_major: Analysis) -> Analysis {
        let Analysis { range, statistics, outcomes, histogram } = stored;
        let mut stored = outcomes.into_iter();
        let mut in_channels = channel_major.outcomes.into_iter();
        let outcomes = self.quantizers.iter().filter_map(|quantizer| {
            if is_by_channel(quantizer) {
                let Outcome { quantizer, result } = in_channels.next()?;
                // The index of the first element that is not finite counts in storage order.
                return Some(Outcome {
                    quantizer,
                    result: NotQuantizable::check(&range).and(result),
                });
            }
            let mut outcome = stored.next()?;
            if self.channel_major.channel_detail() != ChannelDetail::None
                && has_one_scale(quantizer)
            {
                let with_channels = in_channels.next().and_then(|other| other.result.ok());
                if let (Ok(found), Some(other)) = (&mut outcome.result, with_channels) {
                    found.channels = other.channels;
                }
            }
            Some(outcome)
        });
        let outcomes = outcomes.collect();
        Analysis { range, statistics, outcomes, histogram }
    }
}
