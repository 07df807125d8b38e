//! `int8` and `int8-weight-only`: compressed-tensors directories, loaded by transformers,
//! sentence-transformers, vLLM and llama.cpp's converter. Linear weights are int8, their scales
//! have the type of the weights, and `config.json` describes the quantization.
//!
//! Each rule here exists because a load failed or silently gave wrong values.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::packed::Int8Values;
use crate::export::container_check;
use crate::export::error::SaveError;
use crate::export::formats::model_directory::{check_file_name, model_obstacle};
use crate::export::formats::provenance::note_quantizers;
use crate::export::formats::shards::{self, entries};
use crate::export::formats::writer::{FormatWriter, OutputKind};
use crate::export::input_scales::input_scale_name;
use crate::export::module_patterns;
use crate::export::output_plan::{Entry, MadeFrom, OutputPlan, TextFile};
use crate::export::request::Request;
use crate::export::sidecar_files::pretty;
use crate::plan::target::{Container, LinearScheme};
use crate::plan::{Plan, dividing_block};
use crate::quantization::{QuantizationScheme, narrowed_scale};
use crate::tensor::{DType, Shape, TensorId, write_f64};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};
use std::path::Path;

/// Default group sizes, preferred first.
const GROUP_SIZES: [u32; 3] = [128, 64, 32];

/// A writer of compressed-tensors directories.
pub(super) struct CompressedTensors {
    name: &'static str,
    packing: Packing,
}

/// The storage of int8 weights, named as in compressed-tensors.
#[derive(Clone, Copy, PartialEq)]
enum Packing {
    /// `int-quantized`: I8 weights; activations are quantized when the model runs.
    IntQuantized,
    /// `pack-quantized`: four weights in a 32-bit word; activations stay floats.
    PackQuantized,
}

impl Packing {
    fn name(self) -> &'static str {
        match self {
            Packing::IntQuantized => "int-quantized",
            Packing::PackQuantized => "pack-quantized",
        }
    }

    fn container(self) -> Container {
        Container::CompressedTensors(match self {
            Packing::IntQuantized => LinearScheme::W8A8,
            Packing::PackQuantized => LinearScheme::W8A16,
        })
    }
}

impl CompressedTensors {
    pub(super) const INT8: CompressedTensors =
        CompressedTensors { name: "int8", packing: Packing::IntQuantized };

    pub(super) const INT8_WEIGHT_ONLY: CompressedTensors =
        CompressedTensors { name: "int8-weight-only", packing: Packing::PackQuantized };
}

impl FormatWriter for CompressedTensors {
    fn name(&self) -> &'static str {
        self.name
    }

    fn container(&self) -> Container {
        self.packing.container()
    }

    fn output_kind(&self) -> OutputKind {
        OutputKind::Directory
    }

    fn default_scheme(&self, checkpoint: &Checkpoint, tensors: &[TensorId]) -> QuantizationScheme {
        match self.packing {
            Packing::IntQuantized => QuantizationScheme::PER_CHANNEL,
            Packing::PackQuantized => {
                let shapes: Vec<_> =
                    tensors.iter().map(|&id| &checkpoint.tensor(id).shape).collect();
                let blocks = GROUP_SIZES.map(QuantizationScheme::per_block);
                let block = dividing_block(&shapes, blocks.into_iter());
                block.unwrap_or(QuantizationScheme::PER_CHANNEL)
            }
        }
    }

    fn checkpoint_obstacle(&self, checkpoint: &Checkpoint) -> Option<String> {
        model_obstacle(checkpoint)
    }

    fn lay_out(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        request: &Request,
        output_plan: &mut OutputPlan,
    ) -> Result<(), SaveError> {
        let refuse = |why: String| SaveError::Unfit { path: request.out.clone(), why };
        let config = checkpoint.model_config()?.unwrap_or_default();
        let scheme = self.one_scheme(checkpoint, plan).map_err(refuse)?;
        self.check_names(checkpoint, plan).map_err(refuse)?;
        let module = |id: TensorId| checkpoint.tensor(id).module().to_owned();
        let selected: BTreeSet<String> = plan.iter().map(|(id, _)| module(id)).collect();
        let all: BTreeSet<String> = checkpoint.ids().map(module).collect();
        let targets =
            module_patterns::patterns(&selected, &all, config.model_type()).map_err(refuse)?;
        let shards = entries(checkpoint, |tensor, _| self.entries(checkpoint, plan, tensor?));
        let mut json = config.json().clone();
        let quantization = self.quantization_config(scheme, &targets, self.has_static_inputs(plan));
        json.insert("quantization_config".into(), quantization);
        output_plan.texts.push(TextFile { name: "config.json".into(), text: pretty(&json) });
        shards::lay_out(
            checkpoint,
            shards,
            &|mut metadata, entries| {
                note_quantizers(checkpoint, plan, entries, &mut metadata);
                metadata
            },
            output_plan,
        )?;
        check_file_name(checkpoint, plan, output_plan).map_err(refuse)
    }

    fn check_container(&self, file: &Path) -> Result<(), String> {
        container_check::safetensors(file)
    }
}

