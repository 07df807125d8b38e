//! The pickle machine, as far as `torch.save` uses it: a stack, a memo, and values. What
//! a pickle calls is looked up in a list of what is known to only build data; the call
//! becomes a value, and anything else is refused.

use crate::checkpoint::io::cursor::Cursor;
use crate::tensor::DType;
use std::collections::HashMap;

/// Values one pickle may make.
const VALUE_LIMIT: usize = 1 << 22;

/// A value's place among all that a pickle has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id(u32);

impl Id {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, little-endian.
    Long(Vec<u8>),
    Text(String),
    /// Of no use here: floats, bytes, objects.
    Opaque,
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Known(Known),
    /// What the file's storages are referred to by.
    Persistent(Id),
    /// A call of one of torch's functions that make a tensor, with its arguments.
    Tensor(Vec<Id>),
}

/// What a pickle may name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Known {
    Dict,
    Size,
    /// `_rebuild_tensor` and its later versions: storage, offset, size, strides, ….
    Tensor,
    /// Functions whose first argument is the tensor.
    Wrapped,
    /// `_rebuild_from_type_v2`: function, type, arguments.
    FromType,
    /// A class of storages, or a type of elements; with bytes of one. `None`: bytes.
    Elements(Option<(DType, u64)>),
    /// Makes data that is of no use here.
    Harmless,
}

pub(crate) struct Machine {
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Items that calls have copied out of lists.
    copied: usize,
}

pub(crate) enum Stop {
    Read(crate::checkpoint::CheckpointError),
    Lie(String),
}

impl From<crate::checkpoint::CheckpointError> for Stop {
    fn from(error: crate::checkpoint::CheckpointError) -> Self {
        Stop::Read(error)
    }
}

type Step<T = ()> = Result<T, Stop>;

fn lie<T>(why: impl Into<String>) -> Step<T> {
    Err(Stop::Lie(why.into()))
}

impl Machine {
    /// Reads one pickle to its end; gives its values and the last of them.
    pub(super) fn run(cursor: &mut Cursor) -> Step<(Vec<Value>, Id)> {
        let mut machine = Machine {
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            copied: 0,
        };
        while machine.step(cursor)? {}
        let last = machine.pop()?;
        Ok((machine.values, last))
    }

