//! `safetensors`: int8 values and F32 scales as separate tensors, for any tensor.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::packed::{METADATA_KEY, SCALE_SUFFIX};
use crate::export::error::SaveError;
use crate::export::formats::model_directory::StoredNames;
use crate::export::formats::shards::{self, entries};
use crate::export::formats::writer::{FormatWriter, OutputKind};
use crate::export::output_plan::{Entry, MadeFrom, OutputPlan};
use crate::export::request::Request;
use crate::plan::target::Container;
use crate::plan::{Plan, default_scheme};
use crate::quantization::QuantizationScheme;
use crate::tensor::{DType, TensorId};

pub(super) struct Safetensors;

impl FormatWriter for Safetensors {
    fn name(&self) -> &'static str {
        "safetensors"
    }

    fn container(&self) -> Container {
        Container::Safetensors
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
        request: &Request,
        output_plan: &mut OutputPlan,
    ) -> Result<(), SaveError> {
        check_scale_names(checkpoint, plan).map_err(|why| request.refuse(why))?;
        let shards = entries(checkpoint, |tensor, _| quantized_entries(checkpoint, plan, tensor?));
        shards::lay_out_described(checkpoint, plan.rounding, shards, METADATA_KEY, output_plan)
    }
}

/// Checks that the source has no tensor with the name of a new scale.
fn check_scale_names(checkpoint: &Checkpoint, plan: &Plan) -> Result<(), String> {
    let names = StoredNames::of(checkpoint);
    for (id, _) in plan.iter() {
        let name = &checkpoint.tensor(id).name;
        let scale = format!("{name}{SCALE_SUFFIX}");
        if names.contains(&scale) {
            return Err(format!(
                "the scales of '{}' would be named '{}', and the source has a tensor of that name; leave this one out",
                name.escape_debug(),
                scale.escape_debug()
            ));
        }
    }
    Ok(())
}

/// Returns a marked tensor's I8 values, followed by its F32 scales.
fn quantized_entries(checkpoint: &Checkpoint, plan: &Plan, id: TensorId) -> Option<Vec<Entry>> {
    let quantizer = plan.get(id)?;
    let tensor = checkpoint.tensor(id);
    let scale_shape = quantizer.scheme.scale_shape(&tensor.shape);
    let name = format!("{}{SCALE_SUFFIX}", tensor.name);
    Some(vec![
        Entry::int8_values(tensor, id, quantizer)?,
        Entry::new(name, DType::F32, scale_shape, MadeFrom::Scales { tensor: id })?,
    ])
}