impl CompressedTensors {
    /// Returns whether the scales of the layers' inputs are stored.
    fn has_static_inputs(&self, plan: &Plan) -> bool {
        self.packing == Packing::IntQuantized && plan.inputs.is_static()
    }

    /// Fails if the source already has a tensor with the name of a new one, or if the scale of a
    /// layer's inputs is missing.
    fn check_names(&self, checkpoint: &Checkpoint, plan: &Plan) -> Result<(), String> {
        let static_inputs = self.has_static_inputs(plan);
        let names: HashSet<&str> = checkpoint.all_stored().map(|(_, s)| s.name.as_str()).collect();
        for (id, _) in plan.iter() {
            let tensor = checkpoint.tensor(id);
            let name = tensor.name.escape_debug();
            if static_inputs && plan.inputs.scale(id).is_none() {
                return Err(format!(
                    "no inputs were recorded for '{name}', which static quantization needs; leave it out, or quantize activations as they come"
                ));
            }
            let input_scale = static_inputs.then(|| input_scale_name(tensor));
            let parts = ["scale", "packed", "shape"].map(|part| format!("{}_{part}", tensor.name));
            let taken = parts.into_iter().chain(input_scale).find(|p| names.contains(p.as_str()));
            if let Some(part) = taken {
                let part = part.escape_debug();
                return Err(format!(
                    "a part of '{name}' would be named '{part}', and the source has a tensor of that name; leave this one out"
                ));
            }
        }
        Ok(())
    }

    /// Returns the stored tensors of a marked tensor.
    fn entries(&self, checkpoint: &Checkpoint, plan: &Plan, id: TensorId) -> Option<Vec<Entry>> {
        let quantizer = plan.get(id)?;
        let tensor = checkpoint.tensor(id);
        let scale_type = self.packing.container().scale_storage().scale_type(tensor.dtype.float()?);
        let values = |stored_as| MadeFrom::Values { tensor: id, quantizer, stored_as };
        let mut entries = Vec::new();
        match self.packing {
            Packing::IntQuantized => {
                let made_from = values(Int8Values::Signed);
                let (name, shape) = (tensor.name.to_string(), tensor.shape.clone());
                entries.push(entry(name, DType::I8, shape, made_from)?);
            }
            Packing::PackQuantized => {
                let made_from = values(Int8Values::Offset);
                let words = Shape::new([tensor.shape.channels(), tensor.shape.row_len() / 4])?;
                entries.push(entry(
                    format!("{}_packed", tensor.name),
                    DType::I32,
                    words,
                    made_from,
                )?);
            }
        }
        let scales = MadeFrom::Scales { tensor: id };
        let scale_shape = quantizer.scheme.scale_shape(&tensor.shape);
        let name = format!("{}_scale", tensor.name);
        entries.push(entry(name, scale_type.dtype(), scale_shape, scales)?);
        if let Some(scale) = plan.inputs.scale(id).filter(|_| self.has_static_inputs(plan)) {
            let mut bytes = Vec::new();
            write_f64(scale_type, narrowed_scale(scale, scale_type).into(), &mut bytes);
            let (name, made_from) = (input_scale_name(tensor), MadeFrom::Literal(bytes));
            entries.push(entry(name, scale_type.dtype(), Shape::vector(1), made_from)?);
        }
        if self.packing == Packing::PackQuantized {
            let dims = tensor.shape.dims().iter().flat_map(|&n| (n as i64).to_le_bytes());
            let made_from = MadeFrom::Literal(dims.collect());
            let name = format!("{}_shape", tensor.name);
            entries.push(entry(name, DType::I64, Shape::vector(2), made_from)?);
        }
        Some(entries)
    }

