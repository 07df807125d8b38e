//! Which tensors of a training checkpoint are the network, which are optimizer state, and
//! which are neither.

use crate::checkpoint::access::Role;
use crate::checkpoint::formats::pytorch::graph::{Step, children, is_mapping, is_module};
use crate::checkpoint::formats::pytorch::rebuild::rebuild;
use crate::checkpoint::formats::pytorch::value::{Id, Pickle, Value};
use crate::checkpoint::formats::pytorch::walk::Holders;

/// Keys of a training checkpoint under which a network's state is kept.
const WRAPPERS: [&str; 6] = ["state_dict", "model_state_dict", "model", "module", "net", "network"];

/// Words of keys that hold a network beside others: an average of it, one of several.
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

/// What each of the root's children is, and which of them the network is wrapped in.
#[derive(Debug, Default)]
pub(super) struct Roles {
    of_children: Vec<Role>,
    /// The one child that holds the network and nothing else, whose key is no part of the
    /// tensors' names.
    pub wrapper: Option<usize>,
}

impl Roles {
    pub(super) fn of(&self, top: Option<usize>) -> Role {
        top.and_then(|top| self.of_children.get(top)).copied().unwrap_or_default()
    }

    /// Tells the children of a root dictionary apart. A root of any other kind is a network.
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
            // Beside an optimizer alone, everything else is the network.
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

/// What one key of the root says, and its value.
struct Entry<'a> {
    key: &'a str,
    holds_tensors: bool,
    is_optimizer: bool,
    is_wrapper: bool,
    /// Whether the key says that it is a network's state.
    is_state_dict: bool,
    is_network: bool,
}

impl<'a> Entry<'a> {
    fn new(pickle: &'a Pickle, holders: &Holders, step: Step, value: Id) -> Entry<'a> {
        let key = match step {
            Step::Key(key) => pickle.text(key).unwrap_or_default(),
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

/// Whether a value is what an optimizer's `state_dict()` gives, or a list of such.
fn is_optimizer_state(pickle: &Pickle, id: Id) -> bool {
    match pickle.value(id) {
        Value::List(items) => {
            !items.is_empty() && items.iter().all(|&item| has_optimizer_keys(pickle, item))
        }
        _ => has_optimizer_keys(pickle, id),
    }
}

fn has_optimizer_keys(pickle: &Pickle, id: Id) -> bool {
    is_mapping(pickle, id) && {
        let has = |wanted| {
            children(pickle, id).iter().any(|(step, value)| match step {
                Step::Key(key) => {
                    pickle.text(*key) == Some(wanted) && rebuild(pickle, *value).is_none()
                }
                _ => false,
            })
        };
        has("state") && has("param_groups")
    }
}

/// Whether a value has tensors under the names of a network's layers.
fn holds_layers(pickle: &Pickle, id: Id) -> bool {
    children(pickle, id).iter().any(|(step, value)| {
        let Step::Key(key) = step else { return false };
        let layer = |key: &str| key.contains('.') || key == "weight" || key == "bias";
        pickle.text(*key).is_some_and(layer) && rebuild(pickle, *value).is_some()
    })
}

/// Whether the root is the state of random generators, as the Hugging Face Trainer saves it.
fn is_random_state(entries: &[Entry]) -> bool {
    ["python", "numpy", "cpu"].iter().all(|key| entries.iter().any(|entry| entry.key == *key))
}
