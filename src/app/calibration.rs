//! Calibration of all tensors: its state, and the rounds in which schemes are measured.

use crate::app::meter::Meter;
use crate::app::tensor_metrics::SCHEMES;
use crate::quantization::QuantizationScheme;

/// The state of the calibration.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant describes its fields")]
pub enum CalibrationState {
    /// There is no float tensor.
    NothingToDo,
    /// `round` is the round that runs now; `schemes` are those it measures.
    Running { round: usize, schemes: Vec<QuantizationScheme>, meter: Meter },
    /// `meter` is that of the first round.
    Done { meter: Meter },
    /// The user stopped it.
    Stopped { meter: Meter },
    /// It ended with an error.
    Failed,
}

/// The schemes of each round. The first round measures the half of [`SCHEMES`] that holds
/// `scheme`, so that there is a ranking soon; the last one what else the target holds.
pub(crate) fn rounds(
    scheme: QuantizationScheme,
    target: &[QuantizationScheme],
) -> [Vec<QuantizationScheme>; 3] {
    let (coarse, blocks) = SCHEMES.split_at(2);
    let [first, second] =
        if blocks.contains(&scheme) { [blocks, coarse] } else { [coarse, blocks] };
    let further = target.iter().copied().filter(|scheme| !SCHEMES.contains(scheme));
    [first.to_vec(), second.to_vec(), further.collect()]
}
