//! Which tensors the target takes, by its rules and by what was measured.

use crate::app::model::Model;
use crate::plan::Obstacle;
use crate::plan::gguf_mix::becomes_f16;
use crate::plan::rules::{Eligibility, Reason};
use crate::plan::target::Container;
use crate::tensor::TensorId;
use rayon::prelude::*;

/// The shortest block of GGUF's block types, in elements.
const GGUF_BLOCK: u64 = 32;

impl Model {
    /// Asks the rules about every tensor.
    pub(super) fn update_eligibility(&mut self) {
        let ids = (0..self.measurements.len() as u32).into_par_iter().map(TensorId);
        self.eligibility = ids.map(|id| self.eligibility_of(id)).collect();
        let by_default = self.eligibility.par_iter().map(|own| *own == Eligibility::ByDefault);
        self.quantizable = by_default.collect();
    }

    fn eligibility_of(&self, id: TensorId) -> Eligibility {
        let statistics = self.measurement(id).metrics().map(|metrics| &metrics.statistics);
        let non_finite = statistics.and_then(|s| {
            Some(Obstacle::NonFinite { nan: s.nan, inf: s.inf, first: s.first_non_finite? })
        });
        match non_finite {
            Some(obstacle) => Eligibility::Never(Reason::Obstacle(obstacle)),
            None => match self.undivided(id) {
                Some(reason) => Eligibility::Never(reason),
                None => self.rules.eligibility(&self.checkpoint, id),
            },
        }
    }

    /// Why no block type of GGUF divides the rows of a float tensor, if none does.
    fn undivided(&self, id: TensorId) -> Option<Reason> {
        let container = self.rules.target().container_from(self.checkpoint.format());
        let shape = &self.checkpoint.tensor(id).shape;
        let obstructed = |scheme| container.scheme_obstacle(scheme, shape).is_some();
        let undivided = container == Container::Gguf
            && self.rules.eligibility(&self.checkpoint, id) == Eligibility::ByDefault
            && !becomes_f16(&self.checkpoint, id)
            && container.schemes().into_iter().all(obstructed);
        undivided.then(|| Reason::Columns { columns: shape.row_len(), group: GGUF_BLOCK })
    }

    /// Whether the target takes a tensor, as far as is known now.
    pub fn eligibility(&self, id: TensorId) -> &Eligibility {
        self.eligibility.get(id.index()).unwrap_or(&Eligibility::ByDefault)
    }

    /// Why a tensor is left as it is by default.
    pub fn reason(&self, id: TensorId) -> Option<&Reason> {
        self.eligibility(id).reason()
    }

    /// Why a tensor is left as it is by default, if that is for any target.
    pub fn obstacle(&self, id: TensorId) -> Option<&Obstacle> {
        match self.reason(id) {
            Some(Reason::Obstacle(obstacle)) => Some(obstacle),
            _ => None,
        }
    }

    /// The tensor, and those that the target's loaders load only together with it.
    pub fn loaded_with(&self, id: TensorId) -> Vec<TensorId> {
        if self.plan.target.loaders().is_empty() {
            return vec![id];
        }
        let mut unit = self.rules.units().with_rest(id);
        unit.retain(|&id| !matches!(self.eligibility(id), Eligibility::Never(_)));
        unit
    }

    /// Whether the tensor is quantized by default.
    pub fn quantizable(&self, id: TensorId) -> bool {
        self.quantizable.get(id.index()).copied().unwrap_or(true)
    }
}
