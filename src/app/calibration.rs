//! The measuring of all tensors: how far it is, and in which rounds it is done.

use crate::app::meter::Meter;
use crate::app::tensor_metrics::SCHEMES;
use crate::quantization::QuantizationScheme;

/// How the measuring of all tensors stands.
#[derive(Clone, Debug, PartialEq)]
pub enum CalibrationState {
    /// There is no float tensor.
    NothingToDo,
    /// `round`: which of the two rounds is measured now, and the schemes of it.
    Running {
        round: usize,
        schemes: &'static [QuantizationScheme],
        meter: Meter,
    },
    /// `meter`: of the first round.
    Done {
        meter: Meter,
    },
    Stopped {
        meter: Meter,
    },
    Failed,
}

/// What is measured first, so that there is a ranking soon, and what then: the half of
/// [`SCHEMES`] with the table's own scheme comes first.
pub(crate) fn rounds(scheme: QuantizationScheme) -> [&'static [QuantizationScheme]; 2] {
    let (coarse, blocks) = SCHEMES.split_at(2);
    match blocks.contains(&scheme) {
        true => [blocks, coarse],
        false => [coarse, blocks],
    }
}
