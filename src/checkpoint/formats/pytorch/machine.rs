//! The pickle machine: a stack, a memo, and values. It executes every instruction of protocols 0 to
//! 5 but never calls anything: a call becomes a value that describes the call. So a pickle cannot
//! run code, and none has to be refused because of what it names.

use crate::checkpoint::error::{Problem, ReadError};
use crate::checkpoint::formats::pytorch::stack::{
    PickleError, PickleResult, PickleStack, invalid, pairs,
};
use crate::checkpoint::formats::pytorch::text;
use crate::checkpoint::formats::pytorch::value::{Object, Pickle, Value, ValueId};
use crate::checkpoint::formats::region::ByteReader;
use std::path::Path;

/// Text longer than this is represented by its position only.
const MAX_KEPT_TEXT_BYTES: u64 = 1 << 16;

/// Maximum length in bytes of a protocol 0 line that is not text.
const LINE_LIMIT: usize = 1 << 16;

/// A Python 2 string up to this length is kept, because it may be a key or a name.
const MAX_KEPT_STRING_BYTES: u64 = 1 << 10;

/// Executes the instructions of one pickle.
struct Machine<'m, 's> {
    reader: &'m mut ByteReader<'s>,
    stack: PickleStack,
}

/// Reads one pickle to its end.
pub(super) fn read(reader: &mut ByteReader, path: &Path) -> Result<Pickle, ReadError> {
    let base = reader.base();
    let mut machine = Machine { reader, stack: PickleStack::default() };
    match machine.run() {
        Ok(root) => Ok(Pickle { values: machine.stack.into_values(), root, base }),
        Err(PickleError::Read(error)) => Err(error),
        Err(PickleError::Invalid(why)) => {
            Err(ReadError::new(path, Problem::Malformed { format: "PyTorch", why }))
        }
    }
}

impl Machine<'_, '_> {
    fn run(&mut self) -> PickleResult<ValueId> {
        while self.step()? {}
        self.stack.pop()
    }

