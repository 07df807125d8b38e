//! compressed-tensors with presets: int4, int8, FP8 and FP4 weights, one preset for all layers or
//! several ("mixed precision"). transformers, sentence-transformers and vLLM load them.
//!
//! The stored tensors and the config groups are those that compressed-tensors writes. Each rule
//! here exists because a load failed or silently gave wrong values.

use crate::checkpoint::Checkpoint;
use crate::export::compensated::{CLIPPED_KEY, COMPENSATED_KEY, UPSTREAM_SCALES_KEY};
use crate::export::container_check;
use crate::export::error::SaveError;
use crate::export::formats::compressed_tensors::entry;
use crate::export::formats::model_directory::{check_file_name, model_obstacle, part_taken};
use crate::export::formats::shards::{self, FileMetadata, entries};
use crate::export::formats::writer::{FormatWriter, OutputKind};
use crate::export::input_scales::input_scale_name;
use crate::export::module_patterns;
use crate::export::output_plan::{Entry, MadeFrom, OutputPlan, TextFile};
use crate::export::request::Request;
use crate::export::sidecar_files::pretty;
use crate::plan::rules::{FusionUnits, experts_of};
use crate::plan::target::{Container, LinearScheme};
use crate::plan::{PRESET_SCHEMES, Plan};
use crate::quantization::{
    Preset, PresetGroup, PresetPart, QuantizationScheme, ScaleStorage, narrowed_scale, shape_bytes,
};
use crate::tensor::{FloatType, Shape, TensorId, write_f64};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

/// The writer of this format.
pub(super) struct Presets;

impl FormatWriter for Presets {
    fn name(&self) -> &'static str {
        "compressed-tensors"
    }

    fn container(&self) -> Container {
        Container::CompressedTensors(LinearScheme::Presets)
    }

    fn output_kind(&self) -> OutputKind {
        OutputKind::Directory
    }

    /// Returns the smallest preset that fits all tensors.
    fn default_scheme(&self, checkpoint: &Checkpoint, tensors: &[TensorId]) -> QuantizationScheme {
        let fits = |scheme: &&QuantizationScheme| {
            let shapes = tensors.iter().map(|&id| &checkpoint.tensor(id).shape);
            let preset = scheme.preset();
            preset.is_some_and(|preset| shapes.into_iter().all(|s| preset.obstacle(s).is_none()))
        };
        let first = PRESET_SCHEMES.iter().find(fits);
        first.copied().unwrap_or(QuantizationScheme::Preset(Preset::Fp8Dynamic))
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
        let units = FusionUnits::of(checkpoint);
        check_tensors(checkpoint, plan).map_err(refuse)?;
        check_units(checkpoint, plan, &units).map_err(refuse)?;
        let groups = groups(checkpoint, plan, config.model_type()).map_err(refuse)?;
        let shards = entries(checkpoint, |tensor, _| preset_entries(checkpoint, plan, tensor?));
        let mut json = config.json().clone();
        json.insert("quantization_config".into(), quantization_config(&groups));
        output_plan.texts.push(TextFile { name: "config.json".into(), text: pretty(&json) });
        output_plan.scaled_together = scaled_together(plan, &units);
        let note = |mut metadata: FileMetadata, entries: &[Entry]| {
            let by_inputs = |id: TensorId| plan.by_inputs.get(id).unwrap_or_default();
            let is_compensated = |id: TensorId| by_inputs(id).compensates;
            list_names(checkpoint, entries, (COMPENSATED_KEY, &is_compensated), &mut metadata);
            let is_clipped = |id: TensorId| by_inputs(id).searches_clips;
            list_names(checkpoint, entries, (CLIPPED_KEY, &is_clipped), &mut metadata);
            let has_upstream_scales =
                |id: TensorId| matches!(preset_of(plan, id), Some(Preset::W8A8 | Preset::W8A16(_)));
            let list = (UPSTREAM_SCALES_KEY, &has_upstream_scales as &dyn Fn(TensorId) -> bool);
            list_names(checkpoint, entries, list, &mut metadata);
            metadata
        };
        shards::lay_out(checkpoint, shards, &note, output_plan)?;
        check_file_name(checkpoint, plan, output_plan).map_err(refuse)
    }

    fn check_container(&self, file: &Path) -> Result<(), String> {
        container_check::safetensors(file)
    }
}

/// Returns groups of tensors that share a global scale: fusion units, and single tensors.
pub(super) fn scaled_together(plan: &Plan, units: &FusionUnits) -> Vec<Vec<TensorId>> {
    let shares = |id: &TensorId| preset_of(plan, *id).is_some_and(Preset::shares_global_scale);
    units.grouped(plan.iter().map(|(id, _)| id).filter(shares))
}

fn preset_of(plan: &Plan, id: TensorId) -> Option<Preset> {
    plan.get(id)?.scheme.preset()
}

