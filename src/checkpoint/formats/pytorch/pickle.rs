//! What a pickle of `torch.save` says: which tensors there are, under which names, and
//! where in which storage.

use crate::checkpoint::error::{CheckpointError, Problem, Result};
use crate::checkpoint::formats::pytorch::unpickler::{Id, Known, Machine, Stop, Value};
use crate::checkpoint::io::cursor::Cursor;
use crate::tensor::DType;
use std::path::Path;

/// Values a walk through a pickle visits, and how deep they may lie.
const VISIT_LIMIT: usize = 1 << 22;
const DEPTH_LIMIT: usize = 64;
const TENSOR_LIMIT: usize = 1 << 20;

/// Bytes of all names on the way.
const NAME_LIMIT: usize = 1 << 28;

/// A dictionary in which all tensors of a training checkpoint may lie.
const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];

/// A pickle that has been read.
pub(crate) struct Pickle {
    values: Vec<Value>,
    root: Id,
}

/// The place of elements, apart from the tensors that show them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Storage {
    pub key: String,
    pub elements: u64,
    pub element_size: u64,
    /// Elements of a larger storage before this one, as early files have it.
    pub offset: u64,
    dtype: Option<DType>,
}

/// A tensor as a pickle describes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub name: String,
    pub dtype: DType,
    pub element_size: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
    pub offset: u64,
    pub storage: Storage,
}

impl Pickle {
    pub(super) fn read(cursor: &mut Cursor, path: &Path) -> Result<Pickle> {
        match Machine::run(cursor) {
            Ok((values, root)) => Ok(Pickle { values, root }),
            Err(Stop::Read(error)) => Err(error),
            Err(Stop::Lie(why)) => {
                Err(CheckpointError::new(path, Problem::Malformed { format: "PyTorch", why }))
            }
        }
    }

    fn value(&self, id: Id) -> &Value {
        self.values.get(id.index()).unwrap_or(&Value::Opaque)
    }

