//! Classifies the tensors of a training checkpoint: network, optimizer state, or other.

use crate::checkpoint::access::Role;
use crate::checkpoint::formats::pytorch::graph::{PathStep, children, is_mapping, is_module};
use crate::checkpoint::formats::pytorch::rebuild::rebuild;
use crate::checkpoint::formats::pytorch::value::{Pickle, Value, ValueId};
use crate::checkpoint::formats::pytorch::walk::Holders;

/// Keys of a training checkpoint that contain a network's state.
const WRAPPERS: [&str; 6] = ["state_dict", "model_state_dict", "model", "module", "net", "network"];

/// Words in keys that contain a further network: an average, or one of several.
const NETWORK_WORDS: [&str; 10] = [
    "model",
    "ema",
    "net",
    "network",
    "module",
    "params",
    "weights",
    "generator",
    "discriminator",
    "dict",
];

/// The role of each child of the root, and the child that wraps the network.
#[derive(Debug, Default)]
pub(super) struct Roles {
    of_children: Vec<Role>,
    /// The only child, if it contains the network. Its key is left out of the tensors' names.
    pub wrapper: Option<usize>,
}

impl Roles {
    pub(super) fn of(&self, top: Option<usize>) -> Role {
        top.and_then(|top| self.of_children.get(top)).copied().unwrap_or_default()
    }

    /// Classifies the children of a root dictionary. A root of any other type is a network.
    pub(super) fn new(pickle: &Pickle, holders: &Holders) -> Roles {
        if !is_mapping(pickle, pickle.root) {
            return Roles::default();
        }
        let entries: Vec<Entry> = children(pickle, pickle.root)
            .into_iter()
            .map(|(step, value)| Entry::new(pickle, holders, step, value))
            .collect();
        if is_optimizer_state(pickle, pickle.root) {
            return Roles { of_children: vec![Role::Optimizer; entries.len()], wrapper: None };
        }
        if is_random_state(&entries) {
            return Roles { of_children: vec![Role::Other; entries.len()], wrapper: None };
        }
        let held = |entry: &&Entry| entry.holds_tensors;
        let network = |entry: &&Entry| entry.is_network && !entry.is_optimizer;
        let holders = entries.iter().filter(held).count();
        let training = entries.iter().any(|entry| {
            entry.is_optimizer || entry.is_wrapper && (entry.is_state_dict || holders == 1)
        });
        if !training {
            return Roles::default();
        }
        let networks: Vec<usize> = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| held(entry) && network(entry))
            .map(|(place, _)| place)
            .collect();
        let of_children = entries.iter().enumerate().map(|(place, entry)| match entry {
            entry if entry.is_optimizer => Role::Optimizer,
            // Without a recognized network, everything except the optimizer is the network.
            _ if networks.is_empty() || networks.contains(&place) => Role::Network,
            _ => Role::Other,
        });
        let of_children = of_children.collect();
        let wrapper = match *networks {
            [only] => entries.get(only).filter(|entry| entry.is_wrapper).map(|_| only),
            _ => None,
        };
        Roles { of_children, wrapper }
    }
}

/// One key of the root and what it says about its value.
struct Entry<'a> {
    key: &'a str,
    holds_tensors: bool,
    is_optimizer: bool,
    is_wrapper: bool,
    /// Whether the key says that the value is a network's state.
    is_state_dict: bool,
    is_network: bool,
}

impl<'a> Entry<'a> {
    fn new(pickle: &'a Pickle, holders: &Holders, step: PathStep, value: ValueId) -> Entry<'a> {
        let key = match step {
            PathStep::Key(key) => pickle.text(key).unwrap_or_default(),
            _ => "",
        };
        let holds_tensors = holders.hold(value);
        let lower = key.to_ascii_lowercase();
        let tensor = rebuild(pickle, value).is_some();
        let container = !tensor
            && matches!(
                pickle.value(value),
                Value::Dict(_) | Value::List(_) | Value::Tuple(_) | Value::Object(_)
            );
        let keeps_state = is_mapping(pickle, value) || is_module(pickle, value);
        let is_optimizer =
            container && (lower.contains("optim") || is_optimizer_state(pickle, value));
        let is_state_dict = lower.ends_with("state_dict");
        let is_wrapper = holds_tensors
            && !is_optimizer
            && keeps_state
            && (WRAPPERS.contains(&key) || is_state_dict);
        let named = lower
            .split(|c: char| !c.is_ascii_alphanumeric())
            .any(|word| NETWORK_WORDS.contains(&word));
        let is_network = container
            && (is_wrapper
                || is_module(pickle, value)
                || (keeps_state && (named || holds_layers(pickle, value))));
        Entry { key, holds_tensors, is_optimizer, is_wrapper, is_state_dict, is_network }
    }
}

/// Returns whether a value is the result of an optimizer's `state_dict()`, or a list of them.
fn is_optimizer_state(pickle: &Pickle, id: ValueId) -> bool {
    match pickle.value(id) {
        Value::List(items) => {
            !items.is_empty() && items.iter().all(|&item| has_optimizer_keys(pickle, item))
        }
        _ => has_optimizer_keys(pickle, id),
    }
}

fn has_optimizer_keys(pickle: &Pickle, id: ValueId) -> bool {
    is_mapping(pickle, id) && {
        let has = |wanted| {
            children(pickle, id).iter().any(|(step, value)| match step {
                PathStep::Key(key) => {
                    pickle.text(*key) == Some(wanted) && rebuild(pickle, *value).is_none()
                }
                _ => false,
            })
        };
        has("state") && has("param_groups")
    }
}

/// Returns whether a value has tensors with names of a network's layers.
fn holds_layers(pickle: &Pickle, id: ValueId) -> bool {
    children(pickle, id).iter().any(|(step, value)| {
        let PathStep::Key(key) = step else { return false };
        let layer = |key: &str| key.contains('.') || key == "weight" || key == "bias";
        pickle.text(*key).is_some_and(layer) && rebuild(pickle, *value).is_some()
    })
}

/// Returns whether the root is the state of random generators, as the Hugging Face Trainer saves
/// it.
fn is_random_state(entries: &[Entry]) -> bool {
    ["python", "numpy", "cpu"].iter().all(|key| entries.iter().any(|entry| entry.key == *key))
}
