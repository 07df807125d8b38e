//! Dictionary keys as parts of names: text unchanged, other values in Python's notation.

use crate::checkpoint::formats::pytorch::text;
use crate::checkpoint::formats::pytorch::value::{Object, Pickle, Value, ValueId};
use crate::checkpoint::io::source::Source;

/// Maximum number of shown bytes of a key.
const MAX_KEY_BYTES: u64 = 1 << 16;

/// Limits on the nesting depth and the number of items of a shown key.
const MAX_DEPTH: usize = 8;
const MAX_ITEMS: usize = 64;

/// Formats a key as a part of a name.
pub(super) fn key_text(source: &Source, pickle: &Pickle, id: ValueId) -> String {
    match pickle.value(id) {
        Value::Text(text) => text.to_string(),
        _ => Writer { source, pickle }.written(id, 0),
    }
}

struct Writer<'a> {
    source: &'a Source,
    pickle: &'a Pickle,
}

impl Writer<'_> {
    /// Formats a value like Python's `repr`.
    fn written(&self, id: ValueId, depth: usize) -> String {
        if depth > MAX_DEPTH {
            return "...".to_owned();
        }
        let listed = |items: &[ValueId]| {
            let shown = items.iter().take(MAX_ITEMS).map(|&item| self.written(item, depth + 1));
            let shown = shown.collect::<Vec<_>>().join(", ");
            if items.len() > MAX_ITEMS { shown + ", ..." } else { shown }
        };
        match self.pickle.value(id) {
            Value::None => "None".to_owned(),
            Value::Bool(true) => "True".to_owned(),
            Value::Bool(false) => "False".to_owned(),
            Value::Int(n) => n.to_string(),
            Value::Long(bytes) => match bytes.len() {
                0..=1024 => text::integer(bytes),
                length => format!("an integer of {length} bytes"),
            },
            Value::Float(number) => text::float(*number),
            Value::Text(text) => quoted(text),
            &Value::LongText { start, length } => {
                quoted(&String::from_utf8_lossy(&self.bytes(start, length)))
            }
            &Value::Bytes { start, length } => bytes_literal(&self.bytes(start, length)),
            Value::DecodedBytes(bytes) => {
                bytes_literal(bytes.get(..MAX_KEY_BYTES as usize).unwrap_or(bytes))
            }
            Value::Tuple(items) => match **items {
                [only] => format!("({},)", self.written(only, depth + 1)),
                _ => format!("({})", listed(items)),
            },
            Value::List(items) => format!("[{}]", listed(items)),
            Value::Set(items) if items.is_empty() => "frozenset()".to_owned(),
            Value::Set(items) => format!("frozenset({{{}}})", listed(items)),
            Value::Dict(pairs) => {
                let shown = pairs.iter().take(MAX_ITEMS).map(|&(key, value)| {
                    format!("{}: {}", self.written(key, depth + 1), self.written(value, depth + 1))
                });
                format!("{{{}}}", shown.collect::<Vec<_>>().join(", "))
            }
            Value::Global(global) => match (global.0.as_str(), global.1.as_str()) {
                // An element type or layout.
                ("torch", name) if name.starts_with(|c: char| c.is_ascii_lowercase()) => {
                    format!("torch.{name}")
                }
                (module, name) => format!("<class '{module}.{name}'>"),
            },
            Value::Persistent(inner) => self.written(*inner, depth + 1),
            Value::Object(object) => self.object(object, depth),
            Value::Opaque => "...".to_owned(),
        }
    }

    fn object(&self, object: &Object, depth: usize) -> String {
        let (module, name) = self.pickle.global(object.callee).unwrap_or_default();
        let arguments = &*object.arguments;
        let numpy = matches!(module, "numpy.core.multiarray" | "numpy._core.multiarray");
        if numpy && name == "scalar" {
            return self.numpy_scalar(arguments).unwrap_or_else(|| "numpy scalar".to_owned());
        }
        match (module, name, arguments) {
            ("builtins" | "__builtin__", "complex", &[real, imaginary]) => {
                let (Value::Float(re), Value::Float(im)) =
                    (self.pickle.value(real), self.pickle.value(imaginary))
                else {
                    return "complex".to_owned();
                };
                let part = |value: f64| text::float(value).trim_end_matches(".0").to_owned();
                let sign = if *im < 0.0 { "" } else { "+" };
                format!("({}{sign}{}j)", part(*re), part(*im))
            }
            ("_codecs", "encode", &[text, ..]) => match self.pickle.value(text) {
                Value::Text(text) => {
                    bytes_literal(&text::latin1(text).unwrap_or_else(|| text.bytes().collect()))
                }
                _ => "b'...'".to_owned(),
            },
            ("builtins" | "__builtin__", "frozenset" | "set", &[items]) => {
                let items = self.pickle.items(items).unwrap_or_default();
                let shown: Vec<_> = items
                    .iter()
                    .take(MAX_ITEMS)
                    .map(|&item| self.written(item, depth + 1))
                    .collect();
                format!("{name}({{{}}})", shown.join(", "))
            }
            ("builtins" | "__builtin__", "bytes", []) => "b''".to_owned(),
            _ => {
                let shown: Vec<_> = arguments
                    .iter()
                    .take(MAX_ITEMS)
                    .map(|&argument| self.written(argument, depth + 1))
                    .collect();
                let module = match module {
                    "" | "builtins" | "__builtin__" => String::new(),
                    module => format!("{module}."),
                };
                format!("{module}{name}({})", shown.join(", "))
            }
        }
    }

    /// Formats the number or text of `scalar(dtype, bytes)`.
    fn numpy_scalar(&self, arguments: &[ValueId]) -> Option<String> {
        let &[dtype, data] = arguments else { return None };
        let Value::Object(dtype) = self.pickle.value(dtype) else { return None };
        let kind = self.pickle.text(*dtype.arguments.first()?)?;
        let bytes = match self.pickle.value(data) {
            &Value::Bytes { start, length } => self.bytes(start, length),
            Value::DecodedBytes(bytes) => bytes.to_vec(),
            Value::Text(text) => text.as_bytes().to_vec(),
            Value::Object(object) => text::latin1(self.pickle.text(*object.arguments.first()?)?)?,
            _ => return None,
        };
        let word = || bytes.first_chunk().map(|word| i64::from_le_bytes(*word));
        Some(match kind {
            "i1" => i8::from_le_bytes(*bytes.first_chunk()?).to_string(),
            "i2" => i16::from_le_bytes(*bytes.first_chunk()?).to_string(),
            "i4" => i32::from_le_bytes(*bytes.first_chunk()?).to_string(),
            "i8" => word()?.to_string(),
            "u1" => u8::from_le_bytes(*bytes.first_chunk()?).to_string(),
            "u2" => u16::from_le_bytes(*bytes.first_chunk()?).to_string(),
            "u4" => u32::from_le_bytes(*bytes.first_chunk()?).to_string(),
            "u8" => u64::from_le_bytes(*bytes.first_chunk()?).to_string(),
            "f4" => text::float(f32::from_le_bytes(*bytes.first_chunk()?).into()),
            "f8" => text::float(f64::from_le_bytes(*bytes.first_chunk()?)),
            "b1" => (if bytes.first()? == &0 { "False" } else { "True" }).to_owned(),
            kind if kind.starts_with('U') => {
                let letters = bytes.as_chunks().0.iter().map(|letter| u32::from_le_bytes(*letter));
                letters.take_while(|&letter| letter != 0).filter_map(char::from_u32).collect()
            }
            kind if kind.starts_with('S') => bytes_literal(&bytes),
            _ => return None,
        })
    }

    fn bytes(&self, start: u64, length: u64) -> Vec<u8> {
        let region = self.pickle.region(start, length.min(MAX_KEY_BYTES));
        region.read(self.source, MAX_KEY_BYTES).unwrap_or_default()
    }
}

/// Quotes text like Python's `repr`.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// Formats bytes as a Python literal.
fn bytes_literal(bytes: &[u8]) -> String {
    let mut out = String::from("b'");
    for &byte in bytes {
        match byte {
            b'\\' | b'\'' => out.extend(['\\', char::from(byte)]),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x20..0x7f => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('\'');
    out
}
