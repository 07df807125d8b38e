//! `torchao`: a model directory with torchao's `Int8Tensor` weights, which transformers loads. A
//! layer `L` is stored as `L._weight_qdata` in I8, `L._weight_scale` in F32 and
//! `L._weight_zero_point` as I8 zeros. The class and parameters of every tensor are in
//! `__metadata__`.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::packed::Int8Values;
use crate::export::error::SaveError;
use crate::export::formats::model_directory::{
    StoredNames, add_config, check_file_name, model_obstacle,
};
use crate::export::formats::provenance::note_quantizers;
use crate::export::formats::shards::{self, FileMetadata, entries};
use crate::export::formats::writer::{FormatWriter, OutputKind};
use crate::export::left_out::is_left_out;
use crate::export::output_plan::{Entry, MadeFrom, OutputPlan};
use crate::export::request::Request;
use crate::plan::Plan;
use crate::plan::target::Container;
use crate::quantization::QuantizationScheme;
use crate::tensor::{DType, FloatType, Shape, TensorId, TensorInfo};
use serde_json::{Value, json};

/// The metadata key for the names of all tensors.
const NAMES_KEY: &str = "tensor_names";

pub(super) struct Torchao;

impl FormatWriter for Torchao {
    fn name(&self) -> &'static str {
        "torchao"
    }

    fn container(&self) -> Container {
        Container::Torchao
    }

    fn output_kind(&self) -> OutputKind {
        OutputKind::Directory
    }

    fn default_scheme(&self, _: &Checkpoint, _: &[TensorId]) -> QuantizationScheme {
        QuantizationScheme::PER_CHANNEL
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
        let refuse = |why| request.refuse(why);
        check_marks(checkpoint, plan).map_err(refuse)?;
        add_config(checkpoint, output_plan, [("quantization_config", quantization_config(plan))])?;
        let tensors = described_tensors(checkpoint, plan);
        let shards = entries(checkpoint, |tensor, _| quantized_entries(checkpoint, plan, tensor?));
        shards::lay_out(
            checkpoint,
            shards,
            &|mut metadata, entries| {
                note_quantizers(checkpoint, plan, entries, &mut metadata);
                // transformers keeps one value for each key of all files, so every file
                // describes all tensors.
                metadata.extend(tensors.iter().cloned());
                metadata
            },
            output_plan,
        )?;
        check_file_name(checkpoint, plan, output_plan).map_err(refuse)
    }
}

/// Returns the name of a part of a weight: `L._weight_scale` for `L.weight`.
fn part_name(weight: &TensorInfo, part: &str) -> String {
    format!("{}._weight_{part}", weight.module())
}

/// Checks that torchao has the schemes, and that the source has no tensor with the name of a new
/// one.
fn check_marks(checkpoint: &Checkpoint, plan: &Plan) -> Result<(), String> {
    let names = StoredNames::of(checkpoint);
    for (id, quantizer) in plan.iter() {
        let tensor = checkpoint.tensor(id);
        let (name, scheme) = (tensor.name.escape_debug(), quantizer.scheme);
        if !scheme.is_scaled_int8() {
            return Err(format!("torchao has int8 here, and '{name}' is to be {scheme}"));
        }
        let columns = tensor.shape.row_len();
        if let QuantizationScheme::PerBlock(_, _, size) = scheme
            && !columns.is_multiple_of(u64::from(size))
        {
            return Err(format!(
                "groups of {size} do not divide the {columns} columns of '{name}'; choose another size, or leave it out"
            ));
        }
        let parts = ["qdata", "scale", "zero_point"].map(|part| part_name(tensor, part));
        names.check_parts(tensor, parts)?;
    }
    Ok(())
}

/// Returns the rows and columns that share a scale.
fn block_of(scheme: QuantizationScheme, shape: &Shape) -> [u64; 2] {
    match scheme {
        QuantizationScheme::PerTensor(..) => [shape.channels(), shape.row_len()],
        QuantizationScheme::PerChannel(..)
        | QuantizationScheme::Preset(_)
        | QuantizationScheme::Ggml(_) => [1, shape.row_len()],
        QuantizationScheme::PerBlock(_, _, size) => [1, u64::from(size)],
    }
}