    /// Executes one instruction. Returns false after the last one.
    fn step(&mut self) -> PickleResult<bool> {
        let op = self.reader.u8()?;
        match op {
            // PROTO, FRAME and READONLY_BUFFER change no value.
            0x80 => _ = self.reader.u8()?,
            0x95 => _ = self.reader.u64()?,
            0x98 => {}
            b'.' => return Ok(false),
            b'(' => self.stack.mark()?,
            b'0' => self.stack.discard()?,
            b'1' => _ = self.stack.marked()?,
            b'2' => self.stack.duplicate()?,
            b'N' => self.stack.constant(0, Value::None)?,
            0x89 => self.stack.constant(1, Value::Bool(false))?,
            0x88 => self.stack.constant(2, Value::Bool(true))?,
            b')' => self.stack.constant(3, Value::Tuple(Box::default()))?,
            b'J' => {
                let n = i32::from_le_bytes(self.reader.array()?);
                self.stack.integer(n.into())?;
            }
            b'K' => {
                let n = self.reader.u8()?;
                self.stack.integer(n.into())?;
            }
            b'M' => {
                let n = u16::from_le_bytes(self.reader.array()?);
                self.stack.integer(n.into())?;
            }
            0x8a => {
                let length = self.reader.u8()?.into();
                self.stack.long(self.reader.bytes(length)?)?;
            }
            0x8b => {
                let length = u64::from(self.reader.u32()?);
                self.stack.keep_text(length)?;
                self.stack.long(self.reader.bytes(length)?)?;
            }
            b'I' => {
                let line = line(self.reader)?;
                match text::of_line(&line).trim() {
                    "00" => self.stack.constant(1, Value::Bool(false))?,
                    "01" => self.stack.constant(2, Value::Bool(true))?,
                    digits => self.stack.decimal(digits)?,
                }
            }
            b'L' => {
                let line = line(self.reader)?;
                self.stack.decimal(text::of_line(&line).trim().trim_end_matches('L'))?;
            }
            b'F' => {
                let line = line(self.reader)?;
                match text::of_line(&line).trim().parse() {
                    Ok(number) => self.stack.push(Value::Float(number))?,
                    Err(_) => return invalid("its pickle has an invalid number"),
                }
            }
            b'G' => self.stack.push(Value::Float(f64::from_be_bytes(self.reader.array()?)))?,
            0x8c => {
                let length = self.reader.u8()?.into();
                self.text(length)?;
            }
            b'X' => {
                let length = self.reader.u32()?.into();
                self.text(length)?;
            }
            0x8d => {
                let length = self.reader.u64()?;
                self.text(length)?;
            }
            b'V' => {
                let line = long_line(self.reader, self.stack.text_left())?;
                self.stack.keep_text(line.len() as u64)?;
                self.stack.push(Value::Text(text::raw_unicode_escape(&line).into()))?;
            }
            b'S' => {
                let line = long_line(self.reader, self.stack.text_left())?;
                self.stack.keep_text(line.len() as u64)?;
                let Some(bytes) = text::quoted(&line) else {
                    return invalid("its pickle has a string without quotes");
                };
                self.stack.push(match String::from_utf8(bytes) {
                    Ok(text) => Value::Text(text.into()),
                    Err(error) => Value::DecodedBytes(error.into_bytes().into()),
                })?;
            }
            b'U' => {
                let length = self.reader.u8()?.into();
                self.string(length)?;
            }
            b'T' => {
                let length = self.reader.u32()?.into();
                self.string(length)?;
            }
            b'C' => {
                let length = self.reader.u8()?;
                self.skipped(length.into())?;
            }
            b'B' => {
                let length = self.reader.u32()?;
                self.skipped(length.into())?;
            }
            0x8e | 0x96 => {
                let length = self.reader.u64()?;
                self.skipped(length)?;
            }
            // An out-of-band buffer, which is not in the file.
            0x97 => self.stack.push(Value::Opaque)?,
            b']' => self.stack.push(Value::List(Vec::new()))?,
            b'}' => self.stack.push(Value::Dict(Vec::new()))?,
            0x8f => self.stack.push(Value::Set(Vec::new()))?,
            0x85..=0x87 => {
                let items = self.stack.pop_many(usize::from(op - 0x84))?;
                self.stack.push(Value::Tuple(items.into()))?;
            }
            b't' => {
                let items = self.stack.marked()?;
                self.stack.push(Value::Tuple(items.into()))?;
            }
            b'l' => {
                let items = self.stack.marked()?;
                self.stack.push(Value::List(items))?;
            }
            b'd' => {
                let items = self.stack.marked()?;
                self.stack.push(Value::Dict(pairs(&items)))?;
            }
            0x91 => {
                let items = self.stack.marked()?;
                self.stack.push(Value::Set(items))?;
            }
            0x90 => {
                let items = self.stack.marked()?;
                self.stack.extend(&items)?;
            }
            b'a' => {
                let item = self.stack.pop()?;
                self.stack.extend(&[item])?;
            }
            b'e' => {
                let items = self.stack.marked()?;
                self.stack.extend(&items)?;
            }
            b's' => {
                let (value, key) = (self.stack.pop()?, self.stack.pop()?);
                self.stack.insert(&[key, value])?;
            }
            b'u' => {
                let items = self.stack.marked()?;
                self.stack.insert(&items)?;
            }
            b'q' => {
                let key = self.reader.u8()?;
                self.stack.remember(key.into())?;
            }
            b'r' => {
                let key = self.reader.u32()?;
                self.stack.remember(key.into())?;
            }
            b'p' => {
                let key = self.memo_key()?;
                self.stack.remember(key)?;
            }
            0x94 => self.stack.remember_next()?,
            b'h' => {
                let key = self.reader.u8()?;
                self.stack.recall(key.into())?;
            }
            b'j' => {
                let key = self.reader.u32()?;
                self.stack.recall(key.into())?;
            }
            b'g' => {
                let key = self.memo_key()?;
                self.stack.recall(key)?;
            }
            b'c' => {
                let global = global(self.reader)?;
                self.stack.push(global)?;
            }
            b'i' => {
                let global = global(self.reader)?;
                let callee = self.stack.add(global)?;
                let arguments = self.stack.marked()?;
                self.stack.push(Value::Object(Object::new(callee, arguments.into()).into()))?;
            }
            b'o' => {
                let mut arguments = self.stack.marked()?;
                if arguments.is_empty() {
                    return invalid("its pickle creates an object without a class");
                }
                let callee = arguments.remove(0);
                self.stack.push(Value::Object(Object::new(callee, arguments.into()).into()))?;
            }
            0x93 => self.stack.global()?,
            0x82 => {
                let code = self.reader.u8()?;
                self.stack.extension(code.into())?;
            }
            0x83 => {
                let code = u16::from_le_bytes(self.reader.array()?);
                self.stack.extension(code.into())?;
            }
            0x84 => {
                let code = self.reader.u32()?;
                self.stack.extension(code)?;
            }
            b'R' | 0x81 => {
                let (arguments, callee) = (self.stack.pop()?, self.stack.pop()?);
                self.stack.call(callee, arguments, None)?;
            }
            0x92 => {
                let (keywords, arguments, callee) =
                    (self.stack.pop()?, self.stack.pop()?, self.stack.pop()?);
                self.stack.call(callee, arguments, Some(keywords))?;
            }
            b'b' => self.stack.set_state()?,
            b'Q' => {
                let id = self.stack.pop()?;
                self.stack.push(Value::Persistent(id))?;
            }
            b'P' => {
                let line = line(self.reader)?;
                let id = self.stack.add(Value::Text(text::of_line(&line).into()))?;
                self.stack.push(Value::Persistent(id))?;
            }
            _ => return invalid(format!("its pickle has the unknown instruction {op:#04x}")),
        }
        Ok(true)
    }

    fn text(&mut self, length: u64) -> PickleResult {
        if length > MAX_KEPT_TEXT_BYTES {
            let start = self.reader.position();
            self.reader.skip(length)?;
            return self.stack.push(Value::LongText { start, length });
        }
        self.stack.keep_text(length)?;
        // Python writes lone surrogates, which are not valid UTF-8.
        let text = match String::from_utf8(self.reader.bytes(length)?) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        self.stack.push(Value::Text(text.into()))
    }

    /// Reads a Python 2 string, which is text or bytes.
    fn string(&mut self, length: u64) -> PickleResult {
        if length > MAX_KEPT_STRING_BYTES {
            return self.skipped(length);
        }
        self.stack.keep_text(length)?;
        self.stack.push(match String::from_utf8(self.reader.bytes(length)?) {
            Ok(text) => Value::Text(text.into()),
            Err(error) => Value::DecodedBytes(error.into_bytes().into()),
        })
    }

    fn skipped(&mut self, length: u64) -> PickleResult {
        let start = self.reader.position();
        self.reader.skip(length)?;
        self.stack.push(Value::Bytes { start, length })
    }

    fn memo_key(&mut self) -> PickleResult<u64> {
        match text::of_line(&line(self.reader)?).trim().parse() {
            Ok(key) => Ok(key),
            Err(_) => invalid("its pickle has a memo key that is not a number"),
        }
    }
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
