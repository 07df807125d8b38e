//! A plan over a checkpoint, as the facts about loaders ask for it.

use crate::checkpoint::Checkpoint;
use crate::plan::marks::Plan;
use crate::plan::rules::architecture::Architecture;
use crate::plan::rules::roles;
use crate::plan::rules::units::{FusionUnit, FusionUnits, UnitKind};
use crate::plan::target::LinearScheme;
use crate::quantization::QuantizationScheme;
use crate::tensor::TensorId;
use std::collections::BTreeMap;

/// What is to be quantized, and of what model.
pub(super) struct Selected<'a> {
    pub checkpoint: &'a Checkpoint,
    pub architecture: &'a Architecture,
    pub units: &'a FusionUnits,
    pub plan: &'a Plan,
    /// What compressed-tensors quantizes; `None` for other formats.
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

    /// The units that are quantized in part.
    pub(super) fn split_units(&self) -> impl Iterator<Item = &FusionUnit> {
        self.units.split_by(|id| self.plan.is_marked(id))
    }

    /// The merged layers that are quantized in part, as part of a sentence.
    pub(super) fn split_merged_layers(&self) -> Option<String> {
        let mut split: BTreeMap<&[&str], Vec<&FusionUnit>> = BTreeMap::new();
        for unit in self.split_units() {
            if let UnitKind::Merged(names) = unit.kind {
                split.entry(names).or_default().push(unit);
            }
        }
        let said = split.into_iter().map(|(names, units)| {
            let first = units.first().map_or("", |unit| unit.path.as_str()).escape_debug();
            let more = match units.len() {
                0 | 1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            format!("{} (split in '{first}'{more})", names.join(", "))
        });
        let said: Vec<String> = said.collect();
        (!said.is_empty()).then(|| said.join(" and "))
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

    fn marked(&self) -> impl Iterator<Item = TensorId> {
        self.plan.iter().map(|(id, _)| id)
    }
}