/// Returns the stored tensors of a marked tensor.
fn quantized_entries(checkpoint: &Checkpoint, plan: &Plan, id: TensorId) -> Option<Vec<Entry>> {
    let quantizer = plan.get(id)?;
    let tensor = checkpoint.tensor(id);
    // torchao's scales have the rank of the weight.
    let scale_shape = match quantizer.scheme {
        QuantizationScheme::PerTensor(..) => Shape::new([1, 1])?,
        scheme => scheme.scale_shape(&tensor.shape),
    };
    let entry = |part, dtype, shape: &Shape, made_from| {
        Entry::new(part_name(tensor, part), dtype, shape.clone(), made_from)
    };
    let values = MadeFrom::Values { tensor: id, quantizer, stored_as: Int8Values::Signed };
    Some(vec![
        entry("qdata", DType::I8, &tensor.shape, values)?,
        entry("scale", DType::F32, &scale_shape, MadeFrom::Scales { tensor: id })?,
        entry("zero_point", DType::I8, &scale_shape, MadeFrom::Zeros)?,
    ])
}

/// Returns torchao's metadata of all tensors: class, parameters and parts.
fn described_tensors(checkpoint: &Checkpoint, plan: &Plan) -> FileMetadata {
    let is_written = |id: &TensorId| {
        checkpoint.plain(*id).is_some_and(|stored| !is_left_out(checkpoint, stored))
    };
    let ids: Vec<TensorId> = checkpoint.ids().filter(is_written).collect();
    let names: Vec<&str> = ids.iter().map(|&id| checkpoint.tensor(id).name.as_str()).collect();
    let names = Value::from(names).to_string();
    let described = ids.iter().map(|&id| {
        let tensor = checkpoint.tensor(id);
        let description = match plan.get(id) {
            None => json!({ "_type": "Tensor" }),
            Some(quantizer) => json!({
                "_type": "Int8Tensor",
                "_data": {
                    "act_quant_kwargs": null,
                    "reduce_range": false,
                    "block_size": block_of(quantizer.scheme, &tensor.shape),
                    "dtype": { "_type": "torch.dtype", "_data": torch_name(tensor) },
                },
                "_tensor_data_names": ["zero_point", "qdata", "scale"],
            }),
        };
        (tensor.name.to_string(), description.to_string())
    });
    described.chain([(NAMES_KEY.to_owned(), names)]).collect()
}

/// Returns PyTorch's name for a tensor's type.
fn torch_name(tensor: &TensorInfo) -> &'static str {
    match tensor.dtype.float() {
        Some(FloatType::F64) => "float64",
        Some(FloatType::F16) => "float16",
        Some(FloatType::BF16) => "bfloat16",
        Some(FloatType::F32) | None => "float32",
    }
}

/// Returns the `quantization_config` of `config.json`. It has the granularity of the first marked
/// tensor; loading follows the metadata of each tensor.
fn quantization_config(plan: &Plan) -> Value {
    let scheme = plan.iter().next().map(|(_, quantizer)| quantizer.scheme);
    let (class, data) = match scheme {
        Some(QuantizationScheme::PerTensor(..)) => ("PerTensor", json!({})),
        Some(QuantizationScheme::PerBlock(_, _, size)) => {
            ("PerGroup", json!({ "group_size": size }))
        }
        _ => ("PerRow", json!({ "dim": -1 })),
    };
    json!({
        "quant_method": "torchao",
        "quant_type": { "default": {
            "_type": "Int8WeightOnlyConfig",
            "_version": 2,
            "_data": {
                "group_size": null,
                "granularity": { "_type": class, "_version": 1, "_data": data },
                "set_inductor_config": true,
            },
        } },
        "modules_to_not_convert": null,
        "include_input_output_embeddings": false,
        "untie_embedding_weights": false,
    })
}
