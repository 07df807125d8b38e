//! The safetensors header: parsing and validation.

mod json;
mod plain;
pub(crate) mod sharded_parts;

use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::name_index;
use crate::checkpoint::{Source, Stored};
use crate::tensor::{DType, Dims, Names, Shape};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;

/// Maximum length of the JSON in bytes, set by the format.
pub const HEADER_LIMIT: u64 = 100_000_000;

/// Minimum bytes of JSON per tensor: `"":{"dtype":"","shape":[],"data_offsets":[0,0]},`.
const TENSOR_BYTES: usize = 48;

/// A header that was checked against the file; tensors are sorted by their data offset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    /// The `__metadata__` in file order.
    pub metadata: Vec<(String, String)>,
    /// The tensors in data order.
    pub tensors: Vec<Stored>,
}

/// Reads and checks the header of a file.
pub fn read(source: &Source) -> Result<Header> {
    let path = source.path();
    let handle = source.open()?;
    let mut first = [0; 8];
    source.read_exact(&handle, &mut first, 0)?;
    let mut json = vec![0; json_length(path, first, source.size())? as usize];
    source.read_exact(&handle, &mut json, 8)?;
    parse(path, &json, source.size())
}

/// Returns the length of the JSON from the file's first 8 bytes, checked against the file's length.
pub fn json_length(path: &Path, first: [u8; 8], file_len: u64) -> Result<u64> {
    let claimed = u64::from_le_bytes(first);
    let found = file_len.saturating_sub(8);
    let problem = if claimed > found {
        Problem::HeaderTooLong { claimed, found }
    } else if claimed > HEADER_LIMIT {
        Problem::HeaderLimit { claimed, limit: HEADER_LIMIT }
    } else {
        return Ok(claimed);
    };
    Err(ReadError::new(path, problem))
}

/// Parses and checks the JSON of a header for a file of `file_len` bytes.
pub fn parse(path: &Path, json: &[u8], file_len: u64) -> Result<Header> {
    let bad = |why: String| ReadError::new(path, Problem::HeaderJson(why));
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(bad("it does not start with '{'".into()));
    }
    let text = std::str::from_utf8(json).map_err(|e| bad(e.to_string()))?;
    // The fast parser only accepts valid headers; the other one reports errors.
    let RawHeader { metadata, mut tensors } = match plain::read(text) {
        Some(header) => header,
        None => match json::read(text).map_err(|e| bad(e.to_string()))? {
            (header, None) => header,
            (_, Some((name, lie))) => return Err(ReadError::of_tensor(path, &name, lie)),
        },
    };
    let data_start = 8 + json.len() as u64;
    // Most writers list tensors in data order, and sorting a sorted list is cheap.
    tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));

    let mut at = 0;
    for tensor in &tensors {
        if tensor.range.start != at {
            let problem = Problem::NotContiguous { expected: at, found: tensor.range.start };
            return Err(ReadError::of_tensor(path, &tensor.name, problem));
        }
        at = tensor.range.end;
    }
    // A header of 100,000,000 bytes cannot list more than `u32::MAX` tensors.
    let name_of = |at: u32| tensors.get(at as usize).map_or("", |tensor| &tensor.name);
    if let Some((_, twin)) = name_index::first_duplicate(tensors.len() as u32, name_of) {
        return Err(ReadError::of_tensor(path, name_of(twin), Problem::DuplicateTensor));
    }
    let expected = data_start.saturating_add(at);
    if expected != file_len {
        let problem = Problem::FileLength { expected, found: file_len };
        return Err(ReadError::new(path, problem));
    }
    for tensor in &mut tensors {
        tensor.range = tensor.range.start + data_start..tensor.range.end + data_start;
    }
    Ok(Header { metadata: metadata.unwrap_or_default(), tensors })
}

/// The parsed JSON in file order; ranges are relative to the data section.
#[derive(Debug, Default, PartialEq)]
struct RawHeader {
    metadata: Option<Vec<(String, String)>>,
    tensors: Vec<Stored>,
}