    fn push(&mut self, value: Value) -> Step {
        if self.values.len() >= VALUE_LIMIT {
            return lie(format!("its pickle makes more than {VALUE_LIMIT} values"));
        }
        self.stack.push(Id(self.values.len() as u32));
        self.values.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Step<Id> {
        match self.stack.pop() {
            Some(id) => Ok(id),
            None => lie("its pickle takes a value that is not there"),
        }
    }

    fn top(&self) -> Step<Id> {
        self.stack.last().copied().map_or_else(|| lie("its pickle uses an empty stack"), Ok)
    }

    fn value(&self, id: Id) -> &Value {
        self.values.get(id.index()).unwrap_or(&Value::Opaque)
    }

    /// What was pushed since the last mark.
    fn marked(&mut self) -> Step<Vec<Id>> {
        let Some(mark) = self.marks.pop().filter(|&mark| mark <= self.stack.len()) else {
            return lie("its pickle has no mark where it needs one");
        };
        Ok(self.stack.split_off(mark))
    }

    /// Carries out one instruction; false after the last.
    fn step(&mut self, cursor: &mut Cursor) -> Step<bool> {
        let op = cursor.u8()?;
        match op {
            0x80 => _ = cursor.u8()?,
            0x95 => _ = cursor.u64()?,
            b'.' => return Ok(false),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => _ = self.pop()?,
            b'1' => _ = self.marked()?,
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'J' => {
                let n = i32::from_le_bytes(cursor.array()?);
                self.push(Value::Int(n.into()))?;
            }
            b'K' => {
                let n = cursor.u8()?;
                self.push(Value::Int(n.into()))?;
            }
            b'M' => {
                let n = u16::from_le_bytes(cursor.array()?);
                self.push(Value::Int(n.into()))?;
            }
            0x8a => {
                let length = cursor.u8()?.into();
                self.long(cursor.bytes(length)?)?;
            }
            0x8b => {
                let length = cursor.u32()?.into();
                self.long(cursor.bytes(length)?)?;
            }
            b'G' => {
                cursor.skip(8)?;
                self.push(Value::Opaque)?;
            }
            0x8c | b'U' => {
                let length = cursor.u8()?.into();
                self.text(cursor, length)?;
            }
            b'X' | b'T' => {
                let length = cursor.u32()?.into();
                self.text(cursor, length)?;
            }
            0x8d => {
                let length = cursor.u64()?;
                self.text(cursor, length)?;
            }
            b'C' => {
                let length = cursor.u8()?;
                self.skipped(cursor, length.into())?;
            }
            b'B' => {
                let length = cursor.u32()?;
                self.skipped(cursor, length.into())?;
            }
            0x8e | 0x96 => {
                let length = cursor.u64()?;
                self.skipped(cursor, length)?;
            }
            b')' => self.push(Value::Tuple(Vec::new()))?,
            b']' => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            0x8f => self.push(Value::Opaque)?,
            0x85..=0x87 => {
                let count = usize::from(op - 0x84);
                let Some(start) = self.stack.len().checked_sub(count) else {
                    return lie("its pickle takes a value that is not there");
                };
                let items = self.stack.split_off(start);
                self.push(Value::Tuple(items))?;
            }
            b't' => {
                let items = self.marked()?;
                self.push(Value::Tuple(items))?;
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
                self.marked()?;
                self.push(Value::Opaque)?;
            }
            0x90 => _ = self.marked()?,
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
                let key = cursor.u8()?;
                self.remember(key.into())?;
            }
            b'r' => {
                let key = cursor.u32()?;
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let key = cursor.u8()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = cursor.u32()?;
                self.recall(key)?;
            }
            b'c' => {
                let (module, name) = (line(cursor)?, line(cursor)?);
                self.push(Value::Known(known(&module, &name)?))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) =
                    (self.value(module), self.value(name))
                else {
                    return lie("its pickle names a class by something that is not text");
                };
                let known = known(module, name)?;
                self.push(Value::Known(known))?;
            }
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                self.call(callee, arguments)?;
            }
            b'b' => {
                // The state of an object: hooks and the like.
                self.pop()?;
                self.top()?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id))?;
            }
            _ => {
                return lie(format!(
                    "its pickle has the instruction {op:#04x}, which torch.save does not write"
                ));
            }
        }
        Ok(true)
    }

    fn text(&mut self, cursor: &mut Cursor, length: u64) -> Step {
        let bytes = cursor.bytes(length)?;
        self.push(match String::from_utf8(bytes) {
            Ok(text) => Value::Text(text),
            // Python 2 wrote bytes as text.
            Err(_) => Value::Opaque,
        })
    }

    fn skipped(&mut self, cursor: &mut Cursor, length: u64) -> Step {
        cursor.skip(length)?;
        self.push(Value::Opaque)
    }

    /// An integer in two's complement.
    fn long(&mut self, bytes: Vec<u8>) -> Step {
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut whole = [if negative { 0xff } else { 0 }; 8];
        let value = match whole.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(&bytes);
                Value::Int(i64::from_le_bytes(whole))
            }
            None => Value::Long(bytes),
        };
        self.push(value)
    }

    fn remember(&mut self, key: u32) -> Step {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Step {
        match self.memo.get(&key) {
            Some(&id) => {
                self.stack.push(id);
                Ok(())
            }
            None => lie("its pickle recalls a value it has not made"),
        }
    }

    fn extend(&mut self, items: &[Id]) -> Step {
        let top = self.top()?;
        match self.values.get_mut(top.index()) {
            Some(Value::List(list)) => list.extend(items),
            Some(Value::Opaque) => {}
            _ => return lie("its pickle appends to something that is no list"),
        }
        Ok(())
    }

    fn insert(&mut self, items: &[Id]) -> Step {
        let top = self.top()?;
        match self.values.get_mut(top.index()) {
            Some(Value::Dict(dict)) => dict.extend(pairs(items)),
            Some(Value::Opaque) => {}
            _ => return lie("its pickle sets a key of something that is no dictionary"),
        }
        Ok(())
    }

    fn call(&mut self, callee: Id, arguments: Id) -> Step {
        let Value::Tuple(arguments) = self.value(arguments) else {
            return lie("its pickle calls something without a tuple of arguments");
        };
        let Value::Known(known) = self.value(callee) else {
            return lie("its pickle calls something that is no known class or function");
        };
        let made = match (known, arguments.as_slice()) {
            (Known::Dict, []) => Value::Dict(Vec::new()),
            (Known::Dict, [items, ..]) => Value::Dict(self.items(*items)),
            (Known::Size | Known::Wrapped, &[first, ..]) => {
                self.stack.push(first);
                return Ok(());
            }
            (Known::Tensor, arguments) => Value::Tensor(few(arguments)),
            (Known::FromType, [function, _, arguments, ..]) => {
                let is_tensor = matches!(self.value(*function), Value::Known(Known::Tensor));
                match self.value(*arguments) {
                    Value::Tuple(arguments) if is_tensor => Value::Tensor(few(arguments)),
                    _ => Value::Opaque,
                }
            }
            _ => Value::Opaque,
        };
        if let Value::Dict(items) = &made {
            self.copied += items.len();
            if self.copied > VALUE_LIMIT {
                return lie(format!("its pickle makes more than {VALUE_LIMIT} values"));
            }
        }
        self.push(made)
    }

    /// The items of a dictionary given as a list of pairs.
    fn items(&self, list: Id) -> Vec<(Id, Id)> {
        let (Value::List(list) | Value::Tuple(list)) = self.value(list) else { return Vec::new() };
        let pair = |id: &Id| match self.value(*id) {
            Value::List(pair) | Value::Tuple(pair) => match pair.as_slice() {
                [key, value] => Some((*key, *value)),
                _ => None,
            },
            _ => None,
        };
        list.iter().filter_map(pair).collect()
    }
}

