//! The report of the current measurements.

use crate::app::model::Model;
use crate::app::state::App;
use crate::app::tensor_metrics;
use crate::app::tensor_metrics::TensorMetrics;
use crate::report::{Cost, Histogram, PlanSummary, Report, Row};
use crate::tensor::TensorId;

impl App {
    /// A report of the tensors that the filter shows, in the table's order.
    pub fn report(&self) -> Report {
        let model = &self.model;
        Report {
            checkpoint: model.checkpoint.clone(),
            quantizer: model.quantizer(),
            rounding: model.plan().rounding,
            thresholds: model.thresholds,
            container: model.container(),
            has_outputs: model.outputs.is_some(),
            rows: self.table.shown().map(|id| self.reported(id)).collect(),
            plan: (model.plan().iter().next().is_some())
                .then(|| PlanSummary { recipe: None, target: model.plan().target.to_string() }),
            channels: Vec::new(),
        }
    }

    fn reported(&self, tensor: TensorId) -> Row {
        let model = &self.model;
        let quantizer = model.quantizer_of(tensor);
        let metrics = model.measurement(tensor).metrics();
        let outputs = model.outputs.as_ref();
        Row {
            tensor,
            reason: model.reason(tensor).map(|reason| reason.to_string()),
            marked: model.is_marked(tensor),
            quantizer,
            statistics: metrics.map(|metrics| metrics.statistics),
            flags: metrics.map(|metrics| metrics.flags.clone()).unwrap_or_default(),
            costs: metrics.map(|metrics| costs(model, metrics, tensor)).unwrap_or_default(),
            histogram: metrics.and_then(histogram),
            unmeasured: outputs.and_then(|outputs| outputs.failure(tensor)).map(str::to_owned),
            input_scale: outputs.and_then(|outputs| outputs.input_scale(tensor)),
        }
    }
}

/// The errors of every scheme's default quantizer, and of the mark's own.
fn costs(model: &Model, metrics: &TensorMetrics, tensor: TensorId) -> Vec<Cost> {
    let target = model.schemes().iter().filter(|s| !tensor_metrics::SCHEMES.contains(s));
    let schemes = tensor_metrics::SCHEMES.iter().chain(target);
    let usual = schemes.map(|&scheme| model.default_quantizer(tensor, scheme));
    let all = usual.chain(std::iter::once(model.quantizer_of(tensor)));
    let mut costs: Vec<Cost> = Vec::new();
    for quantizer in all {
        if let Some(tensor_metrics::Cost::Error { error, loss, experts, scales, largest_scale }) =
            metrics.cost_of(quantizer)
            && costs.iter().all(|cost| cost.quantizer != quantizer)
        {
            costs.push(Cost {
                quantizer,
                error: *error,
                loss: *loss,
                experts: experts.clone(),
                scales: *scales,
                largest_scale: *largest_scale,
                output: model
                    .outputs
                    .as_ref()
                    .and_then(|all| all.error(tensor, quantizer))
                    .copied(),
            });
        }
    }
    costs
}

/// The histogram if it is in memory, otherwise the row's sparkline.
fn histogram(metrics: &TensorMetrics) -> Option<Histogram> {
    let absmax = metrics.statistics.absmax;
    match (&metrics.histogram, metrics.sparkline) {
        (Some(counted), _) => Some(Histogram::of(counted, absmax)),
        (None, Some(sparkline)) => {
            let counts = sparkline.counts().collect();
            Some(Histogram::of_bar_heights(absmax, counts))
        }
        (None, None) => None,
    }
}
