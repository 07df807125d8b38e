//! Calibration of all tensors: its state, and the rounds in which schemes are measured.

use crate::app::meter::Meter;
use crate::app::tensor_metrics::SCHEMES;
use crate::quantization::QuantizationScheme;

/// The state of the calibration.
#[derive(Clone, Debug, PartialEq)]
pub enum CalibrationState {
    /// There is no float tensor.
    NothingToDo,
    /// `round` is the round that runs now, 0 or 1; `schemes` are those it measures.
    Running {
        round: usize,
        schemes: &'static [QuantizationScheme],
        meter: Meter,
    },
    /// `meter` is that of the first round.
    Done {
        meter: Meter,
    },
    Stopped {
        meter: Meter,
    },
    Failed,
}

/// The schemes of each round. The first round measures the half of [`SCHEMES`] that holds the
/// table's scheme, so that there is a ranking soon.
pub(crate) fn rounds(scheme: QuantizationScheme) -> [&'static [QuantizationScheme]; 2] {
    let (coarse, blocks) = SCHEMES.split_at(2);
    match blocks.contains(&scheme) {
        true => [blocks, coarse],
        false => [coarse, blocks],
    }
}
