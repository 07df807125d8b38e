//! The header of an NPY file.

use crate::checkpoint::formats::numpy::array_type::{ArrayType, array_type};
use crate::checkpoint::formats::numpy::literal::{self, Literal};
use crate::tensor::Shape;

pub(crate) const MAGIC: [u8; 6] = *b"\x93NUMPY";

/// Maximum length of a header in bytes.
pub(super) const HEADER_LIMIT: u64 = 1 << 16;

/// A parsed header.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    pub array_type: ArrayType,
    pub column_major: bool,
    pub shape: Shape,
    /// Length of the header in bytes; the elements follow.
    pub length: u64,
}

/// Returns the length of the header from its first bytes.
pub(super) fn length(start: &[u8]) -> Result<u64, String> {
    let [magic @ .., major, _minor] = start.get(..8).ok_or("it is too short for an array")? else {
        return Err("it is too short for an array".to_owned());
    };
    if magic != MAGIC {
        return Err("it does not start with NumPy's magic bytes".to_owned());
    }
    let digits = match major {
        1 => start.get(8..10),
        2 | 3 => start.get(8..12),
        _ => return Err(format!("its version is {major}, expected 1, 2 or 3")),
    };
    let digits = digits.ok_or("its header is cut off")?;
    let text = digits.iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
    if text >= HEADER_LIMIT {
        return Err(format!("its header claims {text} bytes, more than {HEADER_LIMIT}"));
    }
    Ok(8 + digits.len() as u64 + text)
}

/// Parses a whole header.
pub(super) fn parse(header: &[u8]) -> Result<Header, String> {
    let length = length(header)?;
    let digits = if header.get(6) == Some(&1) { 2 } else { 4 };
    let text = header.get(8 + digits..length as usize).ok_or("its header is cut off")?;
    let text = match std::str::from_utf8(text) {
        Ok(text) => text.to_owned(),
        // Versions 1 and 2 are Latin-1.
        Err(_) => text.iter().map(|&byte| char::from(byte)).collect(),
    };
    let text = text.trim();
    let form = || format!("its header is not of the expected form: {text:?}");
    let Some(Literal::Dict(pairs)) = literal::parse(text) else { return Err(form()) };
    let get = |wanted: &str| {
        let found = pairs.iter().rev().find(|(key, _)| *key == Literal::Text(wanted.to_owned()));
        found.map(|(_, value)| value).ok_or_else(form)
    };
    let &Literal::Flag(column_major) = get("fortran_order")? else { return Err(form()) };
    let mut dims = sizes(get("shape")?).ok_or_else(form)?;
    let mut description = get("descr")?;
    // A subarray type adds its own dimensions at the end.
    let mut inner = Vec::new();
    while let Literal::Tuple(parts) = description {
        let [element, sizes_of_element] = parts.as_slice() else { return Err(form()) };
        inner.extend(sizes(sizes_of_element).ok_or_else(form)?);
        description = element;
    }
    let array_type = match description {
        Literal::List(_) => ArrayType::structured(),
        _ if !inner.is_empty() && column_major => {
            ArrayType::other("subarray", "arrays in column-major order")
        }
        Literal::Text(name) => by_name(name),
        _ => return Err(form()),
    };
    dims.extend(inner);
    let shape = Shape::new(dims.as_slice())
        .ok_or_else(|| format!("shape {dims:?} has more elements than fit 64 bits"))?;
    Ok(Header { array_type, column_major, shape, length })
}

fn sizes(literal: &Literal) -> Option<Vec<u64>> {
    let (Literal::Tuple(items) | Literal::List(items)) = literal else {
        return match literal {
            Literal::Number(n) => Some(vec![*n]),
            _ => None,
        };
    };
    let size = |item: &Literal| match item {
        Literal::Number(n) => Some(*n),
        _ => None,
    };
    items.iter().map(size).collect()
}

/// Returns a type by its name in a header: `<f4`, or another name that `numpy.dtype` accepts.
fn by_name(name: &str) -> ArrayType {
    let kind = match name {
        "?" => "b1",
        "bool" => "b1",
        "float16" | "half" => "f2",
        "float32" | "single" => "f4",
        "float64" | "double" | "float" => "f8",
        "int8" => "i1",
        "int16" => "i2",
        "int32" => "i4",
        "int64" | "int" => "i8",
        "uint8" => "u1",
        "uint16" => "u2",
        "uint32" => "u4",
        "uint64" => "u8",
        "complex64" => "c8",
        "complex128" => "c16",
        // Names used by ml_dtypes.
        "bfloat16" => "bfloat16",
        _ => "",
    };
    match (kind, name.chars().next()) {
        ("", Some(order @ ('<' | '>' | '|' | '='))) => {
            array_type(name.get(1..).unwrap_or_default(), Some(order))
        }
        ("", _) => array_type(name, None),
        (kind, _) => array_type(kind, None),
    }
}
