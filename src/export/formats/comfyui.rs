//! `comfyui`: one safetensors file with ComfyUI's `int8_tensorwise` layers.
//!
//! A layer `L` is stored as `L.weight` in I8, `L.weight_scale` in F32 (one number, or one per row)
//! and the marker `L.comfy_quant`, by which ComfyUI recognizes the format. The marker is a tensor
//! rather than an entry of `__metadata__`: ComfyUI renames tensors together with their layer, and
//! some of its code paths do not read metadata.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::packed::Int8Values;
use crate::export::container_check;
use crate::export::error::SaveError;
use crate::export::formats::model_directory::part_taken;
use crate::export::formats::provenance::{note_original_types, note_quantizers};
use crate::export::formats::shards::{self, entries};
use crate::export::formats::writer::{FormatWriter, OutputKind};
use crate::export::output_plan::{Entry, MadeFrom, OutputPlan};
use crate::export::request::Request;
use crate::plan::Plan;
use crate::quantization::QuantizationScheme;
use crate::tensor::{DType, Shape, TensorId, TensorInfo};
use std::collections::HashSet;
use std::path::Path;

/// The content of a layer's marker.
const MARKER: &str = r#"{"format": "int8_tensorwise"}"#;

pub(super) struct ComfyUi;

impl FormatWriter for ComfyUi {
    fn name(&self) -> &'static str {
        "comfyui"
    }

    fn summary(&self) -> &'static str {
        "one file with ComfyUI's markers; Linear layers"
    }

    fn output_kind(&self) -> OutputKind {
        OutputKind::File("safetensors")
    }

    fn default_scheme(&self, _: &Checkpoint, _: &[TensorId]) -> QuantizationScheme {
        QuantizationScheme::PER_CHANNEL
    }

    fn lay_out(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        request: &Request,
        output_plan: &mut OutputPlan,
    ) -> Result<(), SaveError> {
        let refuse = |why: String| SaveError::Unfit { path: request.out.clone(), why };
        check_marks(checkpoint, plan).map_err(refuse)?;
        let shards = entries(checkpoint, |tensor, _| quantized_entries(checkpoint, plan, tensor?));
        shards::lay_out(
            checkpoint,
            shards,
            &|mut metadata, entries| {
                note_quantizers(checkpoint, plan, entries, &mut metadata);
                note_original_types(checkpoint, entries, &mut metadata);
                metadata
            },
            output_plan,
        )
    }

    fn check_container(&self, file: &Path) -> Result<(), String> {
        container_check::safetensors(file)
    }
}

/// Returns the name of a layer's marker.
fn marker_name(weight: &TensorInfo) -> String {
    format!("{}.comfy_quant", weight.module())
}

fn scale_name(weight: &TensorInfo) -> String {
    format!("{}.weight_scale", weight.module())
}

/// Checks that ComfyUI has the schemes, and that the source has no tensor with the name of a new
/// one.
fn check_marks(checkpoint: &Checkpoint, plan: &Plan) -> Result<(), String> {
    let names: HashSet<&str> = checkpoint.all_stored().map(|(_, s)| s.name.as_str()).collect();
    for (id, quantizer) in plan.iter() {
        let tensor = checkpoint.tensor(id);
        let name = tensor.name.escape_debug();
        let scheme = quantizer.scheme;
        let is_block = matches!(scheme, QuantizationScheme::PerBlock(..));
        if is_block || !scheme.is_scaled_int8() {
            return Err(format!(
                "ComfyUI's int8 has one scale per tensor or per channel, and '{name}' is to be {scheme}; choose --scheme per-channel"
            ));
        }
        let parts = [scale_name(tensor), marker_name(tensor)];
        part_taken(tensor, &parts, &names)?;
    }
    Ok(())
}

/// Returns the stored tensors of a marked tensor.
fn quantized_entries(checkpoint: &Checkpoint, plan: &Plan, id: TensorId) -> Option<Vec<Entry>> {
    let quantizer = plan.get(id)?;
    let tensor = checkpoint.tensor(id);
    let values = Entry {
        name: tensor.name.to_string(),
        dtype: DType::I8,
        shape: tensor.shape.clone(),
        bytes: tensor.parameters(),
        made_from: MadeFrom::Values { tensor: id, quantizer, stored_as: Int8Values::Signed },
    };
    // When ComfyUI quantizes a layer again, it infers the scheme from the rank of the scale.
    let scale_shape = match quantizer.scheme {
        QuantizationScheme::PerTensor(..) => Shape::new([])?,
        scheme => scheme.scale_shape(&tensor.shape),
    };
    let scales = Entry {
        name: scale_name(tensor),
        dtype: DType::F32,
        bytes: scale_shape.elements() * 4,
        shape: scale_shape,
        made_from: MadeFrom::Scales { tensor: id },
    };
    let marker = Entry {
        name: marker_name(tensor),
        dtype: DType::U8,
        shape: Shape::vector(MARKER.len() as u64),
        bytes: MARKER.len() as u64,
        made_from: MadeFrom::Literal(MARKER.as_bytes().to_vec()),
    };
    Some(vec![values, scales, marker])
}
