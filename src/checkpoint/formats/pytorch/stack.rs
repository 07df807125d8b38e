//! The state of the pickle machine: the stack, the memo, and all values.

use crate::checkpoint::error::ReadError;
use crate::checkpoint::formats::pytorch::text;
use crate::checkpoint::formats::pytorch::value::{Object, Value, ValueId};
use std::collections::HashMap;

/// Maximum number of values per pickle.
const VALUE_LIMIT: usize = 1 << 22;

/// Maximum number of items in all containers of a pickle.
const ITEM_LIMIT: usize = 1 << 24;

/// Maximum bytes of kept text.
const TEXT_LIMIT: u64 = 64 << 20;

/// Values and the stack of their ids.
#[derive(Default)]
pub(super) struct PickleStack {
    values: Vec<Value>,
    ids: Vec<ValueId>,
    /// Lengths of the stack at each mark.
    marks: Vec<usize>,
    memo: HashMap<u64, ValueId>,
    /// Already created integers; pickles contain few different ones.
    integers: HashMap<i64, ValueId>,
    /// Ids of `None`, `False`, `True` and `()`, once created.
    constants: [Option<ValueId>; 4],
    items: usize,
    text_bytes: u64,
}

/// Why a pickle could not be read.
pub(super) enum PickleError {
    /// The file could not be read.
    Read(ReadError),
    /// The pickle is invalid, for the given reason.
    Invalid(String),
}

impl From<ReadError> for PickleError {
    fn from(error: ReadError) -> Self {
        PickleError::Read(error)
    }
}

pub(super) type PickleResult<T = ()> = Result<T, PickleError>;

/// Returns the error for an invalid pickle.
pub(super) fn invalid<T>(why: impl Into<String>) -> PickleResult<T> {
    Err(PickleError::Invalid(why.into()))
}

impl PickleStack {
    /// Creates a value without pushing it.
    pub(super) fn add(&mut self, value: Value) -> PickleResult<ValueId> {
        if self.values.len() >= VALUE_LIMIT {
            return invalid(format!("its pickle creates more than {VALUE_LIMIT} values"));
        }
        let id = ValueId(self.values.len() as u32);
        self.values.push(value);
        Ok(id)
    }

    /// Creates a value and pushes it.
    pub(super) fn push(&mut self, value: Value) -> PickleResult {
        let id = self.add(value)?;
        self.ids.push(id);
        self.count(1)
    }

    /// Pushes an integer, reusing an existing value.
    pub(super) fn integer(&mut self, n: i64) -> PickleResult {
        let id = match self.integers.get(&n) {
            Some(&id) => id,
            None => {
                let id = self.add(Value::Int(n))?;
                self.integers.insert(n, id);
                id
            }
        };
        self.ids.push(id);
        self.count(1)
    }

    /// Pushes a value that is created once; `number` is its index in `constants`.
    pub(super) fn constant(&mut self, number: usize, value: Value) -> PickleResult {
        let id = match self.constants.get(number).copied().flatten() {
            Some(id) => id,
            None => {
                let id = self.add(value)?;
                if let Some(place) = self.constants.get_mut(number) {
                    *place = Some(id);
                }
                id
            }
        };
        self.ids.push(id);
        self.count(1)
    }

    /// Counts items put on the stack. Each ends up in at most one container.
    fn count(&mut self, items: usize) -> PickleResult {
        self.items += items;
        if self.items > ITEM_LIMIT {
            invalid(format!("its pickle has more than {ITEM_LIMIT} items"))
        } else {
            Ok(())
        }
    }

    /// Removes and returns the top of the stack.
    pub(super) fn pop(&mut self) -> PickleResult<ValueId> {
        match self.ids.pop() {
            Some(id) => Ok(id),
            None => invalid("its pickle takes a value from an empty stack"),
        }
    }

    /// Returns the top of the stack.
    pub(super) fn top(&self) -> PickleResult<ValueId> {
        match self.ids.last() {
            Some(&id) => Ok(id),
            None => invalid("its pickle uses an empty stack"),
        }
    }

    /// Removes and returns what was pushed since the last mark.
    pub(super) fn marked(&mut self) -> PickleResult<Vec<ValueId>> {
        let Some(mark) = self.marks.pop().filter(|&mark| mark <= self.ids.len()) else {
            return invalid("its pickle has no mark where it needs one");
        };
        Ok(self.ids.split_off(mark))
    }

    /// Counts bytes of text that are kept.
    pub(super) fn keep_text(&mut self, bytes: u64) -> PickleResult {
        self.text_bytes = self.text_bytes.saturating_add(bytes);
        if self.text_bytes > TEXT_LIMIT {
            invalid(format!("its pickle has more than {TEXT_LIMIT} bytes of text"))
        } else {
            Ok(())
        }
    }

