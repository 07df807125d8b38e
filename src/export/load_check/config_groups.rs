//! Checks that the groups of a compressed-tensors configuration target exactly the quantized
//! layers.

use crate::checkpoint::{Checkpoint, Config};
use crate::export::load_check::finding::{Finding, first_and_count};
use crate::export::load_check::saved_format::{groups, weight_module};
use crate::plan::rules::{Reason, TargetRules};
use crate::tensor::TensorId;
use regex::Regex;
use serde_json::{Map, Value};

/// Compares the configuration's groups with the tensors.
pub(super) fn find(
    checkpoint: &Checkpoint,
    config: Option<&Config>,
    rules: &TargetRules,
) -> Vec<Finding> {
    let quantized = checkpoint.ids().filter(|&id| checkpoint.packed_format(id).is_some()).count();
    let Some(config) = config else {
        return vec![Finding::fails("its directory has no config.json".to_owned())];
    };
    let groups = groups(config);
    if groups.is_empty() {
        return vec![Finding::fails(
            "config.json has no config_groups, so that no layer is loaded as a quantized one"
                .to_owned(),
        )];
    }
    if quantized == 0 {
        return vec![Finding::fails(
            "config.json says compressed-tensors, and no tensor is stored quantized".to_owned(),
        )];
    }
    let ignored = ModuleList::new(config.quantization().and_then(|all| all.get("ignore")));
    let matched = groups.iter().map(|(name, group)| ConfigGroup::new(name, group));
    matched.filter_map(|group| group.finding(checkpoint, rules, &ignored)).collect()
}

/// A list of modules: names, patterns and classes.
#[derive(Default)]
struct ModuleList {
    names: Vec<String>,
    patterns: Vec<Regex>,
    has_linear: bool,
}

impl ModuleList {
    fn new(list: Option<&Value>) -> ModuleList {
        let mut modules = ModuleList::default();
        let entries = list.and_then(Value::as_array).into_iter().flatten();
        for entry in entries.filter_map(Value::as_str) {
            match entry.strip_prefix("re:") {
                // Python's `re.match` matches at the start only.
                Some(pattern) => modules.patterns.extend(Regex::new(&format!("^(?:{pattern})"))),
                None if entry == "Linear" => modules.has_linear = true,
                None => modules.names.push(entry.to_owned()),
            }
        }
        modules
    }

    /// Returns whether a name or a pattern in the list matches the module.
    fn name(&self, module: &str) -> bool {
        let ends = |long: &str, short: &str| {
            long.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.names.iter().any(|name| ends(module, name) || ends(name, module))
            || self.patterns.iter().any(|pattern| pattern.is_match(module))
    }
}

/// A group and its targets.
struct ConfigGroup<'c> {
    name: &'c str,
    targets: ModuleList,
}

impl<'c> ConfigGroup<'c> {
    fn new(name: &'c str, group: &Map<String, Value>) -> ConfigGroup<'c> {
        ConfigGroup { name, targets: ModuleList::new(group.get("targets")) }
    }

    /// Returns what is wrong with the group, if anything.
    fn finding(
        &self,
        checkpoint: &Checkpoint,
        rules: &TargetRules,
        ignored: &ModuleList,
    ) -> Option<Finding> {
        let name = self.name.escape_debug();
        let (mut any, mut float) = (false, Vec::new());
        for id in checkpoint.ids() {
            let Some(module) = weight_module(checkpoint, id) else { continue };
            let by_name = self.targets.name(module);
            if checkpoint.packed_format(id).is_some() {
                any |= by_name || self.targets.has_linear;
            } else if !ignored.name(module)
                && (by_name || self.targets.has_linear && is_linear(checkpoint, rules, id))
            {
                float.push(module);
            }
        }
        match float.first() {
            Some(first) => Some(Finding::fails(format!(
                "group '{name}' of config.json targets {}, stored in float; leave it out of 'targets', or list it under 'ignore'",
                first_and_count(first, float.len())
            ))),
            None if !any => Some(Finding::warns(format!(
                "group '{name}' of config.json targets no tensor that is stored quantized"
            ))),
            None => None,
        }
    }
}

/// Returns whether a float tensor is known to be the weight of a Linear layer.
fn is_linear(checkpoint: &Checkpoint, rules: &TargetRules, id: TensorId) -> bool {
    matches!(rules.reason(checkpoint, id), None | Some(Reason::OutputHead))
}
