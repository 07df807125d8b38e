//! The errors of the experts of a layer on the screen.

use crate::app::model::Model;
use crate::app::tensor_metrics::Cost;
use crate::plan::experts::{ExpertErrors, ExpertLayer, TensorLoss};
use crate::tensor::TensorId;

/// A layer of experts, and the expert that a row belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertView<'m> {
    /// The layer.
    pub layer: &'m ExpertLayer,
    /// The errors of its experts, each weight with its own scheme; `None` while one is not
    /// measured.
    pub errors: Option<ExpertErrors>,
    /// The expert; `None` for all of them.
    pub expert: Option<u64>,
}

impl Model {
    /// The layer of experts that a tensor belongs to.
    pub fn experts_of_tensor(&self, id: TensorId) -> Option<ExpertView<'_>> {
        let (layer, part) = self.experts().layer_of(id)?;
        Some(ExpertView { layer, errors: self.expert_errors(layer), expert: part.expert() })
    }

    /// The layer of experts that a module is or belongs to.
    pub fn experts_of_module(&self, path: &str) -> Option<ExpertView<'_>> {
        let is_around = |layer: &&ExpertLayer| {
            path.strip_prefix(&layer.path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let layer = self.experts().all().iter().find(is_around)?;
        let rest = path.get(layer.path.len() + 1..).and_then(|rest| rest.split('.').next());
        let number = rest.map(|rest| rest.strip_prefix("expert_").unwrap_or(rest));
        let expert = match number {
            Some(number) => Some(number.parse().ok()?),
            None => None,
        };
        Some(ExpertView { layer, errors: self.expert_errors(layer), expert })
    }

    fn expert_errors(&self, layer: &ExpertLayer) -> Option<ExpertErrors> {
        let is_measured = layer.tensors.iter().all(|&(id, _)| self.own_cost(id).is_some());
        let loss = |cost| match cost {
            &Cost::Error { loss, ref experts, .. } => TensorLoss { loss: Some(loss), experts },
            Cost::Impossible(_) => TensorLoss::default(),
        };
        let errors = layer.errors(|id| Some(self.own_cost(id).map(loss).unwrap_or_default()));
        errors.filter(|_| is_measured)
    }

    /// The cost of a tensor with its scheme, once it is measured.
    fn own_cost(&self, id: TensorId) -> Option<&Cost> {
        self.measurement(id).metrics()?.cost_of(self.quantizer_of(id))
    }
}