/// Checks that every tensor can have its preset, and that the source has no tensor with the name of
/// a new one.
fn check_tensors(checkpoint: &Checkpoint, plan: &Plan) -> Result<(), String> {
    let names: HashSet<&str> = checkpoint.all_stored().map(|(_, s)| s.name.as_str()).collect();
    for (id, quantizer) in plan.iter() {
        let tensor = checkpoint.tensor(id);
        let name = tensor.name.escape_debug();
        let Some(preset) = quantizer.scheme.preset() else {
            return Err(format!(
                "'{name}' is to be {}, which cannot be combined with presets such as W4A16 and FP8_DYNAMIC",
                quantizer.scheme
            ));
        };
        if let Some(why) = preset.obstacle(&tensor.shape) {
            return Err(format!("'{name}' cannot be {preset}: {why}; or leave it out"));
        }
        if preset == Preset::Nvfp4A16 && experts_of(&tensor.name).is_some() {
            return Err(format!(
                "'{name}' is an expert, and transformers loads experts in NVFP4 without an error but with wrong values; choose W4A16 or FP8_DYNAMIC for experts"
            ));
        }
        if preset == Preset::Fp8 && plan.inputs.scale(id).is_none() {
            return Err(format!(
                "'{name}' is to be FP8, whose inputs have recorded scales: give --activation-scheme static with --activations, or choose FP8_DYNAMIC"
            ));
        }
        let float = tensor.dtype.float().unwrap_or(FloatType::F32);
        let parts = preset.parts(float, &tensor.shape).into_iter();
        let parts = parts.map(|part| format!("{}{}", tensor.name, part.suffix));
        let input_scale = (preset == Preset::Fp8).then(|| input_scale_name(tensor));
        let parts = parts.filter(|part| *part != *tensor.name).chain(input_scale);
        let parts: Vec<String> = parts.collect();
        part_taken(tensor, &parts, &names)?;
    }
    Ok(())
}

/// Checks that tensors which a loader merges have the same preset, because the loader uses that of
/// the first one for all.
fn check_units(checkpoint: &Checkpoint, plan: &Plan, units: &FusionUnits) -> Result<(), String> {
    for unit in units.all() {
        let mut presets = unit.tensors.iter().filter_map(|&id| Some((id, preset_of(plan, id)?)));
        let Some((_, first)) = presets.next() else { continue };
        if let Some((id, other)) = presets.find(|(_, preset)| *preset != first) {
            let name = checkpoint.tensor(id).name.escape_debug();
            let path = unit.path.escape_debug();
            return Err(format!(
                "loaders merge tensors of '{path}' into one layer, and '{name}' is to be {other}, others {first}; give them one scheme"
            ));
        }
    }
    Ok(())
}

/// Returns the used presets, each with the patterns of its modules.
fn groups(
    checkpoint: &Checkpoint,
    plan: &Plan,
    model_type: Option<&str>,
) -> Result<Vec<(Preset, Vec<String>)>, String> {
    let module = |id: TensorId| checkpoint.tensor(id).module().to_owned();
    let all: BTreeSet<String> = checkpoint.ids().map(module).collect();
    let mut selected: BTreeMap<Preset, BTreeSet<String>> = BTreeMap::new();
    for (id, quantizer) in plan.iter() {
        if let Some(preset) = quantizer.scheme.preset() {
            selected.entry(preset).or_default().insert(module(id));
        }
    }
    let groups = selected.into_iter().map(|(preset, modules)| {
        Ok((preset, module_patterns::patterns(&modules, &all, model_type)?))
    });
    groups.collect()
}

/// Lists under a key the quantized tensors of a file for which `is_listed` holds.
fn list_names(
    checkpoint: &Checkpoint,
    entries: &[Entry],
    (list, is_listed): (&str, &dyn Fn(TensorId) -> bool),
    metadata: &mut FileMetadata,
) {
    let listed = entries.iter().filter_map(Entry::quantizer).map(|(id, _)| id);
    let listed = listed.filter(|&id| is_listed(id));
    let names: Vec<&str> = listed.map(|id| checkpoint.tensor(id).name.as_str()).collect();
    metadata.retain(|(key, _)| key != list);
    if !names.is_empty() {
        // Strings always serialize.
        let text = serde_json::to_string(&names).unwrap_or_default();
        metadata.push((list.into(), text));
    }
}

