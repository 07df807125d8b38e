//! Matches recorded module names to weights.

use crate::checkpoint::Checkpoint;
use crate::tensor::TensorId;
use std::collections::{BTreeMap, HashMap};

/// The weights of a checkpoint by the names of their modules.
pub(super) struct Weights<'c> {
    by_module: HashMap<&'c str, TensorId>,
}

impl<'c> Weights<'c> {
    pub(super) fn of(checkpoint: &'c Checkpoint) -> Weights<'c> {
        let weights = checkpoint.ids().filter_map(|id| {
            let tensor = checkpoint.tensor(id);
            let matrix = tensor.shape.rank() >= 2 && checkpoint.float_type(id).is_some();
            let module = match tensor.name.as_str() {
                "weight" => "",
                name => name.strip_suffix(".weight")?,
            };
            matrix.then_some((module, id))
        });
        Weights { by_module: weights.collect() }
    }

    /// The weight of each of `modules`, in their order.
    ///
    /// Names match exactly. If none does, all names may differ by one common prefix, because a
    /// model that is part of another has a prefix before its names.
    pub(super) fn find(&self, modules: &[&str]) -> Vec<Option<TensorId>> {
        let exact: Vec<_> = modules.iter().map(|name| self.by_module.get(name).copied()).collect();
        if exact.iter().any(Option::is_some) {
            return exact;
        }
        match self.prefix(modules) {
            None => exact,
            Some(Prefix::Recorded(prefix)) => {
                let rest = |name: &&str| self.by_module.get(name.strip_prefix(&prefix)?).copied();
                modules.iter().map(rest).collect()
            }
            Some(Prefix::Stored(prefix)) => {
                let whole = |name| self.by_module.get(format!("{prefix}{name}").as_str()).copied();
                modules.iter().map(whole).collect()
            }
        }
    }

    /// The prefix whose removal makes the most names match.
    fn prefix(&self, modules: &[&str]) -> Option<Prefix> {
        let mut votes: BTreeMap<Prefix, usize> = BTreeMap::new();
        for module in modules {
            for (head, rest) in prefixes(module) {
                if self.by_module.contains_key(rest) {
                    *votes.entry(Prefix::Recorded(head.to_owned())).or_default() += 1;
                }
            }
        }
        let recorded: HashMap<&str, ()> = modules.iter().map(|name| (*name, ())).collect();
        for module in self.by_module.keys() {
            for (head, rest) in prefixes(module) {
                if recorded.contains_key(rest) {
                    *votes.entry(Prefix::Stored(head.to_owned())).or_default() += 1;
                }
            }
        }
        let most = votes.values().copied().max()?;
        votes.into_iter().find(|&(_, count)| count == most).map(|(prefix, _)| prefix)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Prefix {
    /// The recorded names have the prefix.
    Recorded(String),
    /// The checkpoint's names have the prefix.
    Stored(String),
}

/// Splits a name after each of its dots.
fn prefixes(name: &str) -> impl Iterator<Item = (&str, &str)> {
    name.match_indices('.').map(|(dot, _)| name.split_at(dot + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights<'c>(names: &[&'c str]) -> Weights<'c> {
        let numbered = names.iter().zip(0..).map(|(&name, n)| (name, TensorId(n)));
        Weights { by_module: numbered.collect() }
    }

    #[test]
    fn all_names_share_one_prefix() {
        let inner = weights(&["encoder.0.fc", "encoder.1.fc", "fc"]);
        let found = inner.find(&["0.bert.encoder.0.fc", "0.bert.encoder.1.fc", "0.head.fc"]);
        assert_eq!(found, [Some(TensorId(0)), Some(TensorId(1)), None]);
        let outer = weights(&["bert.encoder.0.fc", "bert.encoder.1.fc", "classifier"]);
        let found = outer.find(&["encoder.0.fc", "encoder.1.fc", "pooler"]);
        assert_eq!(found, [Some(TensorId(0)), Some(TensorId(1)), None]);
    }

    #[test]
    fn an_exact_match_needs_no_prefix() {
        let all = weights(&["fc", "encoder.fc"]);
        assert_eq!(all.find(&["fc", "decoder.fc"]), [Some(TensorId(0)), None]);
        assert_eq!(all.find(&["other"]), [None]);
    }
}
