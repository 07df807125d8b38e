//! The values that a pickle builds.

use crate::checkpoint::formats::region::{Base, Region};

/// A value's place among all that a pickle has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(pub u32);

impl Id {
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
    /// Text too long to be kept: where its UTF-8 is in the pickle.
    LongText {
        start: u64,
        length: u64,
    },
    /// Bytes by their place in the pickle.
    Bytes {
        start: u64,
        length: u64,
    },
    /// Bytes that the pickle spells with escapes.
    DecodedBytes(Box<[u8]>),
    List(Vec<Id>),
    Tuple(Box<[Id]>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function, by its module and name.
    Global(Box<(String, String)>),
    /// What the file's storages are referred to by.
    Persistent(Id),
    Object(Box<Object>),
    /// A value that is of no use here.
    Opaque,
}

/// What calling a class or function gives, and what is done to it afterwards. Nothing is
/// called: the call itself is the value.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub callee: Id,
    pub arguments: Box<[Id]>,
    pub keywords: Option<Id>,
    /// What `__setstate__` or `__dict__` is given.
    pub states: Vec<Id>,
    /// Items appended or added.
    pub items: Vec<Id>,
    /// Keys set.
    pub pairs: Vec<(Id, Id)>,
}

impl Object {
    pub(super) fn new(callee: Id, arguments: Box<[Id]>) -> Object {
        let (states, items, pairs) = (Vec::new(), Vec::new(), Vec::new());
        Object { callee, arguments, keywords: None, states, items, pairs }
    }
}

/// One pickle that has been read.
#[derive(Debug)]
pub(super) struct Pickle {
    pub values: Vec<Value>,
    pub root: Id,
    /// What positions in the pickle count from.
    pub base: Base,
}

impl Pickle {
    pub(super) fn value(&self, id: Id) -> &Value {
        self.values.get(id.index()).unwrap_or(&Value::Opaque)
    }

    pub(super) fn root(&self) -> &Value {
        self.value(self.root)
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.value(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn items(&self, id: Id) -> Option<&[Id]> {
        match self.value(id) {
            Value::Tuple(items) => Some(items),
            Value::List(items) => Some(items),
            // `torch.Size` and the like: a call with one sequence.
            Value::Object(object) => match *object.arguments {
                [only] if matches!(self.value(only), Value::Tuple(_) | Value::List(_)) => {
                    self.items(only)
                }
                _ => None,
            },
            _ => None,
        }
    }

    pub(super) fn number(&self, id: Id) -> Option<u64> {
        match self.value(id) {
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    pub(super) fn numbers(&self, id: Id) -> Option<Vec<u64>> {
        self.items(id)?.iter().map(|&item| self.number(item)).collect()
    }

    /// The module and name of a class or function.
    pub(super) fn global(&self, id: Id) -> Option<(&str, &str)> {
        match self.value(id) {
            Value::Global(global) => Some((&global.0, &global.1)),
            _ => None,
        }
    }

    /// Whether a value is this flag.
    pub(super) fn flag(&self, id: Id) -> Option<bool> {
        match self.value(id) {
            Value::Bool(flag) => Some(*flag),
            Value::Int(n @ (0 | 1)) => Some(*n == 1),
            _ => None,
        }
    }

    /// The value of a text key of a dictionary.
    pub(super) fn get(&self, dictionary: Id, key: &str) -> Option<Id> {
        let Value::Dict(pairs) = self.value(dictionary) else { return None };
        let found = pairs.iter().rev().find(|(k, _)| self.text(*k) == Some(key));
        found.map(|(_, value)| *value)
    }

    /// A part of the pickle as a region.
    pub(super) fn region(&self, start: u64, length: u64) -> Region {
        Region { base: self.base.clone(), start, length }
    }
}
