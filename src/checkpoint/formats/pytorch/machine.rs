//! The pickle machine: a stack, a memo, and values. It executes every instruction of protocols 0 to
//! 5 but never calls anything: a call becomes a value that describes the call. So a pickle cannot
//! run code, and none has to be refused because of what it names.

use crate::checkpoint::error::{CheckpointError, Problem};
use crate::checkpoint::formats::pytorch::text;
use crate::checkpoint::formats::pytorch::value::{Object, Pickle, Value, ValueId};
use crate::checkpoint::formats::region::ByteReader;
use std::collections::HashMap;
use std::path::Path;

/// Maximum number of values per pickle.
const VALUE_LIMIT: usize = 1 << 22;

/// Maximum number of items in all containers of a pickle.
const ITEM_LIMIT: usize = 1 << 24;

/// Maximum bytes of kept text.
const TEXT_LIMIT: u64 = 64 << 20;

/// Text longer than this is represented by its position only.
const MAX_KEPT_TEXT_BYTES: u64 = 1 << 16;

/// Maximum length in bytes of a protocol 0 line that is not text.
const LINE_LIMIT: usize = 1 << 16;

/// A Python 2 string up to this length is kept, because it may be a key or a name.
const MAX_KEPT_STRING_BYTES: u64 = 1 << 10;

struct Machine {
    values: Vec<Value>,
    stack: Vec<ValueId>,
    marks: Vec<usize>,
    memo: HashMap<u64, ValueId>,
    /// Already created integers; pickles contain few different ones.
    integers: HashMap<i64, ValueId>,
    /// Ids of `None`, `False`, `True` and `()`, once created.
    constants: [Option<ValueId>; 4],
    items: usize,
    text_bytes: u64,
}

enum PickleError {
    Read(CheckpointError),
    Invalid(String),
}

impl From<CheckpointError> for PickleError {
    fn from(error: CheckpointError) -> Self {
        PickleError::Read(error)
    }
}

type PickleResult<T = ()> = Result<T, PickleError>;

fn invalid<T>(why: impl Into<String>) -> PickleResult<T> {
    Err(PickleError::Invalid(why.into()))
}

/// Reads one pickle to its end.
pub(super) fn read(reader: &mut ByteReader, path: &Path) -> Result<Pickle, CheckpointError> {
    let mut machine = Machine {
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        integers: HashMap::new(),
        constants: [None; 4],
        items: 0,
        text_bytes: 0,
    };
    match machine.run(reader) {
        Ok(root) => Ok(Pickle { values: machine.values, root, base: reader.base() }),
        Err(PickleError::Read(error)) => Err(error),
        Err(PickleError::Invalid(why)) => {
            Err(CheckpointError::new(path, Problem::Malformed { format: "PyTorch", why }))
        }
    }
}

impl Machine {
    fn run(&mut self, reader: &mut ByteReader) -> PickleResult<ValueId> {
        while self.step(reader)? {}
        self.pop()
    }

    fn add(&mut self, value: Value) -> PickleResult<ValueId> {
        if self.values.len() >= VALUE_LIMIT {
            return invalid(format!("its pickle creates more than {VALUE_LIMIT} values"));
        }
        let id = ValueId(self.values.len() as u32);
        self.values.push(value);
        Ok(id)
    }

    fn push(&mut self, value: Value) -> PickleResult {
        let id = self.add(value)?;
        self.stack.push(id);
        self.count(1)
    }

    fn integer(&mut self, n: i64) -> PickleResult {
        let id = match self.integers.get(&n) {
            Some(&id) => id,
            None => {
                let id = self.add(Value::Int(n))?;
                self.integers.insert(n, id);
                id
            }
        };
        self.stack.push(id);
        self.count(1)
    }

    /// Pushes a value that is created once; `number` is its index in `constants`.
    fn constant(&mut self, number: usize, value: Value) -> PickleResult {
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
        self.stack.push(id);
        self.count(1)
    }

    /// Counts items put on the stack, each of which ends up in at most one container.
    fn count(&mut self, items: usize) -> PickleResult {
        self.items += items;
        match self.items > ITEM_LIMIT {
            true => invalid(format!("its pickle has more than {ITEM_LIMIT} items")),
            false => Ok(()),
        }
    }

