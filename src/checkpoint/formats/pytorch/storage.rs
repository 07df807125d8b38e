//! Storages: the bytes that PyTorch's tensors are views of, and how pickles refer to them.

use crate::checkpoint::formats::element_type::{self, ElementType};
use crate::checkpoint::formats::pytorch::value::{Pickle, Value, ValueId};
use std::borrow::Cow;

/// A reference to a storage in a pickle.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Storage {
    pub key: String,
    pub elements: u64,
    pub element: StorageType,
    /// Offset in a larger storage in elements; only in early files.
    pub offset: u64,
}

/// The element type of a storage.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum StorageType {
    Typed(ElementType),
    Bytes,
    /// An unknown class, by its name.
    Unknown(String),
}

impl StorageType {
    fn of_class(class: &str) -> StorageType {
        match element_type::of_storage_class(class) {
            Some(element) => StorageType::Typed(element),
            None if class == "UntypedStorage" => StorageType::Bytes,
            None => StorageType::Unknown(class.to_owned()),
        }
    }

    /// Size of one element in bytes; `None` if its type is unknown.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            StorageType::Typed(element) => Some(element.size),
            StorageType::Bytes => Some(1),
            StorageType::Unknown(_) => None,
        }
    }
}

/// Parses the storage that a persistent id refers to; `None` if it is something else.
pub(super) fn described(pickle: &Pickle, persistent: ValueId) -> Option<Storage> {
    if let Value::Text(text) = pickle.value(persistent) {
        return spelled(text);
    }
    let (tag, class, key, elements, view) = match pickle.items(persistent)? {
        [tag, class, key, _, elements] => (tag, class, key, elements, None),
        [tag, class, key, _, elements, view, ..] => (tag, class, key, elements, Some(view)),
        _ => return None,
    };
    if pickle.text(*tag)? != "storage" {
        return None;
    }
    let element = match pickle.global(*class) {
        Some(("torch" | "torch.cuda" | "torch.storage", class)) => StorageType::of_class(class),
        _ => return None,
    };
    let offset = match view.map(|view| pickle.value(*view)) {
        Some(Value::Tuple(view)) => pickle.number(*view.get(1)?)?,
        _ => 0,
    };
    let key = match pickle.value(*key) {
        Value::Text(key) => key.to_string(),
        Value::Int(key) => key.to_string(),
        _ => return None,
    };
    Some(Storage { key, elements: pickle.number(*elements)?, element, offset })
}

/// Parses a persistent id that protocol 0 wrote as text: `('storage', <class 'torch.FloatStorage'>,
/// '0', 'cpu', 6, None)`.
fn spelled(text: &str) -> Option<Storage> {
    let inside = text.trim().strip_prefix('(')?.strip_suffix(')')?;
    let mut fields = inside.splitn(6, ", ").map(|field| field.trim_end_matches(','));
    let unquoted = |field: &str| field.trim_matches(['\'', '"']).to_owned();
    if unquoted(fields.next()?) != "storage" {
        return None;
    }
    let class = fields.next()?.trim_start_matches("<class '").trim_end_matches("'>");
    let class = class.rsplit('.').next().map(Cow::from)?;
    let key = unquoted(fields.next()?);
    let _device = fields.next()?;
    let elements = fields.next()?.trim_end_matches('L').parse().ok()?;
    let offset = match fields.next() {
        None | Some("None") => 0,
        Some(view) => view.strip_prefix('(')?.split(", ").nth(1)?.parse().ok()?,
    };
    Some(Storage { key, elements, element: StorageType::of_class(&class), offset })
}

/// Returns every storage that the pickle refers to.
pub(super) fn all(pickle: &Pickle) -> impl Iterator<Item = Storage> {
    pickle.values.iter().filter_map(|value| match value {
        Value::Persistent(id) => described(pickle, *id),
        _ => None,
    })
}
