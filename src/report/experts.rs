//! The errors of the experts of each layer, for the documents.

use crate::plan::experts::{ExpertErrors, ExpertLayer, ExpertLayers, TensorLoss};
use crate::quantization::QuantizationScheme;
use crate::report::contents::{Report, Row};
use crate::tensor::TensorId;
use serde::Serialize;
use std::collections::HashMap;

/// A layer of experts with its errors.
#[derive(Serialize)]
pub(crate) struct ExpertLayerFigures {
    layer: String,
    /// The scheme of the figures; null if tensors of the layer are marked with several.
    scheme: Option<String>,
    /// Over the elements of all experts together.
    sqnr_db: Option<f64>,
    worst: Option<ExpertFigures>,
    best: Option<ExpertFigures>,
    mean_sqnr_db: Option<f64>,
    spread_db: Option<f64>,
    /// Number of experts with a weight that has no error.
    unmeasured: usize,
    experts: Vec<ExpertFigures>,
}

#[derive(Serialize)]
struct ExpertFigures {
    expert: u64,
    sqnr_db: Option<f64>,
}

impl ExpertFigures {
    fn new((expert, db): (u64, f64)) -> ExpertFigures {
        ExpertFigures { expert, sqnr_db: finite(db) }
    }
}

/// Documents write null for figures that are not finite.
fn finite(db: f64) -> Option<f64> {
    db.is_finite().then_some(db)
}

impl ExpertLayerFigures {
    pub(crate) fn new(
        layer: &ExpertLayer,
        scheme: Option<QuantizationScheme>,
        errors: &ExpertErrors,
    ) -> ExpertLayerFigures {
        let experts = errors.experts.iter().map(|(expert, loss)| (*expert, loss.sqnr_db()));
        ExpertLayerFigures {
            layer: layer.path.clone(),
            scheme: scheme.map(|scheme| scheme.to_string()),
            sqnr_db: finite(errors.sqnr_db()),
            worst: errors.worst().map(ExpertFigures::new),
            best: errors.best().map(ExpertFigures::new),
            mean_sqnr_db: errors.mean_db(),
            spread_db: errors.spread_db(),
            unmeasured: errors.unknown,
            experts: experts.map(ExpertFigures::new).collect(),
        }
    }
}

/// The errors of a report's layers of experts.
pub(super) struct ReportedExperts {
    layers: ExpertLayers,
    /// The errors of each layer by its path.
    errors: HashMap<String, (ExpertErrors, Option<QuantizationScheme>)>,
}

impl ReportedExperts {
    /// The layers of experts whose tensors the report lists.
    pub(super) fn of(report: &Report) -> ReportedExperts {
        let layers = ExpertLayers::of(&report.checkpoint);
        let rows: HashMap<TensorId, &Row> =
            report.rows.iter().map(|row| (row.tensor, row)).collect();
        let measured = |id: TensorId| {
            let cost = rows.get(&id)?.cost();
            Some(cost.map_or(TensorLoss::default(), |cost| TensorLoss {
                loss: Some(cost.loss),
                experts: &cost.experts,
            }))
        };
        let scheme_of = |layer: &ExpertLayer| {
            let listed = layer.tensors.iter().filter_map(|(id, _)| rows.get(id));
            let mut schemes = listed.map(|row| row.quantizer.scheme);
            let first = schemes.next()?;
            schemes.all(|scheme| scheme == first).then_some(first)
        };
        let errors = layers.all().iter().filter_map(|layer| {
            Some((layer.path.clone(), (layer.errors(measured)?, scheme_of(layer))))
        });
        let errors = errors.collect();
        ReportedExperts { errors, layers }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// The layers with their errors, in the checkpoint's order.
    pub(super) fn all(
        &self,
    ) -> impl Iterator<Item = (&ExpertLayer, &ExpertErrors, Option<QuantizationScheme>)> {
        self.layers.all().iter().filter_map(|layer| {
            let (errors, scheme) = self.errors.get(&layer.path)?;
            Some((layer, errors, *scheme))
        })
    }

    /// The layer of a tensor with its errors, and the expert if the tensor is of one.
    pub(super) fn of_tensor(
        &self,
        id: TensorId,
    ) -> Option<(&ExpertLayer, &ExpertErrors, Option<u64>)> {
        let (layer, part) = self.layers.layer_of(id)?;
        let (errors, _) = self.errors.get(&layer.path)?;
        Some((layer, errors, part.expert()))
    }

    /// The figures of all layers, for JSON.
    pub(super) fn figures(&self) -> Vec<ExpertLayerFigures> {
        let figures = self
            .all()
            .map(|(layer, errors, scheme)| ExpertLayerFigures::new(layer, scheme, errors));
        figures.collect()
    }
}