/// The arguments that are looked at.
fn few(arguments: &[Id]) -> Vec<Id> {
    arguments.iter().copied().take(8).collect()
}

fn pairs(items: &[Id]) -> Vec<(Id, Id)> {
    items.as_chunks().0.iter().map(|[key, value]| (*key, *value)).collect()
}

/// Text up to the end of the line.
fn line(cursor: &mut Cursor) -> Step<String> {
    let mut text = Vec::new();
    loop {
        match cursor.u8()? {
            b'\n' => return String::from_utf8(text).or_else(|_| lie("its pickle names no text")),
            _ if text.len() > 1024 => return lie("its pickle has a name of more than 1024 bytes"),
            byte => text.push(byte),
        }
    }
}

/// What a class or function of Python's is here. One that could do more than build data is
/// refused: a pickle can name any.
fn known(module: &str, name: &str) -> Step<Known> {
    let known = match (module, name) {
        ("collections", "OrderedDict" | "defaultdict" | "Counter") => Known::Dict,
        ("__builtin__" | "builtins", "dict") => Known::Dict,
        ("torch", "Size") => Known::Size,
        (
            "torch._utils",
            "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3" | "_rebuild_qtensor",
        ) => Known::Tensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Known::Wrapped,
        ("torch._tensor", "_rebuild_from_type_v2") => Known::FromType,
        ("torch" | "torch.cuda" | "torch.storage", class)
            if class.ends_with("Storage") && !class.starts_with("_Typed") =>
        {
            Known::Elements(storage(class))
        }
        ("torch", name) if element(name).is_some() => Known::Elements(element(name)),
        ("torch", "device" | "Tensor" | "strided" | "per_tensor_affine" | "per_channel_affine")
        | ("torch.nn.parameter", "Parameter" | "Buffer")
        | ("torch.serialization", "_get_layout")
        | (
            "__builtin__" | "builtins",
            "set" | "frozenset" | "list" | "tuple" | "int" | "float" | "bool" | "str" | "bytes"
            | "bytearray" | "complex" | "slice" | "range" | "object",
        )
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct")
        | ("numpy", "dtype" | "ndarray")
        | ("_codecs", "encode")
        | ("argparse", "Namespace")
        | ("datetime", "datetime" | "date" | "timedelta")
        | ("pathlib", "PosixPath" | "WindowsPath" | "PurePosixPath" | "PureWindowsPath") => {
            Known::Harmless
        }
        ("numpy" | "numpy.dtypes", name)
            if name.starts_with(|c: char| c.is_ascii_alphabetic())
                && (name.ends_with("DType") || name.ends_with(|c: char| c.is_ascii_digit())) =>
        {
            Known::Harmless
        }
        _ => {
            return lie(format!(
                "its pickle names '{}.{}', code that is not run here; save only the state_dict",
                module.escape_debug(),
                name.escape_debug()
            ));
        }
    };
    Ok(known)
}

/// The elements of a class of storages; `None` for bytes.
fn storage(class: &str) -> Option<(DType, u64)> {
    let name = class.trim_start_matches('_').trim_end_matches("Storage");
    let dtype = match name {
        "Double" => DType::F64,
        "Float" => DType::F32,
        "Half" => DType::F16,
        "BFloat16" => DType::BF16,
        "Long" => DType::I64,
        "Int" => DType::I32,
        "Short" => DType::I16,
        "Char" => DType::I8,
        "Byte" => DType::U8,
        "Bool" => DType::Bool,
        "ComplexFloat" => DType::C64,
        "ComplexDouble" => return Some((DType::Other("C128".into()), 16)),
        "QInt8" | "QUInt8" => return Some((DType::Other(name.into()), 1)),
        "QInt32" => return Some((DType::Other(name.into()), 4)),
        _ => return None,
    };
    let size = dtype.bytes_for(1)?;
    Some((dtype, size))
}

/// A type of elements by torch's name for it.
fn element(name: &str) -> Option<(DType, u64)> {
    let dtype = match name {
        "float64" | "double" => DType::F64,
        "float32" | "float" => DType::F32,
        "float16" | "half" => DType::F16,
        "bfloat16" => DType::BF16,
        "int64" | "long" => DType::I64,
        "int32" | "int" => DType::I32,
        "int16" | "short" => DType::I16,
        "int8" => DType::I8,
        "uint64" => DType::U64,
        "uint32" => DType::U32,
        "uint16" => DType::U16,
        "uint8" => DType::U8,
        "bool" => DType::Bool,
        "complex64" => DType::C64,
        "float8_e4m3fn" => DType::F8E4M3,
        "float8_e5m2" => DType::F8E5M2,
        "float8_e4m3fnuz" => DType::F8E4M3Fnuz,
        "float8_e5m2fnuz" => DType::F8E5M2Fnuz,
        "float8_e8m0fnu" => DType::F8E8M0,
        _ => return None,
    };
    let size = dtype.bytes_for(1)?;
    Some((dtype, size))
}
