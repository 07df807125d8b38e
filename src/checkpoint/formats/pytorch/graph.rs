//! Which values a value holds, and what each of them is called there.

use crate::checkpoint::formats::pytorch::rebuild::{Rebuild, rebuild};
use crate::checkpoint::formats::pytorch::value::{Id, Object, Pickle, Value};

/// The part of a name that leads from a value to one it holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// A dictionary's key, or an attribute.
    Key(Id),
    /// A place in a list.
    Index(usize),
    /// An argument of a call.
    Argument(usize),
    /// Keyword arguments of a call.
    Keywords,
    /// The state of an object that has no attributes.
    State,
    /// No part of its own: a module's dictionary of parameters, buffers or modules.
    Inside,
}

/// What an nn.Module keeps its tensors and modules in.
const MODULE: [&str; 3] = ["_parameters", "_buffers", "_modules"];

/// The values that a value holds, in order. Of a tensor: its attributes.
pub(super) fn children(pickle: &Pickle, id: Id) -> Vec<(Step, Id)> {
    match pickle.value(id) {
        Value::Dict(pairs) => keyed(pairs).collect(),
        Value::Tuple(items) => indexed(items).collect(),
        Value::List(items) | Value::Set(items) => indexed(items).collect(),
        Value::Object(object) => match rebuild(pickle, id) {
            Some(rebuild) => of_tensor(pickle, object, &rebuild),
            None => of_object(pickle, object),
        },
        _ => Vec::new(),
    }
}

/// Whether a value is a dictionary or one of the standard library's kinds of dictionary.
pub(super) fn is_mapping(pickle: &Pickle, id: Id) -> bool {
    match pickle.value(id) {
        Value::Dict(_) => true,
        Value::Object(object) => {
            pickle.global(object.callee).is_some_and(|(module, name)| mapping(module, name))
        }
        _ => false,
    }
}

/// Whether a value is an nn.Module by what it holds.
pub(super) fn is_module(pickle: &Pickle, id: Id) -> bool {
    let Value::Object(object) = pickle.value(id) else { return false };
    object.states.iter().any(|&state| is_module_state(pickle, state))
}

fn is_module_state(pickle: &Pickle, state: Id) -> bool {
    let holds = |key| pickle.get(state, key).is_some_and(|id| is_mapping(pickle, id));
    holds("_parameters") && holds("_modules")
}

fn mapping(module: &str, name: &str) -> bool {
    match module {
        "collections" => matches!(name, "OrderedDict" | "defaultdict" | "Counter"),
        "builtins" | "__builtin__" => name == "dict",
        _ => false,
    }
}

fn sequence(module: &str, name: &str) -> bool {
    match module {
        "collections" => name == "deque",
        "builtins" | "__builtin__" => matches!(name, "list" | "tuple" | "set" | "frozenset"),
        "torch" => name == "Size",
        _ => false,
    }
}

fn keyed(pairs: &[(Id, Id)]) -> impl Iterator<Item = (Step, Id)> {
    pairs.iter().map(|&(key, value)| (Step::Key(key), value))
}

fn indexed(items: &[Id]) -> impl Iterator<Item = (Step, Id)> {
    items.iter().enumerate().map(|(number, &item)| (Step::Index(number), item))
}

fn of_object(pickle: &Pickle, object: &Object) -> Vec<(Step, Id)> {
    let mut children = Vec::new();
    let class = pickle.global(object.callee).unwrap_or_default();
    let first = object.arguments.first().copied();
    let mut numbered = 0;
    match first {
        Some(first) if mapping(class.0, class.1) => children.extend(pairs_of(pickle, first)),
        Some(first) if sequence(class.0, class.1) => {
            let items = match pickle.value(first) {
                Value::Set(items) => items,
                _ => pickle.items(first).unwrap_or_default(),
            };
            numbered = items.len();
            children.extend(indexed(items));
        }
        _ => {
            if let Value::Object(_) = pickle.value(object.callee) {
                children.push((Step::Inside, object.callee));
            }
            let arguments = object.arguments.iter().enumerate();
            children.extend(arguments.map(|(number, &id)| (Step::Argument(number), id)));
        }
    }
    children.extend(object.keywords.map(|id| (Step::Keywords, id)));
    let items = indexed(&object.items).map(|(step, id)| match step {
        Step::Index(number) => (Step::Index(numbered + number), id),
        step => (step, id),
    });
    children.extend(items);
    children.extend(keyed(&object.pairs));
    for &state in &object.states {
        of_state(pickle, state, &mut children);
    }
    children
}

