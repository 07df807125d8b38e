//! The values of GGUF's keys, as text a person reads.

use crate::checkpoint::error::{CheckpointError, Result};
use crate::checkpoint::io::cursor::Cursor;

/// Arrays of arrays go no deeper than this.
const DEPTH_LIMIT: u32 = 4;

/// Elements of an array that are shown.
const SHOWN: u64 = 8;

/// Bytes of one string, and of all together, that are kept.
const STRING_LIMIT: u64 = 1 << 18;
const TEXT_LIMIT: u64 = 1 << 24;

/// The bytes of text that may still be kept.
pub(crate) struct TextBudget(u64);

impl Default for TextBudget {
    fn default() -> Self {
        TextBudget(TEXT_LIMIT)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Unsigned(u8),
    Signed(u8),
    F32,
    F64,
    Bool,
    String,
    Array,
}

impl Kind {
    pub(super) fn read(
        cursor: &mut Cursor,
        bad: &dyn Fn(String) -> CheckpointError,
    ) -> Result<Kind> {
        Ok(match cursor.u32()? {
            0 => Kind::Unsigned(1),
            1 => Kind::Signed(1),
            2 => Kind::Unsigned(2),
            3 => Kind::Signed(2),
            4 => Kind::Unsigned(4),
            5 => Kind::Signed(4),
            6 => Kind::F32,
            7 => Kind::Bool,
            8 => Kind::String,
            9 => Kind::Array,
            10 => Kind::Unsigned(8),
            11 => Kind::Signed(8),
            12 => Kind::F64,
            other => return Err(bad(format!("a value is of the unknown type {other}"))),
        })
    }

    pub(super) fn is_four_byte_integer(self) -> bool {
        matches!(self, Kind::Unsigned(4) | Kind::Signed(4))
    }

    /// Bytes of one value, if all have the same.
    fn size(self) -> Option<u64> {
        match self {
            Kind::Unsigned(size) | Kind::Signed(size) => Some(size.into()),
            Kind::F32 => Some(4),
            Kind::F64 => Some(8),
            Kind::Bool => Some(1),
            Kind::String | Kind::Array => None,
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Kind::Unsigned(_) | Kind::Signed(_) => "integers",
            Kind::F32 | Kind::F64 => "floats",
            Kind::Bool => "booleans",
            Kind::String => "strings",
            Kind::Array => "arrays",
        }
    }
}

/// A value: as text, and as a number if it is an unsigned one.
pub(crate) struct Value {
    pub text: String,
    pub number: Option<u64>,
}

type Bad<'a> = &'a dyn Fn(String) -> CheckpointError;

pub(crate) fn read(
    cursor: &mut Cursor,
    kind: Kind,
    budget: &mut TextBudget,
    bad: Bad,
) -> Result<Value> {
    match kind {
        Kind::Array => {
            array(cursor, budget, bad, DEPTH_LIMIT).map(|text| Value { text, number: None })
        }
        Kind::String => string(cursor, budget).map(|text| Value { text, number: None }),
        _ => number(cursor, kind),
    }
}

fn number(cursor: &mut Cursor, kind: Kind) -> Result<Value> {
    let mut bytes = [0; 8];
    let size = kind.size().unwrap_or(0) as usize;
    for byte in bytes.iter_mut().take(size) {
        *byte = cursor.u8()?;
    }
    let raw = u64::from_le_bytes(bytes);
    let text = match kind {
        Kind::Signed(size) => {
            let unused = 64 - 8 * u32::from(size);
            ((raw as i64) << unused >> unused).to_string()
        }
        Kind::F32 => f32::from_bits(raw as u32).to_string(),
        Kind::F64 => f64::from_bits(raw).to_string(),
        Kind::Bool => (raw != 0).to_string(),
        _ => raw.to_string(),
    };
    Ok(Value { text, number: matches!(kind, Kind::Unsigned(_)).then_some(raw) })
}

/// A string, its end left out when it is very long.
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

/// An array: its first values and how many there are.
fn array(cursor: &mut Cursor, budget: &mut TextBudget, bad: Bad, depth: u32) -> Result<String> {
    let kind = Kind::read(cursor, bad)?;
    let length = cursor.u64()?;
    // The shortest string or array takes its length.
    let least = length.checked_mul(kind.size().unwrap_or(8));
    if least.is_none_or(|least| least > cursor.remaining()) {
        return Err(bad(format!("an array claims {length} values, more than the file can hold")));
    }
    if depth == 0 {
        return Err(bad(format!("arrays lie in arrays more than {DEPTH_LIMIT} deep")));
    }
    let mut shown = Vec::new();
    for _ in 0..length.min(SHOWN) {
        shown.push(match kind {
            Kind::String => format!("{:?}", string(cursor, budget)?),
            Kind::Array => array(cursor, budget, bad, depth - 1)?,
            _ => number(cursor, kind)?.text,
        });
    }
    for _ in SHOWN..length {
        match kind {
            Kind::String => {
                let length = cursor.u64()?;
                cursor.skip(length)?;
            }
            Kind::Array => _ = array(cursor, budget, bad, depth - 1)?,
            _ => {
                cursor.skip((length - SHOWN) * kind.size().unwrap_or(0))?;
                break;
            }
        }
    }
    let rest = if length > SHOWN { ", …" } else { "" };
    let count =
        if length > SHOWN { format!(" ({length} {})", kind.plural()) } else { String::new() };
    Ok(format!("[{}{rest}]{count}", shown.join(", ")))
}
