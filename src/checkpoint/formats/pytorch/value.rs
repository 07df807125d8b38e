//! The values that a pickle describes.

use crate::checkpoint::formats::region::{Region, RegionBase};

/// Index of a value among all values of a pickle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ValueId(pub u32);

impl ValueId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, little-endian in two's complement.
    Long(Box<[u8]>),
    Float(f64),
    Text(Box<str>),
    /// Text too long to be kept, given by the position of its UTF-8 in the pickle.
    LongText {
        start: u64,
        length: u64,
    },
    /// Bytes by their position in the pickle.
    Bytes {
        start: u64,
        length: u64,
    },
    /// Bytes that the pickle wrote with escapes.
    DecodedBytes(Box<[u8]>),
    List(Vec<ValueId>),
    Tuple(Box<[ValueId]>),
    Set(Vec<ValueId>),
    Dict(Vec<(ValueId, ValueId)>),
    /// A class or function, by its module and name.
    Global(Box<(String, String)>),
    /// A persistent id: a reference to a storage of the file.
    Persistent(ValueId),
    Object(Box<Object>),
    /// A value that is not needed here.
    Opaque,
}

/// A call of a class or function, and later changes to its result. Nothing is executed: the call
/// itself is the value.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub callee: ValueId,
    pub arguments: Box<[ValueId]>,
    pub keywords: Option<ValueId>,
    /// Arguments of `__setstate__`, or updates of `__dict__`.
    pub states: Vec<ValueId>,
    /// Items that are appended or added.
    pub items: Vec<ValueId>,
    /// Keys that are set.
    pub pairs: Vec<(ValueId, ValueId)>,
}

impl Object {
    pub(super) fn new(callee: ValueId, arguments: Box<[ValueId]>) -> Object {
        let (states, items, pairs) = (Vec::new(), Vec::new(), Vec::new());
        Object { callee, arguments, keywords: None, states, items, pairs }
    }
}

/// A parsed pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    pub values: Vec<Value>,
    pub root: ValueId,
    /// The origin of positions in the pickle.
    pub base: RegionBase,
}

impl Pickle {
    pub(super) fn value(&self, id: ValueId) -> &Value {
        self.values.get(id.index()).unwrap_or(&Value::Opaque)
    }

    pub(super) fn root(&self) -> &Value {
        self.value(self.root)
    }

    pub(super) fn text(&self, id: ValueId) -> Option<&str> {
        match self.value(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn items(&self, id: ValueId) -> Option<&[ValueId]> {
        match self.value(id) {
            Value::Tuple(items) => Some(items),
            Value::List(items) => Some(items),
            // `torch.Size` and similar: a call with one sequence.
            Value::Object(object) => match *object.arguments {
                [only] if matches!(self.value(only), Value::Tuple(_) | Value::List(_)) => {
                    self.items(only)
                }
                _ => None,
            },
            _ => None,
        }
    }

    pub(super) fn number(&self, id: ValueId) -> Option<u64> {
        match self.value(id) {
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    pub(super) fn numbers(&self, id: ValueId) -> Option<Vec<u64>> {
        self.items(id)?.iter().map(|&item| self.number(item)).collect()
    }

    /// Returns the module and name of a class or function.
    pub(super) fn global(&self, id: ValueId) -> Option<(&str, &str)> {
        match self.value(id) {
            Value::Global(global) => Some((&global.0, &global.1)),
            _ => None,
        }
    }

    /// Returns the value of a boolean.
    pub(super) fn flag(&self, id: ValueId) -> Option<bool> {
        match self.value(id) {
            Value::Bool(flag) => Some(*flag),
            Value::Int(n @ (0 | 1)) => Some(*n == 1),
            _ => None,
        }
    }

    /// Returns the value for a text key of a dictionary.
    pub(super) fn get(&self, dictionary: ValueId, key: &str) -> Option<ValueId> {
        let Value::Dict(pairs) = self.value(dictionary) else { return None };
        let found = pairs.iter().rev().find(|(k, _)| self.text(*k) == Some(key));
        found.map(|(_, value)| *value)
    }

    /// Returns a part of the pickle as a region.
    pub(super) fn region(&self, start: u64, length: u64) -> Region {
        Region { base: self.base.clone(), start, length }
    }
}