/// The pairs that a dictionary is made from: another, or a list of pairs.
fn pairs_of(pickle: &Pickle, id: Id) -> Vec<(Step, Id)> {
    if let Value::Dict(pairs) = pickle.value(id) {
        return keyed(pairs).collect();
    }
    let pair = |&item: &Id| match *pickle.items(item)? {
        [key, value] => Some((Step::Key(key), value)),
        _ => None,
    };
    pickle.items(id).unwrap_or_default().iter().filter_map(pair).collect()
}

/// The attributes that an object's state gives it.
fn of_state(pickle: &Pickle, state: Id, children: &mut Vec<(Step, Id)>) {
    match pickle.value(state) {
        Value::Dict(pairs) if is_module_state(pickle, state) => {
            children.extend(pairs.iter().map(|&(key, value)| {
                match pickle.text(key).is_some_and(|key| MODULE.contains(&key)) {
                    true => (Step::Inside, value),
                    false => (Step::Key(key), value),
                }
            }));
        }
        Value::Dict(pairs) => children.extend(keyed(pairs)),
        // Attributes of a dictionary and of slots.
        Value::Tuple(parts) => match **parts {
            [first, second] if [first, second].iter().all(|&id| is_attributes(pickle, id)) => {
                of_state(pickle, first, children);
                of_state(pickle, second, children);
            }
            _ => children.push((Step::State, state)),
        },
        Value::None => {}
        _ => children.push((Step::State, state)),
    }
}

fn is_attributes(pickle: &Pickle, id: Id) -> bool {
    matches!(pickle.value(id), Value::None | Value::Dict(_))
}

/// The attributes of a tensor.
fn of_tensor(pickle: &Pickle, object: &Object, rebuild: &Rebuild) -> Vec<(Step, Id)> {
    let mut children = Vec::new();
    match rebuild {
        Rebuild::Array(array) => {
            // An array of objects has them in a list.
            if let Value::List(items) = pickle.value(array.data) {
                children.extend(indexed(items));
            }
            return children;
        }
        // Its parts are no tensors of the model.
        Rebuild::Nested { .. } => return children,
        _ => {}
    }
    if let (
        Some((_, "_rebuild_parameter_with_state" | "_rebuild_from_type_v2" | "_rebuild_from_type")),
        &[_, _, _, state, ..],
    ) = (pickle.global(object.callee), &*object.arguments)
    {
        of_state(pickle, state, &mut children)
    }
    // What a tensor is wrapped in has no attributes of its own that hold tensors, but a
    // tensor inside a parameter may.
    if let (Some((_, "_rebuild_parameter" | "_rebuild_parameter_with_state")), Some(&inner)) =
        (pickle.global(object.callee), object.arguments.first())
        && let Value::Object(inner) = pickle.value(inner)
        && pickle
            .global(inner.callee)
            .is_some_and(|(_, name)| name.starts_with("_rebuild_from_type"))
        && let Some(&state) = inner.arguments.get(3)
    {
        of_state(pickle, state, &mut children);
    }
    if !matches!(rebuild, Rebuild::Dense(_)) || !has_tensor_class(pickle, object) {
        for &state in &object.states {
            of_state(pickle, state, &mut children);
        }
    }
    children
}

/// Whether an object's state is the tensor itself, as PyTorch 0.1 pickled it.
fn has_tensor_class(pickle: &Pickle, object: &Object) -> bool {
    matches!(pickle.global(object.callee), Some(("torch" | "torch.cuda", _)))
}
