//! Fusion units: tensors that a loader merges into one layer, and that must share a scheme.

use crate::checkpoint::Checkpoint;
use crate::plan::marks::Plan;
use crate::plan::rules::roles;
use crate::quantization::SharedAbsmax;
use crate::tensor::TensorId;
use std::collections::{BTreeMap, HashMap};

/// Names of sibling layers that loaders merge into one.
const MERGED: [&[&str]; 12] = [
    &["q_proj", "k_proj", "v_proj"],
    &["query", "key", "value"],
    &["q_lin", "k_lin", "v_lin"],
    &["gate_proj", "up_proj"],
    &["w1", "w3"],
    &["fc11", "fc12"],
    &["q_a_proj", "kv_a_proj_with_mqa"],
    &["wq", "wk", "wv"],
    &["query_net", "key_net", "value_net"],
    &["c_fc_0", "c_fc_1"],
    &["in_proj_qkv", "in_proj_z"],
    &["in_proj_b", "in_proj_a"],
];

/// The gate and up layers of the first Qwen, whose down layer is `c_proj`. In other models `w2` is
/// the down layer.
const MERGED_BESIDE_C_PROJ: &[&str] = &["w1", "w2"];

/// Why the tensors of a unit belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnitKind {
    /// Sibling layers with these names.
    Merged(&'static [&'static str]),
    /// All experts of a layer.
    Experts,
}

/// One unit of at least two tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct FusionUnit {
    /// Which layers are merged.
    pub kind: UnitKind,
    /// The module path that the tensors share.
    pub path: String,
    /// In the checkpoint's order.
    pub tensors: Vec<TensorId>,
}

impl FusionUnit {
    /// Returns whether a plan gives the tensors different schemes.
    pub fn is_split_in(&self, plan: &Plan) -> bool {
        let mut schemes = self.tensors.iter().map(|&id| plan.get(id).map(|q| q.scheme));
        let first = schemes.next().flatten();
        schemes.any(|scheme| scheme != first)
    }
}

/// The fusion units of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FusionUnits {
    units: Vec<FusionUnit>,
    unit_of: HashMap<TensorId, usize>,
}

impl FusionUnits {
    /// Finds the units by the names of the weights.
    pub fn of(checkpoint: &Checkpoint) -> FusionUnits {
        let mut found: HashMap<(UnitKind, &str), Vec<TensorId>> = HashMap::new();
        for id in checkpoint.ids() {
            let tensor = checkpoint.tensor(id);
            let is_weight = tensor.shape.rank() == 2 && tensor.name.ends_with(".weight");
            if let Some(key) = is_weight.then(|| key(checkpoint, &tensor.name)).flatten() {
                found.entry(key).or_default().push(id);
            }
        }
        let several = found.into_iter().filter(|(_, tensors)| tensors.len() > 1);
        let unit = |((kind, path), tensors): ((UnitKind, &str), Vec<TensorId>)| FusionUnit {
            kind,
            path: path.to_owned(),
            tensors,
        };
        let mut units: Vec<FusionUnit> = several.map(unit).collect();
        units.sort_unstable_by_key(|unit| unit.tensors.first().copied());
        let numbered = units.iter().enumerate();
        let unit_of = numbered.flat_map(|(at, unit)| unit.tensors.iter().map(move |&id| (id, at)));
        FusionUnits { unit_of: unit_of.collect(), units }
    }

    /// All units, in the checkpoint's order.
    pub fn all(&self) -> &[FusionUnit] {
        &self.units
    }

    /// The unit of a tensor; `None` if the tensor has none.
    pub fn unit_of(&self, id: TensorId) -> Option<&FusionUnit> {
        self.units.get(*self.unit_of.get(&id)?)
    }

    /// The tensor and all that must share its scheme, in the checkpoint's order.
    pub fn with_rest(&self, id: TensorId) -> Vec<TensorId> {
        self.unit_of(id).map_or_else(|| vec![id], |unit| unit.tensors.clone())
    }

    /// The units whose tensors have different schemes in a plan.
    pub fn split_in<'u>(&'u self, plan: &'u Plan) -> impl Iterator<Item = &'u FusionUnit> {
        self.units.iter().filter(|unit| unit.is_split_in(plan))
    }

    /// The largest magnitude of each unit, for all its tensors among `ids`. `absmax` gives that
    /// of a tensor. A unit is left out if it is not known for one of its tensors.
    pub fn shared_absmax(
        &self,
        ids: impl IntoIterator<Item = TensorId>,
        absmax: impl Fn(TensorId) -> Option<f64>,
    ) -> SharedAbsmax {
        let mut shared = BTreeMap::new();
        let in_units = ids.into_iter().filter(|id| self.unit_of.contains_key(id));
        for unit in self.grouped(in_units).into_iter().filter(|unit| unit.len() > 1) {
            let all: Option<Vec<f64>> = unit.iter().map(|&id| absmax(id)).collect();
            if let Some(largest) = all.and_then(|all| all.into_iter().reduce(f64::max)) {
                shared.extend(unit.into_iter().map(|id| (id, largest)));
            }
        }
        SharedAbsmax::new(shared)
    }

    /// Groups `ids`: the tensors of a unit form one group, each other tensor a group of its own.
    /// Groups are in the order of their first tensor.
    pub fn grouped(&self, ids: impl IntoIterator<Item = TensorId>) -> Vec<Vec<TensorId>> {
        let mut groups: Vec<Vec<TensorId>> = Vec::new();
        let mut group_of_unit: HashMap<usize, usize> = HashMap::new();
        for id in ids {
            let unit = self.unit_of.get(&id);
            match unit.and_then(|unit| group_of_unit.get(unit)).and_then(|&g| groups.get_mut(g)) {
                Some(group) => group.push(id),
                None => {
                    unit.map(|&unit| group_of_unit.insert(unit, groups.len()));
                    groups.push(vec![id]);
                }
            }
        }
        groups
    }
}

/// The kind of unit that a weight belongs to, and the path that the unit's tensors share.
fn key<'n>(checkpoint: &Checkpoint, name: &'n str) -> Option<(UnitKind, &'n str)> {
    if let Some(path) = roles::experts_of(name) {
        return Some((UnitKind::Experts, path));
    }
    let module = name.strip_suffix(".weight")?;
    let (path, last) = module.rsplit_once('.').unwrap_or(("", module));
    let beside_c_proj = MERGED_BESIDE_C_PROJ.contains(&last)
        && checkpoint.find(&format!("{path}.c_proj.weight")).is_some();
    let merged = if beside_c_proj {
        MERGED_BESIDE_C_PROJ
    } else {
        MERGED.iter().find(|names| names.contains(&last))?
    };
    Some((UnitKind::Merged(merged), path))
}