    fn pop(&mut self) -> PickleResult<ValueId> {
        match self.stack.pop() {
            Some(id) => Ok(id),
            None => invalid("its pickle takes a value from an empty stack"),
        }
    }

    fn top(&self) -> PickleResult<ValueId> {
        match self.stack.last() {
            Some(&id) => Ok(id),
            None => invalid("its pickle uses an empty stack"),
        }
    }

    /// Removes and returns what was pushed since the last mark.
    fn marked(&mut self) -> PickleResult<Vec<ValueId>> {
        let Some(mark) = self.marks.pop().filter(|&mark| mark <= self.stack.len()) else {
            return invalid("its pickle has no mark where it needs one");
        };
        Ok(self.stack.split_off(mark))
    }

    /// Executes one instruction. Returns false after the last one.
    fn step(&mut self, reader: &mut ByteReader) -> PickleResult<bool> {
        let op = reader.u8()?;
        match op {
            // PROTO, FRAME and READONLY_BUFFER change no value.
            0x80 => _ = reader.u8()?,
            0x95 => _ = reader.u64()?,
            0x98 => {}
            b'.' => return Ok(false),
            b'(' => {
                self.count(1)?;
                self.marks.push(self.stack.len());
            }
            b'0' if self.marks.last() == Some(&self.stack.len()) => _ = self.marks.pop(),
            b'0' => _ = self.pop()?,
            b'1' => _ = self.marked()?,
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                self.count(1)?;
            }
            b'N' => self.constant(0, Value::None)?,
            0x89 => self.constant(1, Value::Bool(false))?,
            0x88 => self.constant(2, Value::Bool(true))?,
            b')' => self.constant(3, Value::Tuple(Box::default()))?,
            b'J' => {
                let n = i32::from_le_bytes(reader.array()?);
                self.integer(n.into())?;
            }
            b'K' => {
                let n = reader.u8()?;
                self.integer(n.into())?;
            }
            b'M' => {
                let n = u16::from_le_bytes(reader.array()?);
                self.integer(n.into())?;
            }
            0x8a => {
                let length = reader.u8()?.into();
                self.long(reader.bytes(length)?)?;
            }
            0x8b => {
                let length = u64::from(reader.u32()?);
                self.keep_text(length)?;
                self.long(reader.bytes(length)?)?;
            }
            b'I' => {
                let line = line(reader)?;
                match text::of_line(&line).trim() {
                    "00" => self.constant(1, Value::Bool(false))?,
                    "01" => self.constant(2, Value::Bool(true))?,
                    digits => self.decimal(digits)?,
                }
            }
            b'L' => {
                let line = line(reader)?;
                self.decimal(text::of_line(&line).trim().trim_end_matches('L'))?;
            }
            b'F' => {
                let line = line(reader)?;
                match text::of_line(&line).trim().parse() {
                    Ok(number) => self.push(Value::Float(number))?,
                    Err(_) => return invalid("its pickle has an invalid number"),
                }
            }
            b'G' => self.push(Value::Float(f64::from_be_bytes(reader.array()?)))?,
            0x8c => {
                let length = reader.u8()?.into();
                self.text(reader, length)?;
            }
            b'X' => {
                let length = reader.u32()?.into();
                self.text(reader, length)?;
            }
            0x8d => {
                let length = reader.u64()?;
                self.text(reader, length)?;
            }
            b'V' => {
                let line = long_line(reader, TEXT_LIMIT - self.text_bytes)?;
                self.keep_text(line.len() as u64)?;
                self.push(Value::Text(text::raw_unicode_escape(&line).into()))?;
            }
            b'S' => {
                let line = long_line(reader, TEXT_LIMIT - self.text_bytes)?;
                self.keep_text(line.len() as u64)?;
                let Some(bytes) = text::quoted(&line) else {
                    return invalid("its pickle has a string without quotes");
                };
                self.push(match String::from_utf8(bytes) {
                    Ok(text) => Value::Text(text.into()),
                    Err(error) => Value::DecodedBytes(error.into_bytes().into()),
                })?;
            }
            b'U' => {
                let length = reader.u8()?.into();
                self.string(reader, length)?;
            }
            b'T' => {
                let length = reader.u32()?.into();
                self.string(reader, length)?;
            }
            b'C' => {
                let length = reader.u8()?;
                self.skipped(reader, length.into())?;
            }
            b'B' => {
                let length = reader.u32()?;
                self.skipped(reader, length.into())?;
            }
            0x8e | 0x96 => {
                let length = reader.u64()?;
                self.skipped(reader, length)?;
            }
            // An out-of-band buffer, which is not in the file.
            0x97 => self.push(Value::Opaque)?,
            b']' => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            0x8f => self.push(Value::Set(Vec::new()))?,
            0x85..=0x87 => {
                let count = usize::from(op - 0x84);
                let Some(start) = self.stack.len().checked_sub(count) else {
                    return invalid("its pickle takes a value from an empty stack");
                };
                let items = self.stack.split_off(start);
                self.push(Value::Tuple(items.into()))?;
            }
            b't' => {
                let items = self.marked()?;
                self.push(Value::Tuple(items.into()))?;
            }
            b'l' => {
                let items = self.marked()?;
                self.push(Value::List(items))?;
            }
            b'd' => {
                let items = self.marked()?;
                self.push(Value::Dict(pairs(&items)))?;
            }
            0x91 => {
                let items = self.marked()?;
                self.push(Value::Set(items))?;
            }
            0x90 => {
                let items = self.marked()?;
                self.extend(&items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item])?;
            }
            b'e' => {
                let items = self.marked()?;
                self.extend(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(&[key, value])?;
            }
            b'u' => {
                let items = self.marked()?;
                self.insert(&items)?;
            }
            b'q' => {
                let key = reader.u8()?;
                self.remember(key.into())?;
            }
            b'r' => {
                let key = reader.u32()?;
                self.remember(key.into())?;
            }
            b'p' => {
                let key = self.memo_key(reader)?;
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' => {
                let key = reader.u8()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = reader.u32()?;
                self.recall(key.into())?;
            }
            b'g' => {
                let key = self.memo_key(reader)?;
                self.recall(key)?;
            }
            b'c' => {
                let global = global(reader)?;
                self.push(global)?;
            }
            b'i' => {
                let global = global(reader)?;
                let callee = self.add(global)?;
                let arguments = self.marked()?;
                self.push(Value::Object(Object::new(callee, arguments.into()).into()))?;
            }
            b'o' => {
                let mut arguments = self.marked()?;
                if arguments.is_empty() {
                    return invalid("its pickle creates an object without a class");
                }
                let callee = arguments.remove(0);
                self.push(Value::Object(Object::new(callee, arguments.into()).into()))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Some(Value::Text(module)), Some(Value::Text(name))) =
                    (self.values.get(module.index()), self.values.get(name.index()))
                else {
                    return invalid("its pickle names a class by something that is not text");
                };
                let global = Value::Global(Box::new((module.to_string(), name.to_string())));
                self.push(global)?;
            }
            0x82 => {
                let code = reader.u8()?;
                self.extension(code.into())?;
            }
            0x83 => {
                let code = u16::from_le_bytes(reader.array()?);
                self.extension(code.into())?;
            }
            0x84 => {
                let code = reader.u32()?;
                self.extension(code)?;
            }
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                self.call(callee, arguments, None)?;
            }
            0x92 => {
                let (keywords, arguments, callee) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(callee, arguments, Some(keywords))?;
            }
            b'b' => {
                let state = self.pop()?;
                let top = self.top()?;
                if let Some(Value::Object(object)) = self.values.get_mut(top.index()) {
                    object.states.push(state);
                }
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id))?;
            }
            b'P' => {
                let line = line(reader)?;
                let id = self.add(Value::Text(text::of_line(&line).into()))?;
                self.push(Value::Persistent(id))?;
            }
            _ => return invalid(format!("its pickle has the unknown instruction {op:#04x}")),
        }
        Ok(true)
    }

    fn keep_text(&mut self, bytes: u64) -> PickleResult {
        self.text_bytes = self.text_bytes.saturating_add(bytes);
        match self.text_bytes > TEXT_LIMIT {
            true => invalid(format!("its pickle has more than {TEXT_LIMIT} bytes of text")),
            false => Ok(()),
        }
    }

    fn text(&mut self, reader: &mut ByteReader, length: u64) -> PickleResult {
        if length > MAX_KEPT_TEXT_BYTES {
            let start = reader.position();
            reader.skip(length)?;
            return self.push(Value::LongText { start, length });
        }
        self.keep_text(length)?;
        // Python writes lone surrogates, which are not valid UTF-8.
        let text = match String::from_utf8(reader.bytes(length)?) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        self.push(Value::Text(text.into()))
    }

    /// Reads a Python 2 string, which is text or bytes.
    fn string(&mut self, reader: &mut ByteReader, length: u64) -> PickleResult {
        if length > MAX_KEPT_STRING_BYTES {
            return self.skipped(reader, length);
        }
        self.keep_text(length)?;
        self.push(match String::from_utf8(reader.bytes(length)?) {
            Ok(text) => Value::Text(text.into()),
            Err(error) => Value::DecodedBytes(error.into_bytes().into()),
        })
    }

    fn skipped(&mut self, reader: &mut ByteReader, length: u64) -> PickleResult {
        let start = reader.position();
        reader.skip(length)?;
        self.push(Value::Bytes { start, length })
    }

    /// Pushes an integer given as little-endian two's complement.
    fn long(&mut self, bytes: Vec<u8>) -> PickleResult {
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

    fn decimal(&mut self, digits: &str) -> PickleResult {
        match digits.parse() {
            Ok(n) => self.integer(n),
            Err(_) => match text::decimal(digits) {
                Some(bytes) => self.long(bytes),
                None => invalid("its pickle has an invalid number"),
            },
        }
    }

    fn memo_key(&self, reader: &mut ByteReader) -> PickleResult<u64> {
        match text::of_line(&line(reader)?).trim().parse() {
            Ok(key) => Ok(key),
            Err(_) => invalid("its pickle has a memo key that is not a number"),
        }
    }

    fn remember(&mut self, key: u64) -> PickleResult {
        let top = self.top()?;
        self.count(1)?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> PickleResult {
        match self.memo.get(&key) {
            Some(&id) => {
                self.stack.push(id);
                self.count(1)
            }
            None => invalid("its pickle recalls a value that is not in its memo"),
        }
    }

    fn extend(&mut self, items: &[ValueId]) -> PickleResult {
        let top = self.top()?;
        match self.values.get_mut(top.index()) {
            Some(Value::List(list) | Value::Set(list)) => list.extend(items),
            Some(Value::Object(object)) => object.items.extend(items),
            Some(Value::Opaque | Value::Persistent(_)) => {}
            _ => return invalid("its pickle appends to something that is not a list"),
        }
        Ok(())
    }

    fn insert(&mut self, items: &[ValueId]) -> PickleResult {
        let top = self.top()?;
        match self.values.get_mut(top.index()) {
            Some(Value::Dict(dict)) => dict.extend(pairs(items)),
            Some(Value::Object(object)) => object.pairs.extend(pairs(items)),
            Some(Value::Opaque | Value::Persistent(_)) => {}
            _ => return invalid("its pickle sets a key of something that is not a dictionary"),
        }
        Ok(())
    }

    fn call(
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
    fn extension(&mut self, code: u32) -> PickleResult {
        let global = ("copyreg.extension".to_owned(), code.to_string());
        self.push(Value::Global(global.into()))
    }
}

fn pairs(items: &[ValueId]) -> Vec<(ValueId, ValueId)> {
    items.as_chunks().0.iter().map(|[key, value]| (*key, *value)).collect()
}

fn global(reader: &mut ByteReader) -> PickleResult<Value> {
    let (module, name) = (line(reader)?, line(reader)?);
    let global = (text::of_line(&module).into_owned(), text::of_line(&name).into_owned());
    Ok(Value::Global(global.into()))
}

fn line(reader: &mut ByteReader) -> PickleResult<Vec<u8>> {
    long_line(reader, LINE_LIMIT as u64)
}

/// Reads up to the end of the line, which is left out.
fn long_line(reader: &mut ByteReader, limit: u64) -> PickleResult<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        match reader.u8()? {
            b'\n' => return Ok(line),
            _ if line.len() as u64 >= limit => {
                return invalid(format!("its pickle has a line of more than {limit} bytes"));
            }
            byte => line.push(byte),
        }
    }
}