    /// The pickle as an integer of more than 64 bits, little-endian.
    pub(super) fn long(&self) -> Option<&[u8]> {
        match self.value(self.root) {
            Value::Long(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(super) fn int(&self) -> Option<i64> {
        match self.value(self.root) {
            Value::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// The pickle as a dictionary with such a flag.
    pub(super) fn flag(&self, wanted: &str) -> Option<bool> {
        let Value::Dict(items) = self.value(self.root) else { return None };
        let found = items.iter().find(|(key, _)| self.text(*key) == Some(wanted));
        match found.map(|(_, value)| self.value(*value)) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }

    /// The pickle as a list of texts.
    pub(super) fn texts(&self) -> Option<Vec<String>> {
        let Value::List(items) = self.value(self.root) else { return None };
        items.iter().map(|&id| self.text(id).map(str::to_owned)).collect()
    }

    fn text(&self, id: Id) -> Option<&str> {
        match self.value(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn items(&self, id: Id) -> Option<&[Id]> {
        match self.value(id) {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    fn number(&self, id: Id) -> Option<u64> {
        match self.value(id) {
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    fn numbers(&self, id: Id) -> Option<Vec<u64>> {
        self.items(id)?.iter().map(|&item| self.number(item)).collect()
    }

    /// Every storage the pickle refers to.
    pub(super) fn storages(&self) -> impl Iterator<Item = Storage> {
        self.values.iter().filter_map(|value| match value {
            Value::Persistent(id) => self.storage(*id),
            _ => None,
        })
    }

    /// `("storage", class, key, device, elements)`, and in early files where it lies in a
    /// larger one.
    fn storage(&self, id: Id) -> Option<Storage> {
        let (tag, class, key, elements, view) = match self.items(id)? {
            [tag, class, key, _, elements] => (tag, class, key, elements, None),
            [tag, class, key, _, elements, view, ..] => (tag, class, key, elements, Some(view)),
            _ => return None,
        };
        let Value::Known(Known::Elements(kind)) = self.value(*class) else { return None };
        let offset = match view.map(|view| self.value(*view)) {
            Some(Value::Tuple(view)) => self.number(*view.get(1)?)?,
            _ => 0,
        };
        let (dtype, element_size) = kind.clone().map_or((None, 1), |(d, size)| (Some(d), size));
        (self.text(*tag)? == "storage").then_some(())?;
        let (key, elements) = (self.text(*key)?.to_owned(), self.number(*elements)?);
        Some(Storage { key, elements, element_size, offset, dtype })
    }

    /// Every tensor, in the order and under the names of the dictionaries that hold it. A
    /// dictionary that holds all of them among a training run's other state goes unnamed.
    pub(super) fn tensors(&self, path: &Path) -> Result<Vec<Found>> {
        let all = self.below(self.root, path)?;
        if all.is_empty() {
            let why = "it holds no tensors".into();
            let problem = Problem::Malformed { format: "PyTorch", why };
            return Err(CheckpointError::new(path, problem));
        }
        if let Value::Dict(items) = self.value(self.root) {
            for &(key, value) in items {
                let wraps = self.text(key).is_some_and(|key| WRAPPERS.contains(&key));
                if wraps && matches!(self.value(value), Value::Dict(_)) {
                    let inside = self.below(value, path)?;
                    return Ok(if inside.len() == all.len() { inside } else { all });
                }
            }
        }
        Ok(all)
    }

    /// Every tensor that a value holds.
    fn below(&self, root: Id, path: &Path) -> Result<Vec<Found>> {
        let bad = |why: String| {
            Err(CheckpointError::new(path, Problem::Malformed { format: "PyTorch", why }))
        };
        let mut found = Vec::new();
        let (mut visited, mut named) = (0, 0);
        // Names grow along the way down; the stack holds what is still to be seen.
        let mut pending: Vec<(String, Id, usize)> = vec![(String::new(), root, 0)];
        while let Some((name, id, depth)) = pending.pop() {
            visited += 1;
            if visited > VISIT_LIMIT || depth > DEPTH_LIMIT || named > NAME_LIMIT {
                return bad("its pickle is too deep or holds too much".into());
            }
            let inside = |key: &str| match name.is_empty() {
                true => key.to_owned(),
                false => format!("{name}.{key}"),
            };
            let children: Vec<(String, Id)> = match self.value(id) {
                Value::Dict(items) => items
                    .iter()
                    .filter(|(_, value)| self.may_hold(*value))
                    .filter_map(|&(key, value)| Some((self.key(key)?, value)))
                    .collect(),
                Value::List(items) | Value::Tuple(items) => items
                    .iter()
                    .enumerate()
                    .filter(|(_, item)| self.may_hold(**item))
                    .map(|(number, &item)| (number.to_string(), item))
                    .collect(),
                _ => Vec::new(),
            };
            for (key, value) in children.into_iter().rev() {
                let name = inside(&key);
                named += name.len();
                if named > NAME_LIMIT {
                    break;
                }
                pending.push((name, value, depth + 1));
            }
            let Value::Tensor(arguments) = self.value(id) else { continue };
            match self.tensor(name.clone(), arguments) {
                Some(tensor) if found.len() < TENSOR_LIMIT => found.push(tensor),
                Some(_) => {
                    let problem = Problem::TooManyTensors(TENSOR_LIMIT as u64);
                    return Err(CheckpointError::new(path, problem));
                }
                None => {
                    let why = "it is described in a way that is not known".into();
                    let problem = Problem::Malformed { format: "PyTorch", why };
                    return Err(CheckpointError::of_tensor(path, &name, problem));
                }
            }
        }
        Ok(found)
    }

    /// A key of a dictionary as a part of a name.
    fn key(&self, id: Id) -> Option<String> {
        match self.value(id) {
            Value::Text(text) if text.len() <= NAME_LIMIT / 1024 => Some(text.clone()),
            Value::Int(n) => Some(n.to_string()),
            _ => None,
        }
    }

    fn may_hold(&self, id: Id) -> bool {
        matches!(
            self.value(id),
            Value::Dict(_) | Value::List(_) | Value::Tuple(_) | Value::Tensor(_)
        )
    }

    /// Storage, offset, size and strides; a seventh argument is the type of the elements
    /// where the storage has none.
    fn tensor(&self, name: String, arguments: &[Id]) -> Option<Found> {
        let [storage, offset, shape, strides, rest @ ..] = arguments else { return None };
        let Value::Persistent(storage) = self.value(*storage) else { return None };
        let storage = self.storage(*storage)?;
        let said = rest.get(2).map(|id| self.value(*id));
        let (dtype, element_size) = match (&storage.dtype, said) {
            (Some(dtype), _) => (dtype.clone(), storage.element_size),
            (None, Some(Value::Known(Known::Elements(Some((dtype, size)))))) => {
                (dtype.clone(), *size)
            }
            _ => return None,
        };
        let (shape, strides) = (self.numbers(*shape)?, self.numbers(*strides)?);
        let offset = self.number(*offset)?;
        Some(Found { name, dtype, element_size, shape, strides, offset, storage })
    }
}
