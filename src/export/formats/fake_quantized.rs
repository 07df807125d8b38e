//! `fake-quantized`: float weights with int8 rounding applied, for evaluation.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::packed::FAKE_METADATA_KEY;
use crate::export::error::SaveError;
use crate::export::formats::presets::scaled_together;
use crate::export::formats::shards::{self, entries};
use crate::export::formats::writer::{FormatWriter, OutputKind};
use crate::export::output_plan::{Entry, MadeFrom, OutputPlan};
use crate::export::request::Request;
use crate::plan::rules::FusionUnits;
use crate::plan::target::Container;
use crate::plan::{Plan, default_scheme};
use crate::quantization::QuantizationScheme;
use crate::tensor::TensorId;

pub(super) struct FakeQuantized;

impl FormatWriter for FakeQuantized {
    fn name(&self) -> &'static str {
        "fake-quantized"
    }

    fn container(&self) -> Container {
        Container::FakeQuantized
    }

    fn output_kind(&self) -> OutputKind {
        OutputKind::FileOrDirectory("safetensors")
    }

    fn default_scheme(&self, checkpoint: &Checkpoint, _: &[TensorId]) -> QuantizationScheme {
        default_scheme(checkpoint)
    }

    fn lay_out(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        _: &Request,
        output_plan: &mut OutputPlan,
    ) -> Result<(), SaveError> {
        output_plan.scaled_together = scaled_together(plan, &FusionUnits::of(checkpoint));
        let shards = entries(checkpoint, |tensor, _| {
            let id = tensor?;
            let quantizer = plan.get(id)?;
            let tensor = checkpoint.tensor(id);
            let made_from = MadeFrom::FakeQuantized { tensor: id, quantizer };
            let (name, dtype) = (tensor.name.to_string(), tensor.dtype.clone());
            Some(vec![Entry::new(name, dtype, tensor.shape.clone(), made_from)?])
        });
        shards::lay_out_described(checkpoint, plan.rounding, shards, FAKE_METADATA_KEY, output_plan)
    }
}