/// The stored tensors that a marked tensor becomes.
fn preset_entries(checkpoint: &Checkpoint, plan: &Plan, id: TensorId) -> Option<Vec<Entry>> {
    let quantizer = plan.get(id)?;
    let preset = quantizer.scheme.preset()?;
    let tensor = checkpoint.tensor(id);
    let parts = preset.parts(tensor.dtype.float()?, &tensor.shape).into_iter();
    let entries = parts.map(|stored| {
        let made_from = match stored.part {
            PresetPart::Values => MadeFrom::PresetValues { tensor: id, quantizer },
            PresetPart::Shape => MadeFrom::Literal(shape_bytes(&tensor.shape)),
            part => MadeFrom::PresetPart { tensor: id, part },
        };
        entry(format!("{}{}", tensor.name, stored.suffix), stored.dtype, stored.shape, made_from)
    });
    let mut entries: Vec<Entry> = entries.collect::<Option<_>>()?;
    if let Some(scale) = plan.inputs.scale(id).filter(|_| preset == Preset::Fp8) {
        let scale_type = ScaleStorage::ElementType.scale_type(tensor.dtype.float()?);
        let mut bytes = Vec::new();
        write_f64(scale_type, narrowed_scale(scale, scale_type).into(), &mut bytes);
        let (name, made_from) = (input_scale_name(tensor), MadeFrom::Literal(bytes));
        entries.push(entry(name, scale_type.dtype(), Shape::vector(1), made_from)?);
    }
    Some(entries)
}

/// Returns the `quantization_config` of `config.json`. With a single group, the format is at the
/// top level too, where older loaders look for it.
fn quantization_config(groups: &[(Preset, Vec<String>)]) -> Value {
    let numbered = (0..).zip(groups).map(|(number, (preset, targets)): (u32, _)| {
        (format!("group_{number}"), config_group(*preset, targets))
    });
    let config_groups: Map<String, Value> = numbered.collect();
    let mut config = json!({
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "ignore": [],
        "config_groups": config_groups,
    });
    match groups {
        [(preset, _)] => {
            config["format"] = preset.format().into();
            // sentence-transformers requires this key.
            config["dequantize"] = true.into();
        }
        // With `dequantize`, transformers uses one scheme for all layers.
        _ => config["format"] = "mixed-precision".into(),
    }
    config
}

/// Returns a config group with every key that compressed-tensors writes for the preset.
fn config_group(preset: Preset, targets: &[String]) -> Value {
    let bits = preset.quantization_type().bits();
    let is_float = matches!(
        preset,
        Preset::Fp8
            | Preset::Fp8Dynamic
            | Preset::Fp8Block
            | Preset::Nvfp4A16
            | Preset::Mxfp4A16
            | Preset::Mxfp8A16
    );
    let kind = if is_float { "float" } else { "int" };
    let mut weights = json!({
        "num_bits": bits,
        "type": kind,
        "symmetric": !matches!(preset, Preset::W4A16Asym(_)),
        "dynamic": false,
    });
    match preset.group() {
        PresetGroup::Channel => {
            weights["strategy"] = "channel".into();
            weights["group_size"] = Value::Null;
        }
        PresetGroup::Tensor => {
            weights["strategy"] = "tensor".into();
            weights["group_size"] = Value::Null;
        }
        PresetGroup::Columns(size) => {
            let strategy = if preset.has_global_scale() { "tensor_group" } else { "group" };
            weights["strategy"] = strategy.into();
            weights["group_size"] = size.into();
        }
        PresetGroup::Block(side) => {
            weights["strategy"] = "block".into();
            weights["group_size"] = Value::Null;
            weights["block_structure"] = json!([side, side]);
        }
    }
    match preset {
        Preset::Nvfp4A16 => weights["scale_dtype"] = "torch.float8_e4m3fn".into(),
        Preset::Mxfp4A16 | Preset::Mxfp8A16 => weights["scale_dtype"] = "torch.uint8".into(),
        _ => {}
    }
    let inputs = |strategy: &str, group_size: Value| {
        json!({
            "num_bits": bits, "type": kind, "symmetric": true, "dynamic": true,
            "strategy": strategy, "group_size": group_size,
        })
    };
    let input_activations = match preset {
        Preset::Fp8 => json!({
            "num_bits": bits, "type": kind, "symmetric": true, "dynamic": false,
            "strategy": "tensor", "group_size": null,
        }),
        Preset::W8A8 | Preset::Fp8Dynamic => inputs("token", Value::Null),
        Preset::Fp8Block => inputs("group", 128.into()),
        _ => Value::Null,
    };
    json!({
        "targets": targets,
        "format": preset.format(),
        "weights": weights,
        "input_activations": input_activations,
        "output_activations": null,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_groups_are_those_of_compressed_tensors() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden/presets/config_groups.json");
        let text = std::fs::read_to_string(path).expect("the golden file");
        let golden: Value = serde_json::from_str(&text).expect("JSON");
        for preset in Preset::ALL.into_iter().chain([Preset::Fp8]) {
            let found = config_group(preset, &["Linear".to_owned()]);
            assert_eq!(found, golden[preset.name()], "{preset}");
        }
    }
}
