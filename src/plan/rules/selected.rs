//! A plan over a checkpoint, with the queries that the conditions of loader limits need.

use crate::checkpoint::Checkpoint;
use crate::plan::marks::Plan;
use crate::plan::rules::architecture::Architecture;
use crate::plan::rules::comfyui;
use crate::plan::rules::conversions::ModuleKind;
use crate::plan::rules::roles;
use crate::plan::rules::units::{FusionUnit, FusionUnits, UnitKind};
use crate::plan::target::{Container, LinearScheme};
use crate::quantization::{Preset, QuantizationScheme};
use crate::tensor::{FloatType, TensorId};
use std::collections::BTreeMap;

/// A plan together with its model.
pub(super) struct Selected<'a> {
    pub checkpoint: &'a Checkpoint,
    pub architecture: &'a Architecture,
    pub units: &'a FusionUnits,
    pub plan: &'a Plan,
    pub container: Container,
    /// The scheme of compressed-tensors; `None` for other formats.
    pub linear: Option<LinearScheme>,
}

impl Selected<'_> {
    pub(super) fn name(&self, id: TensorId) -> String {
        self.checkpoint.tensor(id).name.escape_debug().to_string()
    }

    pub(super) fn module(&self, id: TensorId) -> String {
        self.checkpoint.tensor(id).module().escape_debug().to_string()
    }

    /// The weights of experts that are stored one by one, quantized or not.
    pub(super) fn experts(&self) -> impl Iterator<Item = TensorId> {
        let units = self.units.all().iter().filter(|unit| unit.kind == UnitKind::Experts);
        units.flat_map(|unit| unit.tensors.iter().copied())
    }

    /// The first quantized layer that transformers splits, joins or renames while loading.
    pub(super) fn converted(&self) -> Option<TensorId> {
        let is_converted = |id: &TensorId| {
            let module = self.checkpoint.tensor(*id).module();
            matches!(
                self.architecture.exception(module),
                Some(ModuleKind::Converted | ModuleKind::Renamed)
            )
        };
        self.marked().find(is_converted)
    }

    /// The first quantized one of several experts that are stored one by one.
    pub(super) fn quantized_expert(&self) -> Option<TensorId> {
        self.experts().find(|&id| self.plan.is_marked(id))
    }

    /// The first quantized weight whose columns do not divide into groups of `group`.
    pub(super) fn undivided(&self, group: u64) -> Option<TensorId> {
        let columns = |id: TensorId| self.checkpoint.tensor(id).shape.row_len();
        self.marked().find(|&id| !columns(id).is_multiple_of(group))
    }

    /// The first quantized weight whose columns the groups of its own scheme do not divide.
    pub(super) fn partial_group(&self) -> Option<TensorId> {
        let is_partial = |id: &TensorId| {
            let scheme = self.plan.get(*id).map(|quantizer| quantizer.scheme);
            let grouped = scheme.filter(|scheme| {
                matches!(scheme, QuantizationScheme::PerBlock(..) | QuantizationScheme::Preset(_))
            });
            let shape = &self.checkpoint.tensor(*id).shape;
            grouped.is_some_and(|scheme| self.container.scheme_obstacle(scheme, shape).is_some())
        };
        self.marked().find(is_partial)
    }

    /// The first quantized tensor that ComfyUI does not read as a quantized layer.
    pub(super) fn unsupported_by_comfyui(&self) -> Option<TensorId> {
        let is_no_layer = |id: &TensorId| {
            let tensor = self.checkpoint.tensor(*id);
            comfyui::cannot_hold(&tensor.name, tensor.shape.rank())
        };
        self.marked().find(is_no_layer)
    }

    /// The first quantized weight with more than 16 bits per element.
    pub(super) fn wide(&self) -> Option<TensorId> {
        let is_wide = |id: &TensorId| {
            let float = self.checkpoint.tensor(*id).dtype.float();
            matches!(float, Some(FloatType::F32 | FloatType::F64))
        };
        self.marked().find(is_wide)
    }

    /// The units that are quantized in part.
    pub(super) fn split_units(&self) -> impl Iterator<Item = &FusionUnit> {
        self.units.split_in(self.plan)
    }

    /// The first layer with some experts quantized and others not.
    pub(super) fn split_experts(&self) -> Option<String> {
        self.split_units().find(|unit| unit.kind == UnitKind::Experts).map(|unit| unit.path.clone())
    }

    /// Describes the merged layers that are quantized only in part, for use in a sentence.
    pub(super) fn split_merged_layers(&self) -> Option<String> {
        let mut split: BTreeMap<&[&str], Vec<&FusionUnit>> = BTreeMap::new();
        for unit in self.split_units() {
            if let UnitKind::Merged(names) = unit.kind {
                split.entry(names).or_default().push(unit);
            }
        }
        let parts = split.into_iter().map(|(names, units)| {
            let more = match units.len() {
                0 | 1 => String::new(),
                n => format!(", and so in {} more", n - 1),
            };
            let split = units.first().map_or(String::new(), |unit| self.how_split(unit));
            format!("{} ({split}{more})", names.join(", "))
        });
        let parts: Vec<String> = parts.collect();
        (!parts.is_empty()).then(|| parts.join(" and "))
    }

    /// Names the float tensors of a split unit, or says that its schemes differ.
    fn how_split(&self, unit: &FusionUnit) -> String {
        let path = unit.path.escape_debug();
        let float = unit.tensors.iter().filter(|&&id| !self.plan.is_marked(id));
        let last = |id: &TensorId| {
            let module = self.module(*id);
            module.rsplit('.').next().unwrap_or_default().to_owned()
        };
        let float: Vec<String> = float.map(last).collect();
        if float.is_empty() {
            format!("in '{path}' their schemes differ")
        } else {
            format!("in '{path}' float: {}", float.join(", "))
        }
    }

    /// The output head, if it is quantized.
    pub(super) fn head(&self) -> Option<TensorId> {
        let is_head = |id: &TensorId| roles::is_language_head(self.checkpoint.tensor(*id).module());
        self.marked().find(is_head)
    }

    /// The first quantized layer of an image encoder.
    pub(super) fn vision(&self) -> Option<TensorId> {
        if !self.architecture.has_vision_part() {
            return None;
        }
        let is_vision = |id: &TensorId| roles::is_vision(self.checkpoint.tensor(*id).module());
        self.marked().find(is_vision)
    }

    pub(super) fn has_scheme(&self, is: impl Fn(QuantizationScheme) -> bool) -> bool {
        self.plan.iter().any(|(_, quantizer)| is(quantizer.scheme))
    }

    /// Returns whether a layer is quantized with this scheme, by the format or by an int8 preset.
    pub(super) fn has_linear(&self, scheme: LinearScheme) -> bool {
        self.linear == Some(scheme)
            || self.linear == Some(LinearScheme::Presets)
                && self.has_scheme(|marked| preset_of_int8(marked) == Some(scheme))
    }

    /// The first expert whose inputs are int8.
    pub(super) fn int8_input_expert(&self) -> Option<TensorId> {
        let is_w8a8 = |id: &TensorId| {
            let scheme = self.plan.get(*id).map(|quantizer| quantizer.scheme);
            scheme.and_then(preset_of_int8) == Some(LinearScheme::W8A8)
        };
        match self.linear? {
            LinearScheme::W8A8 => self.experts().next(),
            LinearScheme::W8A16 => None,
            LinearScheme::Presets => self.experts().find(is_w8a8),
        }
    }

    fn marked(&self) -> impl Iterator<Item = TensorId> {
        self.plan.iter().map(|(id, _)| id)
    }
}

/// Returns the scheme that an int8 preset corresponds to; `None` for other schemes.
fn preset_of_int8(scheme: QuantizationScheme) -> Option<LinearScheme> {
    match scheme.preset()? {
        Preset::W8A8 => Some(LinearScheme::W8A8),
        Preset::W8A16(_) => Some(LinearScheme::W8A16),
        _ => None,
    }
}
