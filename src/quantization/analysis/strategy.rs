//! How the outcome of each quantizer is computed.

use crate::quantization::analysis::spec::AnalysisSpec;
use crate::quantization::analysis::tensor_quantizer::TensorQuantizer;
use crate::quantization::chunks::Chunks;
use crate::tensor::FloatType;

/// Bytes of a tensor that can be kept in memory between passes: a worker's share of a
/// processor's last-level cache. A second pass over more takes as long as reading it again.
pub(crate) const MAX_KEPT_BYTES: u64 = 12 << 20;

/// How the outcome of one quantizer is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// No group spans chunks, so the first pass calibrates and measures it.
    SinglePass,
    /// One scale, computed from the exact histogram that the first pass fills.
    FromHistogram,
    /// Groups span chunks: the first pass finds their ranges, further passes their clips and
    /// errors.
    MultiPass,
    /// The scheme has its own encoding of whole rows.
    Coded,
}

/// When one pass that fills an exact histogram is preferred over several passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HistogramUse {
    /// There is no exact histogram, or the losses of channels are needed too.
    Never,
    /// Instead of a calibration that searches for clips.
    ForSearches,
    /// Wherever there is one scale.
    Always,
}

impl HistogramUse {
    pub(super) fn choose(
        spec: &AnalysisSpec,
        dtype: FloatType,
        elements: u64,
        quantizers: &[TensorQuantizer],
        has_channels: bool,
    ) -> HistogramUse {
        if dtype.size() != 2 || has_channels {
            return HistogramUse::Never;
        }
        // Two passes over a tensor that is kept are faster than counting, unless the counts
        // serve several quantizers. F16 has so many values that this holds for any size.
        let one_scale = |quantizer: &&TensorQuantizer| {
            quantizer.has_one_group() && quantizer.quantizer().scheme.preset().is_none()
        };
        let several = quantizers.iter().filter(one_scale).count() > 1;
        let is_kept = elements <= MAX_KEPT_BYTES / dtype.size() as u64;
        if spec.histogram || several || (dtype == FloatType::BF16 && !is_kept) {
            HistogramUse::Always
        } else {
            HistogramUse::ForSearches
        }
    }
}

impl Strategy {
    pub(super) fn choose(
        spec: &AnalysisSpec,
        quantizer: &TensorQuantizer,
        chunks: &Chunks,
        histogram: HistogramUse,
    ) -> Strategy {
        if quantizer.quantizer().scheme.preset().is_some() {
            return Strategy::Coded;
        }
        let is_ggml = quantizer.quantizer().scheme.ggml().is_some();
        if is_ggml || chunks.hold(&quantizer.groups) {
            return Strategy::SinglePass;
        }
        let saves_passes = match histogram {
            HistogramUse::Never => false,
            HistogramUse::ForSearches => quantizer.search_passes() > 0,
            HistogramUse::Always => quantizer.search_passes() > 0 || spec.has_errors(),
        };
        if quantizer.has_one_group() && saves_passes {
            Strategy::FromHistogram
        } else {
            Strategy::MultiPass
        }
    }
}
