//! The format of a saved model in terms of plans.

use crate::checkpoint::packed::{COMFYUI, FAKE_METADATA_KEY, METADATA_KEY, MLX, TORCHAO};
use crate::checkpoint::{Checkpoint, Config, Format, PackedFormat};
use crate::plan::target::{Container, LinearScheme};
use crate::plan::{InputQuantization, Plan};
use crate::quantization::{Calibration, QuantizationScheme, Quantizer};
use crate::tensor::TensorId;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The format of a saved model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SavedFormat {
    /// The container that a plan would name; `None` for floats and for formats that no plan writes.
    pub container: Option<Container>,
    /// Whether its weights are int8, so that limits of int8 schemes apply.
    pub is_int8: bool,
    /// The `quant_method` of `config.json`, if a loader reads one.
    pub method: Option<String>,
}

/// The name of compressed-tensors in `quant_method`.
pub(super) const COMPRESSED_TENSORS: &str = "compressed-tensors";

impl SavedFormat {
    pub(super) fn of(checkpoint: &Checkpoint, config: Option<&Config>) -> SavedFormat {
        let method = config.and_then(Config::method).map(str::to_owned);
        let marked = |key| checkpoint.shards().iter().any(|shard| shard.metadata(key).is_some());
        let (container, is_int8) = match (checkpoint.format(), method.as_deref()) {
            (Format::Gguf, _) => (Some(Container::Gguf), true),
            (Format::Burnpack, _) => (Some(Container::Burn), true),
            (_, Some(COMPRESSED_TENSORS)) => {
                let groups = config.map(groups).unwrap_or_default();
                let scheme = linear_scheme(&groups);
                (Some(Container::CompressedTensors(scheme)), groups.iter().all(is_int8))
            }
            (_, Some(TORCHAO)) => (Some(Container::Torchao), false),
            _ if is_stored_as(checkpoint, MLX) => (Some(Container::Mlx), false),
            _ if is_stored_as(checkpoint, COMFYUI) => (Some(Container::ComfyUi), false),
            _ if marked(METADATA_KEY) => (Some(Container::Safetensors), true),
            _ if marked(FAKE_METADATA_KEY) => (Some(Container::FakeQuantized), false),
            _ => (None, false),
        };
        SavedFormat { container, is_int8, method }
    }

    /// The name for messages.
    pub(super) fn name(&self) -> String {
        match (&self.container, &self.method) {
            (Some(Container::CompressedTensors(_)), _) if !self.is_int8 => {
                COMPRESSED_TENSORS.to_owned()
            }
            (Some(Container::Safetensors), _) => "quantscope's safetensors".to_owned(),
            (Some(container), _) => container.to_string(),
            (None, Some(method)) => method.escape_debug().to_string(),
            (None, None) => "floats".to_owned(),
        }
    }
}

/// Returns whether a quantized tensor is stored in a packed format, by the start of the format's
/// name.
fn is_stored_as(checkpoint: &Checkpoint, format: &str) -> bool {
    let named = |packed: &dyn PackedFormat| packed.name().starts_with(format);
    checkpoint.ids().filter_map(|id| checkpoint.packed_format(id)).any(named)
}

/// Returns the groups of a compressed-tensors configuration by name.
pub(super) fn groups(config: &Config) -> Vec<(&str, &Map<String, Value>)> {
    let groups = config.quantization().and_then(|all| all.get("config_groups")?.as_object());
    let groups = groups.into_iter().flatten();
    groups.filter_map(|(name, group)| Some((name.as_str(), group.as_object()?))).collect()
}

fn linear_scheme(groups: &[(&str, &Map<String, Value>)]) -> LinearScheme {
    let quantizes_inputs = |(_, group): &(&str, &Map<String, Value>)| {
        group.get("input_activations").is_some_and(Value::is_object)
    };
    if groups.iter().any(quantizes_inputs) { LinearScheme::W8A8 } else { LinearScheme::W8A16 }
}

fn is_int8((_, group): &(&str, &Map<String, Value>)) -> bool {
    let weights = group.get("weights").and_then(Value::as_object);
    let said = |key: &str| weights.and_then(|weights| weights.get(key));
    said("num_bits").and_then(Value::as_u64) == Some(8)
        && said("type").and_then(Value::as_str) == Some("int")
}

/// Returns a plan that would produce the saved model: a mark for each quantized tensor.
pub(super) fn plan_of(checkpoint: &Checkpoint, config: Option<&Config>) -> Plan {
    let mut plan = Plan::default();
    for id in checkpoint.ids() {
        let Some(format) = checkpoint.packed_format(id) else { continue };
        // For tensors that are not int8 it only matters that they are quantized.
        let scheme = format.int8().map_or(QuantizationScheme::PER_CHANNEL, |int8| int8.scheme);
        plan.mark(id, Quantizer { calibration: Calibration::MinMax, scheme });
    }
    let is_static = |(_, group): &(&str, &Map<String, Value>)| {
        let inputs = group.get("input_activations").and_then(Value::as_object);
        inputs.is_some_and(|inputs| inputs.get("dynamic") == Some(&Value::Bool(false)))
    };
    if config.map(groups).unwrap_or_default().iter().any(is_static) {
        plan.inputs = InputQuantization::Static(BTreeMap::new());
    }
    plan
}

/// Returns the module of a tensor that is a module's weight.
pub(super) fn weight_module(checkpoint: &Checkpoint, id: TensorId) -> Option<&str> {
    let tensor = checkpoint.tensor(id);
    (tensor.shape.rank() >= 2).then(|| tensor.name.strip_suffix(".weight")).flatten()
}
