//! `comfyui`: one safetensors file with ComfyUI's `int8_tensorwise` layers.
//!
//! A layer `L` is stored as `L.weight` in I8, `L.weight_scale` in F32 (one number, or one per row)
//! and the marker `L.comfy_quant`, by which ComfyUI recognizes the format. The marker is a tensor
//! rather than an entry of `__metadata__`: ComfyUI renames tensors together with their layer, and
//! some of its code paths do not read metadata.

use crate::checkpoint::Checkpoint;
use crate::export::error::SaveError;
use crate::export::formats::model_directory::StoredNames;
use crate::export::formats::provenance::with_provenance;
use crate::export::formats::shards::{self, entries};
use crate::export::formats::writer::{FormatWriter, OutputKind};
use crate::export::output_plan::{Entry, MadeFrom, OutputPlan};
use crate::export::request::Request;
use crate::plan::Plan;
use crate::plan::target::COMFYUI_MARKER;
use crate::quantization::QuantizationScheme;
use crate::tensor::{DType, Shape, TensorId, TensorInfo};

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
        let refuse = |why| request.refuse(why);
        check_marks(checkpoint, plan).map_err(refuse)?;
        let shards = entries(checkpoint, |tensor, _| quantized_entries(checkpoint, plan, tensor?));
        shards::lay_out(
            checkpoint,
            shards,
            &|metadata, entries| with_provenance(checkpoint, plan, metadata, entries),
            output_plan,
        )
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
    let names = StoredNames::of(checkpoint);
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
        names.check_parts(tensor, parts)?;
    }
    Ok(())
}

/// Returns the stored tensors of a marked tensor.
fn quantized_entries(checkpoint: &Checkpoint, plan: &Plan, id: TensorId) -> Option<Vec<Entry>> {
    let quantizer = plan.get(id)?;
    let tensor = checkpoint.tensor(id);
    // When ComfyUI quantizes a layer again, it infers the scheme from the rank of the scale.
    let scale_shape = match quantizer.scheme {
        QuantizationScheme::PerTensor(..) => Shape::new([])?,
        scheme => scheme.scale_shape(&tensor.shape),
    };
    let marker = Shape::vector(COMFYUI_MARKER.len() as u64);
    Some(vec![
        Entry::int8_values(tensor, id, quantizer)?,
        Entry::new(scale_name(tensor), DType::F32, scale_shape, MadeFrom::Scales { tensor: id })?,
        Entry::new(
            marker_name(tensor),
            DType::U8,
            marker,
            MadeFrom::Literal(COMFYUI_MARKER.as_bytes().to_vec()),
        )?,
    ])
}