    /// Pushes an integer given as little-endian two's complement.
    pub(super) fn long(&mut self, bytes: Vec<u8>) -> PickleResult {
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut whole = [if negative { 0xff } else { 0 }; 8];
        match whole.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(&bytes);
                self.integer(i64::from_le_bytes(whole))
            }
            None => self.push(Value::Long(bytes.into())),
        }
    }

    /// Pushes an integer given as decimal digits.
    pub(super) fn decimal(&mut self, digits: &str) -> PickleResult {
        match digits.parse() {
            Ok(n) => self.integer(n),
            Err(_) => match text::decimal(digits) {
                Some(bytes) => self.long(bytes),
                None => invalid("its pickle has an invalid number"),
            },
        }
    }

    /// Stores the top of the stack in the memo.
    pub(super) fn remember(&mut self, key: u64) -> PickleResult {
        let top = self.top()?;
        self.count(1)?;
        self.memo.insert(key, top);
        Ok(())
    }

    /// Pushes a value from the memo.
    pub(super) fn recall(&mut self, key: u64) -> PickleResult {
        match self.memo.get(&key) {
            Some(&id) => {
                self.ids.push(id);
                self.count(1)
            }
            None => invalid("its pickle recalls a value that is not in its memo"),
        }
    }

    /// Adds items to the list, set or object on top of the stack.
    pub(super) fn extend(&mut self, items: &[ValueId]) -> PickleResult {
        let top = self.top()?;
        match self.values.get_mut(top.index()) {
            Some(Value::List(list) | Value::Set(list)) => list.extend(items),
            Some(Value::Object(object)) => object.items.extend(items),
            Some(Value::Opaque | Value::Persistent(_)) => {}
            _ => return invalid("its pickle appends to something that is not a list"),
        }
        Ok(())
    }

    /// Sets keys of the dictionary or object on top of the stack; `items` alternate between keys and
    /// values.
    pub(super) fn insert(&mut self, items: &[ValueId]) -> PickleResult {
        let top = self.top()?;
        match self.values.get_mut(top.index()) {
            Some(Value::Dict(dict)) => dict.extend(pairs(items)),
            Some(Value::Object(object)) => object.pairs.extend(pairs(items)),
            Some(Value::Opaque | Value::Persistent(_)) => {}
            _ => return invalid("its pickle sets a key of something that is not a dictionary"),
        }
        Ok(())
    }

    /// Pushes a call.
    pub(super) fn call(
        &mut self,
        callee: ValueId,
        arguments: ValueId,
        keywords: Option<ValueId>,
    ) -> PickleResult {
        let Some(Value::Tuple(arguments)) = self.values.get(arguments.index()) else {
            return invalid("its pickle calls something without a tuple of arguments");
        };
        let mut object = Object::new(callee, arguments.clone());
        object.keywords = keywords;
        self.count(object.arguments.len())?;
        self.push(Value::Object(object.into()))
    }

    /// Pushes a class given by its number in the writing program's extension registry.
    pub(super) fn extension(&mut self, code: u32) -> PickleResult {
        let global = ("copyreg.extension".to_owned(), code.to_string());
        self.push(Value::Global(global.into()))
    }

    /// Pushes a mark.
    pub(super) fn mark(&mut self) -> PickleResult {
        self.count(1)?;
        self.marks.push(self.ids.len());
        Ok(())
    }

    /// Removes the top of the stack, which may be a mark.
    pub(super) fn discard(&mut self) -> PickleResult {
        if self.marks.last() == Some(&self.ids.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    /// Pushes the top of the stack again.
    pub(super) fn duplicate(&mut self) -> PickleResult {
        let top = self.top()?;
        self.ids.push(top);
        self.count(1)
    }

    /// Removes and returns the topmost `count` values, in the order of pushing.
    pub(super) fn pop_many(&mut self, count: usize) -> PickleResult<Vec<ValueId>> {
        let Some(start) = self.ids.len().checked_sub(count) else {
            return invalid("its pickle takes a value from an empty stack");
        };
        Ok(self.ids.split_off(start))
    }

    /// Stores the top of the stack in the memo under the next free number.
    pub(super) fn remember_next(&mut self) -> PickleResult {
        self.remember(self.memo.len() as u64)
    }

    /// Number of bytes of text that may still be kept.
    pub(super) fn text_left(&self) -> u64 {
        TEXT_LIMIT.saturating_sub(self.text_bytes)
    }

    /// Replaces the module and the name on the stack by the class or function.
    pub(super) fn global(&mut self) -> PickleResult {
        let (name, module) = (self.pop()?, self.pop()?);
        let (Some(Value::Text(module)), Some(Value::Text(name))) =
            (self.values.get(module.index()), self.values.get(name.index()))
        else {
            return invalid("its pickle names a class by something that is not text");
        };
        let global = Value::Global(Box::new((module.to_string(), name.to_string())));
        self.push(global)
    }

    /// Removes the state from the stack and gives it to the object below it.
    pub(super) fn set_state(&mut self) -> PickleResult {
        let state = self.pop()?;
        let top = self.top()?;
        if let Some(Value::Object(object)) = self.values.get_mut(top.index()) {
            object.states.push(state);
        }
        Ok(())
    }

    /// All values, once the pickle has ended.
    pub(super) fn into_values(self) -> Vec<Value> {
        self.values
    }
}

/// Groups alternating keys and values into pairs.
pub(super) fn pairs(items: &[ValueId]) -> Vec<(ValueId, ValueId)> {
    items.as_chunks().0.iter().map(|[key, value]| (*key, *value)).collect()
}
