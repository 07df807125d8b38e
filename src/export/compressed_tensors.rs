//! compressed-tensors out: what transformers, sentence-transformers, vLLM and llama.cpp's
//! converter load. A model's directory, its Linear weights as int8 with scales in the
//! model's own type, and a word in `config.json` that says which.
//!
//! The rules here were each found by a load that failed, or that went silently wrong.

use crate::checkpoint::packed::Int8Values;
use crate::checkpoint::python_json;
use crate::checkpoint::{Checkpoint, Config};
use crate::export::error::SaveError;
use crate::export::module_patterns;
use crate::export::output_plan::{Entry, MadeFrom, TextFile};
use crate::export::request::{OutputFormat, Request};
use crate::export::safetensors::{Shards, entries};
use crate::plan::{Plan, obstacle};
use crate::quantization::{QuantizationScheme, QuantizationType, narrowed_scale};
use crate::tensor::{DType, FloatType, Shape, TensorId, TensorInfo, write_f64};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Group sizes to choose from, the largest that divides first.
const GROUPS: [u32; 3] = [128, 64, 32];

/// Modules that some server joins into one layer, which is then quantized whole or not.
const JOINED: [&[&str]; 5] = [
    &["q_proj", "k_proj", "v_proj"],
    &["query", "key", "value"],
    &["q_lin", "k_lin", "v_lin"],
    &["gate_proj", "up_proj"],
    &["w1", "w3"],
];

/// The last part of the name of an output head.
const HEADS: [&str; 2] = ["lm_head", "embed_out"];

/// Architectures whose attention and MLP are `Conv1D`, with weights `[in, out]`.
const CONV1D_MODELS: [&str; 4] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer"];
const CONV1D: [&str; 4] = ["c_attn", "c_proj", "c_fc", "q_attn"];

/// What a save in this container consists of, besides copies.
pub(super) struct Made {
    pub shards: Shards,
    pub config: TextFile,
    pub warnings: Vec<String>,
}

/// The scheme tensors get when none is asked for: one that divides all of them.
pub(super) fn default_group_scheme(shapes: &[&Shape]) -> QuantizationScheme {
    let divides =
        |size: &&u32| shapes.iter().all(|s| s.row_len().is_multiple_of(u64::from(**size)));
    GROUPS
        .iter()
        .find(divides)
        .map_or(QuantizationScheme::PER_CHANNEL, |&size| QuantizationScheme::per_block(size))
}

/// Why a checkpoint cannot be saved in this container at all.
pub(super) fn unfit(checkpoint: &Checkpoint) -> Option<String> {
    let config = match checkpoint.model_config() {
        Ok(config) => config,
        Err(error) => return Some(error.problem.to_string()),
    };
    if config.is_none() {
        return Some("there is no config.json beside it, which says of what model it is".into());
    }
    let quantized = checkpoint.ids().find_map(|id| Some((id, checkpoint.packed_format(id)?)));
    quantized.map(|(id, layout)| {
        let name = checkpoint.tensor(id).name.escape_debug();
        format!("'{name}' is quantized already ({}); dequantize the model first", layout.name())
    })
}

/// Why this container cannot hold a tensor as int8: it is for Linear layers only.
pub(super) fn not_linear(checkpoint: &Checkpoint, config: &Config, id: TensorId) -> Option<String> {
    if let Some(obstacle) = obstacle(checkpoint, id) {
        return Some(obstacle.to_string());
    }
    let tensor = checkpoint.tensor(id);
    let (module, last) = match tensor.name.strip_suffix(".weight") {
        Some(module) => (module, module.rsplit('.').next().unwrap_or(module)),
        None if tensor.shape.rank() == 3 => {
            return Some("it holds several experts in one tensor of three dimensions".into());
        }
        None => {
            return Some(
                "it is not the weight of a module: its name does not end in .weight".into(),
            );
        }
    };
    match tensor.shape.rank() {
        2 => {}
        3 => {
            return Some("it has three dimensions: a convolution, or experts in one tensor".into());
        }
        n => return Some(format!("it has {n} dimensions: a convolution")),
    }
    let conv1d = config.model_type().is_some_and(|model| CONV1D_MODELS.contains(&model));
    if conv1d && CONV1D.contains(&last) {
        return Some("its layer is a Conv1D, whose weight is transposed".into());
    }
    let routes = ["gate", "router"].contains(&last);
    let parent = module.strip_suffix(last).unwrap_or_default();
    if routes
        && checkpoint.tensors().iter().any(|t| t.name.starts_with(&format!("{parent}experts")))
    {
        return Some("it is the router of a mixture of experts".into());
    }
    None
}

