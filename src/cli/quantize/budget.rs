//! Chooses schemes for a size or an SQNR.

use crate::activations::ActivationMode;
use crate::checkpoint::Checkpoint;
use crate::cli::activations::{ActivationScheme, Outputs};
use crate::cli::budget_choices::BudgetChoices;
use crate::cli::error::{Error, UsageError};
use crate::cli::quantize::args::Quantize;
use crate::cli::quantize::gguf::saved_by_f16;
use crate::export::OutputFormat;
use crate::plan::Plan;
use crate::plan::budget::{self, Choice, Curve};
use crate::plan::rules::TargetRules;
use crate::quantization::{AnalysisSpec, Outcome};
use crate::tensor::{FloatType, TensorId};
use std::collections::HashMap;
use std::sync::Arc;

impl Quantize {
    /// Returns the choices of the budget. Of `others`, the tensors of a GGUF whose rows no block
    /// divides are counted as F16.
    pub(super) fn choices(
        &self,
        checkpoint: &Arc<Checkpoint>,
        format: OutputFormat,
        rules: &TargetRules,
        outcomes: &[(TensorId, Vec<Outcome>)],
        others: &[TensorId],
    ) -> Result<BudgetChoices, Error> {
        let chosen_from: u64 = outcomes.iter().map(|(id, _)| checkpoint.tensor(*id).bytes).sum();
        let saved = match format {
            OutputFormat::Gguf => saved_by_f16(checkpoint, others),
            _ => 0,
        };
        let fixed = checkpoint.total_bytes().saturating_sub(chosen_from).saturating_sub(saved);
        let outputs = self.outputs(checkpoint, format, outcomes)?;
        let mode = match (format, self.activation_scheme) {
            (OutputFormat::Int8, ActivationScheme::Dynamic) => ActivationMode::Dynamic,
            (OutputFormat::Int8, ActivationScheme::Static) => ActivationMode::Static,
            _ => ActivationMode::Weights,
        };
        let options = |(id, outcomes): &(TensorId, Vec<Outcome>)| {
            let output = |quantizer| outputs.as_ref()?.ratio(*id, quantizer, mode);
            let tensor = checkpoint.tensor(*id);
            let least = self.min_sqnr.map(|least| least.0);
            let weight = budget::error_weight(checkpoint, *id, format.container());
            let weighted = (tensor, weight);
            let mut options =
                budget::options(weighted, outcomes, format.container(), least, output);
            if mode == ActivationMode::Static {
                let float = tensor.dtype.float().unwrap_or(FloatType::F32);
                let scale = format.scale_storage().scale_bytes(float);
                let quantized = options.iter_mut().filter(|choice| choice.quantizer.is_some());
                quantized.for_each(|choice| choice.bytes += scale);
            }
            (*id, options)
        };
        let options: HashMap<TensorId, Vec<Choice>> = outcomes.iter().map(options).collect();
        let units = rules.units().grouped(outcomes.iter().map(|(id, _)| *id)).into_iter();
        let units = units.map(|unit| {
            let each = unit.iter().map(|id| options.get(id).cloned().unwrap_or_default());
            let shared = budget::shared_options(each.collect());
            (unit, shared)
        });
        let curve = Curve::of_units(fixed, units);
        Ok(BudgetChoices { curve, fixed, options })
    }

    /// The output errors of the layers to choose from, if activations are given.
    fn outputs(
        &self,
        checkpoint: &Arc<Checkpoint>,
        format: OutputFormat,
        outcomes: &[(TensorId, Vec<Outcome>)],
    ) -> Result<Option<Outputs>, Error> {
        let Some(activations) = self.activations.open(checkpoint)? else { return Ok(None) };
        let ids = outcomes.iter().map(|(id, _)| *id).collect();
        let schemes = outcomes.first().map(|(_, outcomes)| outcomes.as_slice());
        let schemes = schemes.unwrap_or_default().iter().map(|outcome| outcome.quantizer.scheme);
        let (args, rounding) = (&self.activations, self.rounding.rounding);
        let quantizer = |scheme| self.calibration.quantizer(checkpoint, scheme);
        let spec = AnalysisSpec {
            scale_storage: format.scale_storage(),
            ..AnalysisSpec::scales(schemes.map(quantizer).collect(), rounding)
        };
        let by_id: HashMap<TensorId, &Vec<Outcome>> =
            outcomes.iter().map(|(id, outcomes)| (*id, outcomes)).collect();
        let weighted =
            |id, place: usize| by_id.get(&id)?.get(place)?.result.as_ref().ok()?.weighted;
        let found = args.measure(checkpoint, &activations, ids, &spec, &weighted, &self.work)?;
        found.conclude()?;
        Ok(Some(found))
    }

    /// The plan of the point that the budget allows.
    pub(super) fn choose(
        &self,
        checkpoint: &Checkpoint,
        choices: &BudgetChoices,
    ) -> Result<Plan, Error> {
        let BudgetChoices { curve, fixed, .. } = choices;
        let smallest = curve.points().len() - 1;
        let now = checkpoint.total_bytes();
        let wanted = self.max_bytes.map(|limit| limit.bytes(now, checkpoint.parameters()));
        if let Some(wanted) = wanted.filter(|&wanted| wanted >= now) {
            let path = checkpoint.path().to_owned();
            return Err(UsageError::WithinBudget { path, wanted, now }.into());
        }
        let point = match wanted {
            None => smallest,
            Some(wanted) => curve.within(wanted).ok_or_else(|| UsageError::Budget {
                path: checkpoint.path().to_owned(),
                wanted,
                smallest: curve.points().last().map_or(*fixed, |point| point.bytes),
            })?,
        };
        let plan = curve.plan(point, self.rounding.rounding);
        match self.min_sqnr {
            Some(least) if plan.is_empty() => {
                Err(UsageError::NoneKeeps { path: checkpoint.path().to_owned(), least }.into())
            }
            _ => Ok(plan),
        }
    }
}