impl RawHeader {
    /// Reserves space for as many tensors as the text can list.
    fn with_room_for(text: &str) -> RawHeader {
        RawHeader { metadata: None, tensors: Vec::with_capacity(text.len() / TENSOR_BYTES) }
    }
}

/// A tensor as the header lists it.
struct RawTensor<'a> {
    dtype: Cow<'a, str>,
    dims: Dims,
    offsets: (u64, u64),
}

impl RawTensor<'_> {
    fn checked(self, name: &str, names: &mut Names) -> Result<Stored, Problem> {
        let RawTensor { dtype, dims, offsets: (start, end) } = self;
        let dtype = DType::from_name(&dtype);
        let Some(shape) = Shape::new(dims.clone()) else {
            return Err(Problem::ShapeOverflow { shape: dims.as_slice().to_vec() });
        };
        let found = end.checked_sub(start).ok_or(Problem::OffsetsReversed { start, end })?;
        let expected = dtype.bytes_for(shape.elements());
        if dtype.bits().is_some() && expected != Some(found) {
            let expected = expected.map_or("an impossible number of".into(), |n| n.to_string());
            return Err(Problem::SizeMismatch { expected, found });
        }
        Ok(Stored::new(names.push(name), dtype, shape, start..end))
    }
}

/// Returns the first bytes of a safetensors file: the length, the JSON, and spaces that align the
/// data to 8 bytes. `tensors` are name, type, shape and length in bytes, in data order.
pub fn header_bytes<'a>(
    metadata: &[(String, String)],
    tensors: impl IntoIterator<Item = (&'a str, &'a DType, &'a Shape, u64)>,
) -> Vec<u8> {
    // Serializing a string cannot fail.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut json = String::from("{");
    if !metadata.is_empty() {
        let pairs: Vec<_> =
            metadata.iter().map(|(k, v)| format!("{}:{}", quoted(k), quoted(v))).collect();
        json.push_str(&format!("\"__metadata__\":{{{}}}", pairs.join(",")));
    }
    let mut at = 0u64;
    for (name, dtype, shape, bytes) in tensors {
        if json.len() > 1 {
            json.push(',');
        }
        // Writing to a string cannot fail.
        let (name, dtype) = (quoted(name), quoted(dtype.name()));
        let _ = write!(json, "{name}:{{\"dtype\":{dtype},\"shape\":[");
        for (axis, length) in shape.dims().iter().enumerate() {
            let comma = if axis == 0 { "" } else { "," };
            let _ = write!(json, "{comma}{length}");
        }
        let _ = write!(json, "],\"data_offsets\":[{at},{}]}}", at + bytes);
        at += bytes;
    }
    json.push('}');
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(json: &str, data: u64) -> Result<Header> {
        parse(Path::new("m.safetensors"), json.as_bytes(), 8 + json.len() as u64 + data)
    }

    fn refusal(json: &str, data: u64) -> String {
        parsed(json, data).expect_err(json).to_string()
    }

    #[test]
    fn tensors_are_sorted_by_data_offset() {
        let header = parsed(
            r#"{"b":{"dtype":"F32","shape":[2],"data_offsets":[2,10]},"__metadata__":{"format":"pt"},"a\n":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}"#,
            10,
        )
        .expect("valid");
        let names: Vec<_> = header.tensors.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["a\n", "b"]);
        assert_eq!(header.metadata, [("format".into(), "pt".into())]);
        assert_eq!(header.tensors[1].range.end - header.tensors[1].range.start, 8);
    }

    #[test]
    fn an_unknown_type_is_listed() {
        let header =
            parsed(r#"{"x":{"dtype":"F5_NEW","shape":[3],"data_offsets":[0,7]}}"#, 7).expect("ok");
        assert_eq!(header.tensors[0].dtype.name(), "F5_NEW");
    }

    #[test]
    fn invalid_files_are_refused_with_the_reason() {
        let two = |a: &str, b: &str| {
            format!(
                r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{a}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{b}}}}}"#
            )
        };
        for (json, data, sentence) in [
            ("[]".to_owned(), 0, "does not start with '{'"),
            ("{".to_owned(), 0, "EOF"),
            (two("[0,4]", "[2,6]"), 6, "no hole and no overlap"),
            (two("[0,4]", "[5,9]"), 9, "no hole and no overlap"),
            (two("[0,4]", "[4,8]"), 9, "cut off or something was appended"),
            (two("[0,4]", "[4,8]"), 7, "cut off or something was appended"),
            (two("[4,0]", "[4,8]"), 8, "not in order"),
            (two("[0,3]", "[3,7]"), 7, "need 4 bytes"),
            (two("[-1,3]", "[3,7]"), 7, "integer"),
            (two("[0,4]", "[4,8]").replace("\"b\"", "\"a\""), 8, "twice"),
            (
                r#"{"a":{"dtype":"U8","shape":[4294967296,4294967296,2],"data_offsets":[0,0]}}"#
                    .into(),
                0,
                "more elements",
            ),
            (r#"{"__metadata__":{"a":1}}"#.into(), 0, "string"),
        ] {
            let found = refusal(&json, data);
            assert!(found.contains(sentence), "{json}: {found}");
        }
    }

    #[test]
    fn written_headers_are_aligned_and_read_back() {
        let shape = Shape::vector(3);
        let metadata = [("k\"".to_owned(), "v\\\n".to_owned())];
        let bytes = header_bytes(
            &metadata,
            [("a \u{1b}", &DType::U8, &shape, 3), ("b", &DType::F16, &shape, 6)],
        );
        assert!(bytes.len().is_multiple_of(8));
        let header = parse(Path::new("x"), &bytes[8..], bytes.len() as u64 + 9).expect("valid");
        assert_eq!(header.metadata, metadata);
        assert_eq!(header.tensors[0].name, "a \u{1b}");
        assert_eq!(header.tensors[1].range, bytes.len() as u64 + 3..bytes.len() as u64 + 9);
    }

    /// Parses with both parsers, and checks that they agree if the fast one succeeds.
    fn read_by_both(text: &str) -> Option<RawHeader> {
        let plain = plain::read(text)?;
        let (json, lie) = json::read(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert!(lie.is_none(), "{text}: {lie:?}");
        assert_eq!(plain, json, "{text}");
        Some(plain)
    }

    const SOUND: &str = r#"{"__metadata__":{"a":"ü","b":""},"größe.0":{"dtype":"F32","shape":[2,0],"data_offsets":[0,0]},"b":{"dtype":"BF16","shape":[],"data_offsets":[0,2]},"":{"dtype":"F5_NEW","shape":[1,1,1,1,12],"data_offsets":[2,102]}}"#;

    #[test]
    fn the_fast_parser_reads_plain_headers_only() {
        for text in [SOUND, &format!("{SOUND}   "), "{}", r#"{"__metadata__":{}}"#] {
            assert!(read_by_both(text).is_some(), "{text}");
        }
        // Valid, but not in the form that the fast parser accepts.
        for (this, so) in
            [(",", ", "), ("größe", "gr\\u00f6ße"), ("{\"a", "{\n\"a"), ("b", "b\u{7f}")]
        {
            let text = SOUND.replace(this, so);
            assert_eq!(plain::read(&text), None, "{text}");
            assert!(json::read(&text).is_ok(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_fast_parser_refuses_mutated_headers(
            edits in proptest::collection::vec((0..SOUND.len(), "[]\\[{}\"\\\\,:0-9a \u{1}-]{0,2}", 0..3usize), 1..3),
        ) {
            let mut text = SOUND.to_owned();
            for (at, new, removed) in edits {
                let at = text.floor_char_boundary(at);
                let end = text.floor_char_boundary(at + removed).max(at);
                text.replace_range(at..end, &new);
            }
            read_by_both(&text);
        }
    }
}
