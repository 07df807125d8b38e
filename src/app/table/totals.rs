//! Totals of a module.

use crate::quantization::Rating;

/// Totals over the tensors of a module that pass the filter.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeTotals {
    /// Number of tensors.
    pub tensors: usize,
    /// Number of parameters.
    pub parameters: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Number of tensors that are quantized by default.
    pub quantizable: usize,
    /// Number of marked tensors.
    pub marked: usize,
    /// SQNR of the worst tensor in decibels.
    pub worst: Option<f64>,
    /// The largest output error of any layer, in dB.
    pub worst_output: Option<f64>,
    /// Number of tensors with each rating, worst first.
    pub ratings: [usize; 4],
    /// Number of tensors that are not measured yet.
    pub waiting: usize,
}

/// The order of [`NodeTotals::ratings`].
pub const RATINGS: [Rating; 4] = [Rating::Poor, Rating::Fair, Rating::Good, Rating::Excellent];

impl NodeTotals {
    pub(super) fn add(&mut self, other: &NodeTotals) {
        if other.tensors == 0 {
            return;
        }
        self.tensors += other.tensors;
        self.parameters = self.parameters.saturating_add(other.parameters);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.quantizable += other.quantizable;
        self.marked += other.marked;
        self.waiting += other.waiting;
        self.ratings.iter_mut().zip(other.ratings).for_each(|(a, b)| *a += b);
        self.worst = match (self.worst, other.worst) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.worst_output = match (self.worst_output, other.worst_output) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
    }
}
