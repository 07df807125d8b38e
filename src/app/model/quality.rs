//! The mean and the worst SQNR of the marked tensors.

use crate::app::model::Model;
use crate::app::tensor_metrics::Sqnr;
use crate::quantization::Quantizer;
use crate::tensor::TensorId;

/// The SQNRs of the marked tensors that are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// Mean SQNR in decibels.
    pub mean: Option<f64>,
    /// SQNR of the worst tensor in decibels.
    pub worst: Option<f64>,
    /// Marked tensors that are not measured yet.
    pub waiting: usize,
}

/// Sums over the SQNRs of some marks.
#[derive(Default)]
struct SqnrSums {
    /// The sum of the finite SQNRs, and their number.
    sum: f64,
    measured: u32,
    worst: Option<f64>,
    waiting: usize,
}

impl Model {
    /// The SQNR of the marked tensors.
    pub fn quality(&self) -> Quality {
        self.quality
    }

    /// Recomputes the quality of the plan.
    pub fn update_quality(&mut self) {
        let (mut sum, mut measured) = (0.0, 0);
        let mut quality = Quality::default();
        let parts = self.plan.map_parts(|marks| self.sqnr_sums(marks));
        // In the order of the parts, so that the mean does not depend on the number of cores.
        for part in parts {
            quality.worst = match (quality.worst, part.worst) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            quality.waiting += part.waiting;
            sum += part.sum;
            measured += part.measured;
        }
        quality.mean = match measured {
            0 => quality.worst,
            n => Some(sum / f64::from(n)),
        };
        self.quality = quality;
    }

    fn sqnr_sums(&self, marks: &mut dyn Iterator<Item = (TensorId, Quantizer)>) -> SqnrSums {
        let mut sums = SqnrSums::default();
        for (id, _) in marks {
            match self.sqnr(id) {
                Sqnr::Decibels(db) => {
                    sums.worst = Some(sums.worst.map_or(db, |worst| worst.min(db)));
                    // An infinite SQNR would make the mean infinite.
                    if db.is_finite() {
                        sums.sum += db;
                        sums.measured += 1;
                    }
                }
                Sqnr::Waiting => sums.waiting += 1,
                _ => {}
            }
        }
        sums
    }
}
