//! What is known now, as a report.

use super::App;
use super::facts::{self, Facts};
use crate::quantization::{Calibration, Quantizer};
use crate::report::{Cost, Histogram, Report, Row};
use crate::tensor::TensorId;

impl App {
    /// The tensors that are shown, in the order of the table.
    pub fn report(&self) -> Report {
        let model = &self.model;
        Report {
            checkpoint: model.checkpoint.clone(),
            quantizer: model.quantizer(),
            rounding: model.plan().rounding,
            thresholds: model.thresholds,
            rows: self.table.ranked().map(|id| self.reported(id)).collect(),
        }
    }

    fn reported(&self, tensor: TensorId) -> Row {
        let model = &self.model;
        let quantizer = model.quantizer_of(tensor);
        let facts = model.known(tensor).facts();
        Row {
            tensor,
            reason: model.obstacle(tensor).map(|obstacle| obstacle.to_string()),
            marked: model.is_marked(tensor),
            quantizer,
            statistics: facts.map(|facts| facts.statistics),
            flags: facts.map(|facts| facts.flags.clone()).unwrap_or_default(),
            costs: facts.map(|facts| costs(facts, quantizer)).unwrap_or_default(),
            histogram: facts.and_then(histogram),
        }
    }
}

/// Of every scheme by min-max, and of the mark's own quantizer.
fn costs(facts: &Facts, own: Quantizer) -> Vec<Cost> {
    let min_max = |scheme| Quantizer { calibration: Calibration::MinMax, scheme };
    let usual = facts::SCHEMES.into_iter().map(min_max);
    let all = usual.chain(std::iter::once(own));
    let mut costs: Vec<Cost> = Vec::new();
    for quantizer in all {
        if let Some(facts::Cost::Error { error, noise_share, scales, largest_scale }) =
            facts.cost_of(quantizer)
            && costs.iter().all(|cost| cost.quantizer != quantizer)
        {
            costs.push(Cost {
                quantizer,
                error: *error,
                noise_share: *noise_share,
                scales: *scales,
                largest_scale: *largest_scale,
            });
        }
    }
    costs
}

/// From the counts where they are held, from the sketch of the row where they are not.
fn histogram(facts: &Facts) -> Option<Histogram> {
    let absmax = facts.statistics.absmax;
    match (&facts.distribution, facts.sketch) {
        (Some(counted), _) => Some(Histogram::of(counted, absmax)),
        (None, Some(sketch)) => {
            let counts = sketch.iter().map(|&height| f32::from(height)).collect();
            Some(Histogram::sketched(absmax, counts))
        }
        (None, None) => None,
    }
}
