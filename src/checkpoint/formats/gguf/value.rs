//! The values of GGUF key-values, as readable text.

use crate::checkpoint::error::{ReadError, Result};
use crate::checkpoint::io::cursor::Cursor;

/// Maximum nesting depth of arrays.
const DEPTH_LIMIT: u32 = 4;

/// Number of array elements that are shown.
const MAX_SHOWN_ELEMENTS: u64 = 8;

/// Limits on the kept text: bytes of one string, and of all strings of a file.
const STRING_LIMIT: u64 = 1 << 18;
const TEXT_LIMIT: u64 = 1 << 24;

/// Number of text bytes that may still be kept.
pub(crate) struct TextBudget(u64);

impl Default for TextBudget {
    fn default() -> Self {
        TextBudget(TEXT_LIMIT)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ValueType {
    Unsigned(u8),
    Signed(u8),
    F32,
    F64,
    Bool,
    String,
    Array,
}

impl ValueType {
    pub(super) fn read(
        cursor: &mut Cursor,
        bad: &dyn Fn(String) -> ReadError,
    ) -> Result<ValueType> {
        Ok(match cursor.u32()? {
            0 => ValueType::Unsigned(1),
            1 => ValueType::Signed(1),
            2 => ValueType::Unsigned(2),
            3 => ValueType::Signed(2),
            4 => ValueType::Unsigned(4),
            5 => ValueType::Signed(4),
            6 => ValueType::F32,
            7 => ValueType::Bool,
            8 => ValueType::String,
            9 => ValueType::Array,
            10 => ValueType::Unsigned(8),
            11 => ValueType::Signed(8),
            12 => ValueType::F64,
            other => return Err(bad(format!("a value is of the unknown type {other}"))),
        })
    }

    pub(super) fn is_four_byte_integer(self) -> bool {
        matches!(self, ValueType::Unsigned(4) | ValueType::Signed(4))
    }

    /// Size of one value in bytes; `None` if it varies.
    fn size(self) -> Option<u64> {
        match self {
            ValueType::Unsigned(size) | ValueType::Signed(size) => Some(size.into()),
            ValueType::F32 => Some(4),
            ValueType::F64 => Some(8),
            ValueType::Bool => Some(1),
            ValueType::String | ValueType::Array => None,
        }
    }

    fn plural(self) -> &'static str {
        match self {
            ValueType::Unsigned(_) | ValueType::Signed(_) => "integers",
            ValueType::F32 | ValueType::F64 => "floats",
            ValueType::Bool => "booleans",
            ValueType::String => "strings",
            ValueType::Array => "arrays",
        }
    }
}

/// A value as text, and as a number if it is an unsigned integer.
pub(crate) struct Value {
    pub text: String,
    pub number: Option<u64>,
}

type Bad<'a> = &'a dyn Fn(String) -> ReadError;

pub(crate) fn read(
    cursor: &mut Cursor,
    kind: ValueType,
    budget: &mut TextBudget,
    bad: Bad,
) -> Result<Value> {
    match kind {
        ValueType::Array => {
            array(cursor, budget, bad, DEPTH_LIMIT).map(|text| Value { text, number: None })
        }
        ValueType::String => string(cursor, budget).map(|text| Value { text, number: None }),
        _ => number(cursor, kind),
    }
}

fn number(cursor: &mut Cursor, kind: ValueType) -> Result<Value> {
    let mut bytes = [0; 8];
    let size = kind.size().unwrap_or(0) as usize;
    for byte in bytes.iter_mut().take(size) {
        *byte = cursor.u8()?;
    }
    let raw = u64::from_le_bytes(bytes);
    let text = match kind {
        ValueType::Signed(size) => {
            let unused = 64 - 8 * u32::from(size);
            ((raw as i64) << unused >> unused).to_string()
        }
        ValueType::F32 => f32::from_bits(raw as u32).to_string(),
        ValueType::F64 => f64::from_bits(raw).to_string(),
        ValueType::Bool => (raw != 0).to_string(),
        _ => raw.to_string(),
    };
    Ok(Value { text, number: matches!(kind, ValueType::Unsigned(_)).then_some(raw) })
}

/// Reads a string; a very long one is truncated.
fn string(cursor: &mut Cursor, budget: &mut TextBudget) -> Result<String> {
    let length = cursor.u64()?;
    let kept = length.min(STRING_LIMIT).min(budget.0);
    budget.0 -= kept;
    let bytes = cursor.bytes(kept)?;
    cursor.skip(length - kept)?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if kept < length {
        text.push_str(&format!("… ({length} bytes)"));
    }
    Ok(text)
}

/// Reads an array and describes it by its first values and its length.
fn array(cursor: &mut Cursor, budget: &mut TextBudget, bad: Bad, depth: u32) -> Result<String> {
    let kind = ValueType::read(cursor, bad)?;
    let length = cursor.u64()?;
    // The shortest string or array consists of its length.
    let min_bytes = length.checked_mul(kind.size().unwrap_or(8));
    if min_bytes.is_none_or(|min_bytes| min_bytes > cursor.remaining()) {
        return Err(bad(format!("an array claims {length} values, more than the file can hold")));
    }
    if depth == 0 {
        return Err(bad(format!("arrays lie in arrays more than {DEPTH_LIMIT} deep")));
    }
    let mut shown = Vec::new();
    for _ in 0..length.min(MAX_SHOWN_ELEMENTS) {
        shown.push(match kind {
            ValueType::String => format!("{:?}", string(cursor, budget)?),
            ValueType::Array => array(cursor, budget, bad, depth - 1)?,
            _ => number(cursor, kind)?.text,
        });
    }
    for _ in MAX_SHOWN_ELEMENTS..length {
        match kind {
            ValueType::String => {
                let length = cursor.u64()?;
                cursor.skip(length)?;
            }
            ValueType::Array => _ = array(cursor, budget, bad, depth - 1)?,
            _ => {
                cursor.skip((length - MAX_SHOWN_ELEMENTS) * kind.size().unwrap_or(0))?;
                break;
            }
        }
    }
    let rest = if length > MAX_SHOWN_ELEMENTS { ", …" } else { "" };
    let count = if length > MAX_SHOWN_ELEMENTS {
        format!(" ({length} {})", kind.plural())
    } else {
        String::new()
    };
    Ok(format!("[{}{rest}]{count}", shown.join(", ")))
}
