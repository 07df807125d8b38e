//! The specification of an analysis.

use crate::quantization::analysis::channel_losses::ChannelDetail;
use crate::quantization::ggml::Importance;
use crate::quantization::preset::Preset;
use crate::quantization::quantizer::Quantizer;
use crate::quantization::scheme::Rounding;
use crate::tensor::{FloatType, TensorId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which error statistics to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorDetail {
    /// Nothing: only ranges and scales.
    None,
    /// Only signal and noise power, which gives the SQNR and is cheaper.
    Loss,
    /// Everything in [`ErrorSums`](crate::quantization::ErrorSums).
    Full,
}

/// The type that a format stores scales in. Elements are quantized by the scale as it reads
/// back, so errors depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ScaleStorage {
    /// F32.
    #[default]
    F32,
    /// F16.
    F16,
    /// The type of the elements; F32 for F64 elements.
    ElementType,
}

impl ScaleStorage {
    /// The type of the scales of a tensor with elements of type `dtype`.
    pub fn scale_type(self, dtype: FloatType) -> FloatType {
        match (self, dtype) {
            (ScaleStorage::F16, _) => FloatType::F16,
            (ScaleStorage::F32, _) | (ScaleStorage::ElementType, FloatType::F64) => FloatType::F32,
            (ScaleStorage::ElementType, dtype) => dtype,
        }
    }

    /// Bytes of one scale of a tensor with elements of type `dtype`.
    pub fn scale_bytes(self, dtype: FloatType) -> u64 {
        self.scale_type(dtype).size() as u64
    }
}

/// What to compute for every tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct AnalysisSpec {
    /// The quantizers to evaluate; an analysis has one outcome for each.
    pub quantizers: Vec<Quantizer>,
    /// The rounding of ties.
    pub rounding: Rounding,
    /// Which error statistics to compute. Moments are computed unless it is
    /// [`ErrorDetail::None`].
    pub errors: ErrorDetail,
    /// The type that scales are rounded to before anything is quantized by them.
    pub scale_storage: ScaleStorage,
    /// Whether to keep every scale instead of only their number and range.
    pub keep_scales: bool,
    /// Whether to count how often each value occurs.
    pub histogram: bool,
    /// Which losses of output channels to compute.
    pub channels: ChannelDetail,
    /// The importance of the elements, used for ggml's block types.
    pub importance: Importance,
    /// The largest magnitudes of tensors that share a global scale, for presets with one.
    pub shared_absmax: SharedAbsmax,
}

/// The largest magnitude over all tensors that share a global scale, by tensor. Tensors with a
/// global scale of their own are absent.
pub type SharedAbsmax = Arc<BTreeMap<TensorId, f64>>;

impl AnalysisSpec {
    /// Computes ranges and scales; the scales are summarized, not kept.
    pub fn scales(quantizers: Vec<Quantizer>, rounding: Rounding) -> AnalysisSpec {
        AnalysisSpec {
            quantizers,
            rounding,
            errors: ErrorDetail::None,
            scale_storage: ScaleStorage::F32,
            keep_scales: false,
            histogram: false,
            channels: ChannelDetail::None,
            importance: Importance::default(),
            shared_absmax: SharedAbsmax::default(),
        }
    }

    /// Whether a quantizer needs the largest magnitude of the tensors that share a global scale.
    pub fn shares_global_scale(&self) -> bool {
        let mut presets = self.quantizers.iter().filter_map(|q| q.scheme.preset());
        presets.any(Preset::shares_global_scale)
    }

    /// Computes ranges, scales, moments and all error statistics.
    pub fn errors(quantizers: Vec<Quantizer>, rounding: Rounding) -> AnalysisSpec {
        AnalysisSpec { errors: ErrorDetail::Full, ..AnalysisSpec::scales(quantizers, rounding) }
    }

    /// Whether errors and moments are computed.
    pub(super) fn has_errors(&self) -> bool {
        self.errors != ErrorDetail::None
    }

    /// Which losses of channels to compute: none without errors.
    pub(super) fn channel_detail(&self) -> ChannelDetail {
        match self.errors {
            ErrorDetail::None => ChannelDetail::None,
            ErrorDetail::Loss | ErrorDetail::Full => self.channels,
        }
    }
}