    /// Returns the scheme of all marked tensors; an error if it differs or is not supported.
    fn one_scheme(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
    ) -> Result<QuantizationScheme, String> {
        let mut all = plan.iter();
        let Some((_, first)) = all.next() else { return Ok(QuantizationScheme::PER_CHANNEL) };
        let scheme = first.scheme;
        if let Some((id, other)) = all.find(|(_, quantizer)| quantizer.scheme != scheme) {
            let name = checkpoint.tensor(id).name.escape_debug();
            return Err(format!(
                "{} has one scheme for all tensors; '{name}' is to be {}, others {scheme}",
                self.name, other.scheme
            ));
        }
        if !scheme.is_scaled_int8() {
            return Err(format!("{scheme} is not a scheme of {}", self.name));
        }
        match (self.packing, scheme) {
            (Packing::PackQuantized, QuantizationScheme::PerBlock(_, _, size)) => {
                if !size.is_multiple_of(4) {
                    return Err(format!("{scheme} does not fill words of four values"));
                }
            }
            (Packing::PackQuantized, QuantizationScheme::PerTensor(..)) => {
                return Err(
                    "int8-weight-only has a scale per channel or per block:N, not one per tensor"
                        .into(),
                );
            }
            (Packing::PackQuantized, QuantizationScheme::PerChannel(..)) => {}
            (Packing::IntQuantized, QuantizationScheme::PerBlock(..)) => {
                return Err(format!(
                    "int8 has a scale per channel or per tensor, not {scheme}; int8-weight-only and safetensors have blocks"
                ));
            }
            (
                Packing::PackQuantized,
                QuantizationScheme::Preset(_) | QuantizationScheme::Ggml(_),
            ) => {
                return Err(format!("{scheme} is not a scheme of {}", self.name));
            }
            (Packing::IntQuantized, _) => return Ok(scheme),
        }
        let container = Container::CompressedTensors(LinearScheme::W8A16);
        let mut obstacles = plan.iter().filter_map(|(id, _)| {
            let tensor = checkpoint.tensor(id);
            Some((tensor, container.scheme_obstacle(scheme, &tensor.shape)?))
        });
        if let Some((tensor, why)) = obstacles.next() {
            let name = tensor.name.escape_debug();
            let also = match obstacles.count() {
                0 => String::new(),
                n => format!(", nor can {n} more"),
            };
            return Err(format!(
                "tensor '{name}' cannot be {scheme}{also}: {why}; choose another size, or leave it out"
            ));
        }
        Ok(scheme)
    }

    /// Returns the `quantization_config` of `config.json`. The format is in the group and at the
    /// top level, because loaders look for it in both places.
    fn quantization_config(
        &self,
        scheme: QuantizationScheme,
        targets: &[String],
        static_inputs: bool,
    ) -> Value {
        let mut weights = json!({
            "num_bits": 8,
            "type": "int",
            "symmetric": true,
            "strategy": match scheme {
                QuantizationScheme::PerTensor(..) => "tensor",
                QuantizationScheme::PerChannel(..) | QuantizationScheme::Ggml(_) => "channel",
                QuantizationScheme::PerBlock(..) | QuantizationScheme::Preset(_) => "group",
            },
            "dynamic": false,
        });
        if let QuantizationScheme::PerBlock(_, _, size) = scheme {
            weights["group_size"] = size.into();
        }
        let format = self.packing.name();
        let mut group = json!({ "targets": targets, "format": format, "weights": weights });
        if self.packing == Packing::IntQuantized {
            group["input_activations"] = json!({
                "num_bits": 8, "type": "int", "symmetric": true,
                "strategy": if static_inputs { "tensor" } else { "token" },
                "dynamic": !static_inputs,
            });
        }
        json!({
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "format": format,
            "dequantize": true,
            "ignore": [],
            "config_groups": { "group_0": group },
        })
    }
}

pub(super) fn entry(
    name: String,
    dtype: DType,
    shape: Shape,
    made_from: MadeFrom,
) -> Option<Entry> {
    let bytes = dtype.bytes_for(shape.elements())?;
    Some(Entry { name, dtype, shape, bytes, made_from })
}
