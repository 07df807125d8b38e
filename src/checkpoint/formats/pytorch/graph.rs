//! The children of a value in a pickle, and the name of each.

use crate::checkpoint::formats::pytorch::rebuild::{Rebuild, rebuild};
use crate::checkpoint::formats::pytorch::value::{Object, Pickle, Value, ValueId};

/// A step from a value to a child; becomes a part of the child's name.
#[derive(Clone, Copy, Debug)]
pub(super) enum PathStep {
    /// A dictionary's key, or an attribute.
    Key(ValueId),
    /// An index in a list.
    Index(usize),
    /// An argument of a call.
    Argument(usize),
    /// Keyword arguments of a call.
    Keywords,
    /// The state of an object that has no attributes.
    State,
    /// Adds nothing to the name: a module's dictionary of parameters, buffers or modules.
    Inside,
}

/// The dictionaries in which an nn.Module keeps its tensors and modules.
const MODULE: [&str; 3] = ["_parameters", "_buffers", "_modules"];

/// Returns the children of a value in order. The children of a tensor are its attributes.
pub(super) fn children(pickle: &Pickle, id: ValueId) -> Vec<(PathStep, ValueId)> {
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

/// Returns whether a value is a dictionary or a dictionary type of the standard library.
pub(super) fn is_mapping(pickle: &Pickle, id: ValueId) -> bool {
    match pickle.value(id) {
        Value::Dict(_) => true,
        Value::Object(object) => {
            pickle.global(object.callee).is_some_and(|(module, name)| mapping(module, name))
        }
        _ => false,
    }
}

/// Returns whether a value has the attributes of an nn.Module.
pub(super) fn is_module(pickle: &Pickle, id: ValueId) -> bool {
    let Value::Object(object) = pickle.value(id) else { return false };
    object.states.iter().any(|&state| is_module_state(pickle, state))
}

fn is_module_state(pickle: &Pickle, state: ValueId) -> bool {
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

fn keyed(pairs: &[(ValueId, ValueId)]) -> impl Iterator<Item = (PathStep, ValueId)> {
    pairs.iter().map(|&(key, value)| (PathStep::Key(key), value))
}

fn indexed(items: &[ValueId]) -> impl Iterator<Item = (PathStep, ValueId)> {
    items.iter().enumerate().map(|(number, &item)| (PathStep::Index(number), item))
}

fn of_object(pickle: &Pickle, object: &Object) -> Vec<(PathStep, ValueId)> {
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
                children.push((PathStep::Inside, object.callee));
            }
            let arguments = object.arguments.iter().enumerate();
            children.extend(arguments.map(|(number, &id)| (PathStep::Argument(number), id)));
        }
    }
    children.extend(object.keywords.map(|id| (PathStep::Keywords, id)));
    let items = indexed(&object.items).map(|(step, id)| match step {
        PathStep::Index(number) => (PathStep::Index(numbered + number), id),
        step => (step, id),
    });
    children.extend(items);
    children.extend(keyed(&object.pairs));
    for &state in &object.states {
        of_state(pickle, state, &mut children);
    }
    children
}

/// Returns the pairs that a dictionary is constructed from: another dictionary or a list of pairs.
fn pairs_of(pickle: &Pickle, id: ValueId) -> Vec<(PathStep, ValueId)> {
    if let Value::Dict(pairs) = pickle.value(id) {
        return keyed(pairs).collect();
    }
    let pair = |&item: &ValueId| match *pickle.items(item)? {
        [key, value] => Some((PathStep::Key(key), value)),
        _ => None,
    };
    pickle.items(id).unwrap_or_default().iter().filter_map(pair).collect()
}

/// Adds the attributes in an object's state to `children`.
fn of_state(pickle: &Pickle, state: ValueId, children: &mut Vec<(PathStep, ValueId)>) {
    match pickle.value(state) {
        Value::Dict(pairs) if is_module_state(pickle, state) => {
            children.extend(pairs.iter().map(|&(key, value)| {
                if pickle.text(key).is_some_and(|key| MODULE.contains(&key)) {
                    (PathStep::Inside, value)
                } else {
                    (PathStep::Key(key), value)
                }
            }));
        }
        Value::Dict(pairs) => children.extend(keyed(pairs)),
        // Attributes from `__dict__` and from `__slots__`.
        Value::Tuple(parts) => match **parts {
            [first, second] if [first, second].iter().all(|&id| is_attributes(pickle, id)) => {
                of_state(pickle, first, children);
                of_state(pickle, second, children);
            }
            _ => children.push((PathStep::State, state)),
        },
        Value::None => {}
        _ => children.push((PathStep::State, state)),
    }
}

fn is_attributes(pickle: &Pickle, id: ValueId) -> bool {
    matches!(pickle.value(id), Value::None | Value::Dict(_))
}

/// Returns the attributes of a tensor.
fn of_tensor(pickle: &Pickle, object: &Object, rebuild: &Rebuild) -> Vec<(PathStep, ValueId)> {
    let mut children = Vec::new();
    match rebuild {
        Rebuild::Array(array) => {
            // An array of objects keeps them in a list.
            if let Value::List(items) = pickle.value(array.data) {
                children.extend(indexed(items));
            }
            return children;
        }
        // Its parts are not separate tensors of the model.
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
    // A wrapper has no attributes that hold tensors, but a tensor inside a parameter may.
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

/// Returns whether an object's state is the tensor itself, as PyTorch 0.1 pickled it.
fn has_tensor_class(pickle: &Pickle, object: &Object) -> bool {
    matches!(pickle.global(object.callee), Some(("torch" | "torch.cuda", _)))
}
