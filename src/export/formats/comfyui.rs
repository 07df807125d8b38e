//! `comfyui`: one safetensors file with ComfyUI's layers of int8, FP8 and NVFP4, which may be mixed.
//!
//! A layer `L` is stored as `L.weight` in I8, F8_E4M3 or U8, `L.weight_scale`, for NVFP4
//! `L.weight_scale_2`, and the marker `L.comfy_quant`, by which ComfyUI recognizes the format. The
//! scale of int8 (one number, or one per row) and of FP8 (one number) is F32. The marker is a tensor
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
use crate::plan::target::{Container, comfyui_marker};
use crate::quantization::{Preset, PresetPart, QuantizationScheme, Quantizer};
use crate::tensor::{DType, FloatType, Shape, TensorId, TensorInfo};

pub(super) struct ComfyUi;

impl FormatWriter for ComfyUi {
    fn name(&self) -> &'static str {
        "comfyui"
    }

    fn container(&self) -> Container {
        Container::ComfyUi
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
        if !Container::ComfyUi.can_store(scheme) {
            return Err(format!(
                "ComfyUI's int8 has one scale per tensor or per channel, and '{name}' is to be {scheme}; choose --scheme per-channel, FP8 or NVFP4_COMFYUI"
            ));
        }
        if let Some(why) = Container::ComfyUi.scheme_obstacle(scheme, &tensor.shape) {
            return Err(format!("'{name}' cannot be {scheme}: {why}; leave it out"));
        }
        let scales = match scheme.preset() {
            None => vec![scale_name(tensor)],
            Some(preset) => preset_parts(preset, tensor).map(|(name, ..)| name).collect(),
        };
        let parts = scales.into_iter().filter(|part| *part != *tensor.name);
        names.check_parts(tensor, parts.chain([marker_name(tensor)]))?;
    }
    Ok(())
}

/// Returns the name, the type, the shape and the content of each stored tensor of a weight with a
/// preset, without the marker.
fn preset_parts(
    preset: Preset,
    tensor: &TensorInfo,
) -> impl Iterator<Item = (String, DType, Shape, PresetPart)> {
    let parts = preset.parts(FloatType::F32, &tensor.shape).into_iter();
    parts.map(|stored| {
        let name = format!("{}{}", tensor.name, stored.suffix);
        let shape = match stored.part {
            PresetPart::GlobalScale => Shape::scalar(),
            _ => stored.shape,
        };
        (name, stored.dtype, shape, stored.part)
    })
}

/// Returns the stored tensors of a marked tensor.
fn quantized_entries(checkpoint: &Checkpoint, plan: &Plan, id: TensorId) -> Option<Vec<Entry>> {
    let quantizer = plan.get(id)?;
    let tensor = checkpoint.tensor(id);
    let mut entries = match quantizer.scheme.preset() {
        Some(preset) => preset_parts(preset, tensor)
            .map(|(name, dtype, shape, part)| {
                let made_from = match part {
                    PresetPart::Values => MadeFrom::PresetValues { tensor: id, quantizer },
                    part => MadeFrom::PresetPart { tensor: id, part },
                };
                Entry::new(name, dtype, shape, made_from)
            })
            .collect::<Option<Vec<Entry>>>()?,
        None => int8_entries(tensor, id, quantizer)?,
    };
    let marker = comfyui_marker(quantizer.scheme);
    entries.push(Entry::new(
        marker_name(tensor),
        DType::U8,
        Shape::vector(marker.len() as u64),
        MadeFrom::Literal(marker.as_bytes().to_vec()),
    )?);
    Some(entries)
}

/// Returns the values and the scales of a weight in int8.
fn int8_entries(tensor: &TensorInfo, id: TensorId, quantizer: Quantizer) -> Option<Vec<Entry>> {
    // When ComfyUI quantizes a layer again, it infers the scheme from the rank of the scale.
    let scale_shape = match quantizer.scheme {
        QuantizationScheme::PerTensor(..) => Shape::scalar(),
        scheme => scheme.scale_shape(&tensor.shape),
    };
    Some(vec![
        Entry::int8_values(tensor, id, quantizer)?,
        Entry::new(scale_name(tensor), DType::F32, scale_shape, MadeFrom::Scales { tensor: id })?,
    ])
}