/// The entries, the config and the warnings of a save.
pub(super) fn quantized(
    checkpoint: &Checkpoint,
    plan: &Plan,
    format: OutputFormat,
    request: &Request,
) -> Result<Made, SaveError> {
    let refuse = |why: String| SaveError::Unfit { path: request.out.clone(), why };
    let source = |why: String| SaveError::Unfit { path: checkpoint.path().to_owned(), why };
    let config = checkpoint.model_config()?;
    if let Some(why) = unfit(checkpoint) {
        return Err(source(format!("cannot be saved as {}: {why}", format.name())));
    }
    let config = config.unwrap_or_default();
    for (id, _) in plan.iter() {
        if let Some(why) = not_linear(checkpoint, &config, id) {
            let name = checkpoint.tensor(id).name.escape_debug();
            return Err(source(format!(
                "tensor '{name}' cannot be int8 in {}: {why}; leave it out, or choose the format safetensors",
                format.name()
            )));
        }
    }
    let scheme = one_scheme(checkpoint, plan, format).map_err(refuse)?;
    let static_inputs = format == OutputFormat::Int8 && plan.inputs.is_static();
    let names: HashSet<&str> = checkpoint.all_stored().map(|(_, s)| s.name.as_str()).collect();
    for (id, _) in plan.iter() {
        let name = &checkpoint.tensor(id).name;
        let input_scale = static_inputs.then(|| input_scale_name(checkpoint.tensor(id)));
        if static_inputs && plan.inputs.scale(id).is_none() {
            return Err(refuse(format!(
                "no inputs were recorded for '{}', which static quantization needs; leave it out, or quantize activations as they come",
                name.escape_debug()
            )));
        }
        let parts = ["scale", "packed", "shape"].map(|part| format!("{name}_{part}"));
        for part in parts.into_iter().chain(input_scale) {
            if names.contains(part.as_str()) {
                let (name, part) = (name.escape_debug(), part.escape_debug());
                return Err(refuse(format!(
                    "a part of '{name}' would be named '{part}', and the source has a tensor of that name; leave this one out"
                )));
            }
        }
    }
    let modules = |id: TensorId| checkpoint.tensor(id).module().to_owned();
    let selected: BTreeSet<String> = plan.iter().map(|(id, _)| modules(id)).collect();
    let all: BTreeSet<String> = checkpoint.ids().map(modules).collect();
    let targets =
        module_patterns::patterns(&selected, &all, config.model_type()).map_err(refuse)?;
    let shards = entries(checkpoint, |tensor, _| {
        let id = tensor?;
        let quantizer = plan.get(id)?;
        let info = checkpoint.tensor(id);
        let packed = format == OutputFormat::Int8WeightOnly;
        let values = MadeFrom::Values {
            tensor: id,
            quantizer,
            stored_as: if packed { Int8Values::Offset } else { Int8Values::Signed },
        };
        let mut made = match packed {
            false => vec![entry(info.name.to_string(), DType::I8, info.shape.clone(), values)?],
            true => {
                let words = Shape::new([info.shape.channels(), info.shape.row_len() / 4])?;
                vec![entry(format!("{}_packed", info.name), DType::I32, words, values)?]
            }
        };
        let scales = MadeFrom::Scales { tensor: id };
        let scale_shape = quantizer.scheme.scale_shape(&info.shape);
        made.push(entry(format!("{}_scale", info.name), scale_type(info), scale_shape, scales)?);
        if let Some(scale) = plan.inputs.scale(id).filter(|_| static_inputs) {
            let to = scale_type(info);
            let (float, mut bytes) = (to.float()?, Vec::new());
            write_f64(float, narrowed_scale(scale, float).into(), &mut bytes);
            let made_from = MadeFrom::Literal(bytes);
            made.push(entry(input_scale_name(info), to, Shape::vector(1), made_from)?);
        }
        if packed {
            let dims = info.shape.dims().iter().flat_map(|&n| (n as i64).to_le_bytes()).collect();
            let dims = MadeFrom::Literal(dims);
            made.push(entry(format!("{}_shape", info.name), DType::I64, Shape::vector(2), dims)?);
        }
        Some(made)
    });
    let mut json = config.json().clone();
    let config_of = quantization_config(format, scheme, &targets, static_inputs);
    json.insert("quantization_config".into(), config_of);
    Ok(Made {
        shards,
        config: TextFile { name: "config.json".into(), text: pretty(&json) },
        warnings: warnings(&selected, &all, &config, scheme),
    })
}

/// The name of the calibrated scale of a layer's inputs.
pub(super) fn input_scale_name(weight: &TensorInfo) -> String {
    match weight.module() {
        "" => "input_scale".to_owned(),
        module => format!("{module}.input_scale"),
    }
}

fn entry(name: String, dtype: DType, shape: Shape, made_from: MadeFrom) -> Option<Entry> {
    let bytes = dtype.bytes_for(shape.elements())?;
    Some(Entry { name, dtype, shape, bytes, made_from })
}

/// The model's own type, but for F64, which no loader has scales of.
fn scale_type(tensor: &TensorInfo) -> DType {
    match tensor.dtype.float() {
        Some(FloatType::F64) | None => DType::F32,
        Some(float) => float.dtype(),
    }
}

/// A config as it is written.
pub(super) fn pretty(json: &Map<String, Value>) -> String {
    // Strings and numbers always serialize.
    python_json::from_json(serde_json::to_string_pretty(json).unwrap_or_default()) + "\n"
}

