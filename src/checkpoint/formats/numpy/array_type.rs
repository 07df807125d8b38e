//! NumPy's element types by their names, such as `<f4`.

use crate::checkpoint::formats::element_type::{self, ElementType};

/// The type of an array's elements.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ArrayType {
    Numbers {
        element: ElementType,
        big_endian: bool,
    },
    /// A type without numbers that can be read: its name and a description.
    Other {
        name: String,
        what: &'static str,
    },
}

impl ArrayType {
    pub(crate) fn other(name: impl Into<String>, what: &'static str) -> ArrayType {
        ArrayType::Other { name: name.into(), what }
    }

    /// Returns the type of an array of records.
    pub(crate) fn structured() -> ArrayType {
        ArrayType::other("structured", "records")
    }
}

/// Returns a type by its kind and size, such as `f4`, and its byte order: `<`, `>`, `|` or `=`.
pub(crate) fn array_type(kind: &str, order: Option<char>) -> ArrayType {
    if let Some(element) = element_type::numpy(kind) {
        return ArrayType::Numbers { element, big_endian: order == Some('>') };
    }
    // Byte strings and raw bytes have no byte order.
    let order = order.filter(|_| !kind.starts_with(['S', 'V'])).unwrap_or('|');
    let named = |what| ArrayType::other(format!("{order}{kind}"), what);
    match kind.chars().next() {
        Some('O') => ArrayType::other("object", "Python objects"),
        Some('U') => named("unicode strings"),
        Some('S' | 'a') => named("byte strings"),
        Some('M') => named("dates"),
        Some('m') => named("time spans"),
        Some('V') => named("raw bytes without a type, as ml_dtypes saves bfloat16 and float8"),
        _ => named("elements of a type that is not read"),
    }
}
