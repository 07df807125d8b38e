//! `safetensors`: int8 values and F32 scales as separate tensors, for any tensor.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::packed::{Int8Values, METADATA_KEY, SCALE_SUFFIX};
use crate::export::container_check;
use crate::export::error::SaveError;
use crate::export::formats::shards::{self, describe_tensors, entries, quantized_metadata};
use crate::export::formats::writer::{FormatWriter, OutputKind};
use crate::export::output_plan::{Entry, MadeFrom, OutputPlan};
use crate::export::request::Request;
use crate::plan::{Plan, default_scheme};
use crate::quantization::QuantizationScheme;
use crate::tensor::{DType, TensorId};
use std::collections::HashSet;
use std::path::Path;

pub(super) struct Safetensors;

impl FormatWriter for Safetensors {
    fn name(&self) -> &'static str {
        "safetensors"
    }

    fn summary(&self) -> &'static str {
        "int8 values and scales side by side; any tensors"
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
        check_scale_names(checkpoint, plan, request)?;
        let shards = entries(checkpoint, |tensor, _| quantized_entries(checkpoint, plan, tensor?));
        shards::lay_out(
            checkpoint,
            shards,
            &|mut metadata, entries| {
                let tensors = quantized_metadata(checkpoint, entries);
                describe_tensors(&mut metadata, METADATA_KEY, plan.rounding, tensors);
                metadata
            },
            output_plan,
        )
    }

    fn check_container(&self, file: &Path) -> Result<(), String> {
        container_check::safetensors(file)
    }
}

/// Checks that the source has no tensor with the name of a new scale.
fn check_scale_names(
    checkpoint: &Checkpoint,
    plan: &Plan,
    request: &Request,
) -> Result<(), SaveError> {
    let names: HashSet<&str> = checkpoint.all_stored().map(|(_, s)| s.name.as_str()).collect();
    for (id, _) in plan.iter() {
        let name = &checkpoint.tensor(id).name;
        let scale = format!("{name}{SCALE_SUFFIX}");
        if names.contains(scale.as_str()) {
            let why = format!(
                "the scales of '{}' would be named '{}', and the source has a tensor of that name; leave this one out",
                name.escape_debug(),
                scale.escape_debug()
            );
            return Err(SaveError::Unfit { path: request.out.clone(), why });
        }
    }
    Ok(())
}

/// Returns a marked tensor's I8 values, followed by its F32 scales.
fn quantized_entries(checkpoint: &Checkpoint, plan: &Plan, id: TensorId) -> Option<Vec<Entry>> {
    let quantizer = plan.get(id)?;
    let tensor = checkpoint.tensor(id);
    let scale_shape = quantizer.scheme.scale_shape(&tensor.shape);
    let values = Entry {
        name: tensor.name.to_string(),
        dtype: DType::I8,
        shape: tensor.shape.clone(),
        bytes: tensor.parameters(),
        made_from: MadeFrom::Values { tensor: id, quantizer, stored_as: Int8Values::Signed },
    };
    let scales = Entry {
        name: format!("{}{SCALE_SUFFIX}", tensor.name),
        dtype: DType::F32,
        bytes: scale_shape.elements() * 4,
        shape: scale_shape,
        made_from: MadeFrom::Scales { tensor: id },
    };
    Some(vec![values, scales])
}