/// The one scheme of all tensors: the container has one group of settings.
fn one_scheme(
    checkpoint: &Checkpoint,
    plan: &Plan,
    format: OutputFormat,
) -> Result<QuantizationScheme, String> {
    let mut all = plan.iter();
    let Some((_, first)) = all.next() else { return Ok(QuantizationScheme::PER_CHANNEL) };
    let scheme = first.scheme;
    if let Some((id, other)) = all.find(|(_, quantizer)| quantizer.scheme != scheme) {
        let name = checkpoint.tensor(id).name.escape_debug();
        return Err(format!(
            "{} has one scheme for all tensors; '{name}' is to be {}, others {scheme}",
            format.name(),
            other.scheme
        ));
    }
    let int8 = scheme.quantization_type() == QuantizationType::QInt8;
    let block = match (format, scheme) {
        _ if !int8 => return Err(format!("{scheme} values can be measured, not saved")),
        (OutputFormat::Int8WeightOnly, QuantizationScheme::PerBlock(_, _, block)) => block,
        (OutputFormat::Int8WeightOnly, QuantizationScheme::PerTensor(..)) => {
            return Err(
                "int8-weight-only has a scale per channel or per block:N, not one per tensor"
                    .into(),
            );
        }
        // Words hold four values.
        (OutputFormat::Int8WeightOnly, _) => 4,
        (_, QuantizationScheme::PerBlock(..)) => {
            return Err(format!(
                "int8 has a scale per channel or per tensor, not {scheme}; int8-weight-only and safetensors have blocks"
            ));
        }
        _ => return Ok(scheme),
    };
    for (id, _) in plan.iter() {
        let tensor = checkpoint.tensor(id);
        if !tensor.shape.row_len().is_multiple_of(u64::from(block)) || !block.is_multiple_of(4) {
            return Err(format!(
                "{scheme} does not divide the {} columns of '{}' into groups of whole words; choose another size, or leave it out",
                tensor.shape.row_len(),
                tensor.name.escape_debug()
            ));
        }
    }
    Ok(scheme)
}

/// What `config.json` says, with both a format for all and one for the group.
fn quantization_config(
    format: OutputFormat,
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
            QuantizationScheme::PerChannel(..) => "channel",
            QuantizationScheme::PerBlock(..) => "group",
        },
        "dynamic": false,
    });
    if let QuantizationScheme::PerBlock(_, _, size) = scheme {
        weights["group_size"] = size.into();
    }
    let container = match format {
        OutputFormat::Int8WeightOnly => "pack-quantized",
        _ => "int-quantized",
    };
    let mut group = json!({ "targets": targets, "format": container, "weights": weights });
    if format == OutputFormat::Int8 {
        group["input_activations"] = json!({
            "num_bits": 8, "type": "int", "symmetric": true,
            "strategy": if static_inputs { "tensor" } else { "token" },
            "dynamic": !static_inputs,
        });
    }
    json!({
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": container,
        "dequantize": true,
        "ignore": [],
        "config_groups": { "group_0": group },
    })
}

/// What loads, but not everywhere.
fn warnings(
    selected: &BTreeSet<String>,
    all: &BTreeSet<String>,
    config: &Config,
    scheme: QuantizationScheme,
) -> Vec<String> {
    let mut warnings = Vec::new();
    // Per set of joined modules: the layers that are split.
    let mut split: BTreeMap<&[&str], Vec<&str>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for module in selected {
        let (parent, last) = module.rsplit_once('.').unwrap_or(("", module));
        let Some(joined) = JOINED.iter().find(|joined| joined.contains(&last)) else { continue };
        if !seen.insert((parent, joined)) {
            continue;
        }
        let sibling = |name: &&&str| match parent {
            "" => (**name).to_owned(),
            _ => format!("{parent}.{name}"),
        };
        let left_out = joined.iter().any(|name| {
            let sibling = sibling(&name);
            all.contains(&sibling) && !selected.contains(&sibling)
        });
        if left_out {
            split.entry(joined).or_default().push(parent);
        }
    }
    for (joined, parents) in split {
        let first = parents.first().copied().unwrap_or_default().escape_debug();
        let more = match parents.len() {
            0 | 1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        warnings.push(format!(
            "vLLM joins {} into one layer and loads them only if all or none are quantized; they are split in '{first}'{more}",
            joined.join(", ")
        ));
    }
    let is_head = |module: &&String| {
        let last = module.rsplit('.').next().unwrap_or_default();
        HEADS.contains(&last) || module.ends_with("predictions.decoder")
    };
    if let Some(head) = selected.iter().find(is_head) {
        let head = head.escape_debug();
        warnings.push(format!("'{head}' is the output head: vLLM does not load a quantized one"));
        if config.ties_head() {
            warnings.push(format!(
                "'{head}' is tied to the embedding (tie_word_embeddings in config.json): loaders put the embedding in its place"
            ));
        }
    }
    if matches!(scheme, QuantizationScheme::PerTensor(..)) {
        warnings.push(
            "one scale per tensor loads in transformers only; per-channel loads everywhere and loses less".into(),
        );
    }
    warnings
}
