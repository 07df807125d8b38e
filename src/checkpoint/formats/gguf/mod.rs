//! GGUF, llama.cpp's format: key-values, tensor infos and data.

mod blocks;
mod value;

pub(crate) use blocks::BlockTensor;

use crate::checkpoint::access::Access;
use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::io::cursor::Cursor;
use crate::checkpoint::{Source, Stored};
use crate::tensor::{BlockType, DType, Shape};
use std::collections::HashSet;
use std::ops::Range;
use value::{TextBudget, ValueType};

pub(crate) const MAGIC: [u8; 4] = *b"GGUF";

/// Default alignment of the tensors in bytes.
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;

/// The key for the alignment of the tensors.
const ALIGNMENT_KEY: &str = "general.alignment";

/// The key for the type of most of the tensors.
pub(crate) const FILE_TYPE_KEY: &str = "general.file_type";

/// The key for the version of the block types. Required in files that have quantized tensors.
pub(crate) const QUANTIZATION_VERSION_KEY: &str = "general.quantization_version";

/// The keys that describe the importance matrix used for quantization: its path, its text, and the
/// number of its weights and of its chunks.
pub(crate) const IMPORTANCE_FILE_KEY: &str = "quantize.imatrix.file";
pub(crate) const IMPORTANCE_DATASET_KEY: &str = "quantize.imatrix.dataset";
pub(crate) const IMPORTANCE_ENTRIES_KEY: &str = "quantize.imatrix.entries_count";
pub(crate) const IMPORTANCE_CHUNKS_KEY: &str = "quantize.imatrix.chunks_count";

const IMPORTANCE_KEYS: [&str; 4] =
    [IMPORTANCE_FILE_KEY, IMPORTANCE_DATASET_KEY, IMPORTANCE_ENTRIES_KEY, IMPORTANCE_CHUNKS_KEY];

/// The keys of one part of a model that is split into several files.
const SPLIT_NUMBER_KEY: &str = "split.no";
const SPLIT_COUNT_KEY: &str = "split.count";
const SPLIT_TENSORS_KEY: &str = "split.tensors.count";

/// Limits on what a header may claim. A vocabulary of a million tokens takes 20 MB.
const HEADER_LIMIT: u64 = 1 << 30;
const KEY_LIMIT: u64 = 1 << 16;
const TENSOR_LIMIT: u64 = 1 << 20;
const NAME_LIMIT: u64 = 1 << 16;
/// Maximum number of dimensions of a tensor that ggml reads.
const DIMENSION_LIMIT: u32 = 4;
/// Maximum number of dimensions of a listed tensor. A header that claims more cannot be trusted.
const LISTED_DIMENSIONS: u32 = 64;

/// A header that was checked against the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Header {
    pub version: u32,
    /// Number of key-values.
    pub keys: u64,
    /// The byte range of all key-values in the file.
    pub key_values: Range<u64>,
    /// File offset of the value of `general.file_type`, if it is a 4-byte integer.
    pub file_type: Option<u64>,
    pub has_quantization_version: bool,
    pub alignment: u64,
    /// The values of `split.no` and `split.count`.
    split: [Option<u64>; 2],
    /// The byte ranges of the `split.*` key-values.
    pub split_keys: Vec<Range<u64>>,
    /// The byte ranges of the key-values that name an importance matrix.
    pub importance_keys: Vec<Range<u64>>,
    /// Key-values as text, arrays by their length and first values.
    pub metadata: Vec<(String, String)>,
    /// Sorted by their position in the data.
    pub stored: Vec<Stored>,
}

/// The number of this file among the parts of a split model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// Counted from 0.
    pub number: u64,
    /// At least 2.
    pub count: u64,
}

impl Split {
    /// Returns the problem of a part whose file name does not contain its number.
    pub(crate) fn renamed(self) -> Problem {
        let (number, count) = (self.number.saturating_add(1), self.count);
        Problem::Malformed {
            format: "GGUF",
            why: format!(
                "it is part {number} of {count} (split.count), but its name does not end in -{number:05}-of-{count:05}.gguf; give all parts their original names"
            ),
        }
    }
}

impl Header {
    /// Returns the number of this part; `None` for a model in one file.
    pub(crate) fn split(&self) -> Option<Split> {
        let [number, count] = self.split;
        let count = count.filter(|&count| count > 1)?;
        Some(Split { number: number.unwrap_or(0), count })
    }
}

/// Reads and checks the header of a GGUF file of version 2 or 3.
pub(crate) fn read(source: &Source) -> Result<Header> {
    let path = source.path();
    let bad = |why: String| ReadError::new(path, Problem::Malformed { format: "GGUF", why });
    let mut cursor = Cursor::new(source, 0, HEADER_LIMIT)?;
    if cursor.array()? != MAGIC {
        return Err(bad("it does not start with 'GGUF'".into()));
    }
    let version = cursor.u32()?;
    match version {
        2 | 3 => {}
        _ if version.swap_bytes() <= 0xffff => {
            return Err(bad("it is big-endian; only little-endian files are read".into()));
        }
        _ => return Err(bad(format!("it has version {version}, expected 2 or 3"))),
    }
    let (tensors, keys) = (cursor.u64()?, cursor.u64()?);
    if keys > KEY_LIMIT {
        return Err(bad(format!(
            "it claims {keys} key-values, more than the limit of {KEY_LIMIT}"
        )));
    }
    if tensors > TENSOR_LIMIT {
        return Err(ReadError::new(path, Problem::TooManyTensors(TENSOR_LIMIT)));
    }

    let start = cursor.position();
    let mut header = Header {
        version,
        keys,
        key_values: start..start,
        file_type: None,
        has_quantization_version: false,
        alignment: DEFAULT_ALIGNMENT,
        split: [None; 2],
        split_keys: Vec::new(),
        importance_keys: Vec::new(),
        metadata: Vec::new(),
        stored: Vec::new(),
    };
    let mut seen = HashSet::new();
    let mut budget = TextBudget::default();
    for _ in 0..keys {
        let start = cursor.position();
        let key = name(&mut cursor, "a key").map_err(|e| e.or_bad(&bad))?;
        let kind = ValueType::read(&mut cursor, &bad)?;
        let at = cursor.position();
        let value = value::read(&mut cursor, kind, &mut budget, &bad)?;
        match key.as_str() {
            ALIGNMENT_KEY => {
                let alignment = value.number.filter(|n| n.is_power_of_two());
                header.alignment = alignment.ok_or_else(|| {
                    bad(format!("{ALIGNMENT_KEY} is {}, expected a power of two", value.text))
                })?;
            }
            FILE_TYPE_KEY => header.file_type = kind.is_four_byte_integer().then_some(at),
            SPLIT_NUMBER_KEY => header.split[0] = value.number,
            SPLIT_COUNT_KEY => header.split[1] = value.number,
            QUANTIZATION_VERSION_KEY => header.has_quantization_version = true,
            _ => {}
        }
        if [SPLIT_NUMBER_KEY, SPLIT_COUNT_KEY, SPLIT_TENSORS_KEY].contains(&key.as_str()) {
            header.split_keys.push(start..cursor.position());
        }
        if IMPORTANCE_KEYS.contains(&key.as_str()) {
            header.importance_keys.push(start..cursor.position());
        }
        if !seen.insert(key.clone()) {
            return Err(bad(format!("it has the key '{}' twice", key.escape_debug())));
        }
        header.metadata.push((key, value.text));
    }
    header.key_values.end = cursor.position();

    for _ in 0..tensors {
        let name = name(&mut cursor, "a tensor's name").map_err(|e| e.or_bad(&bad))?;
        let fail = |problem: Problem| ReadError::of_tensor(path, &name, problem);
        let malformed = |why: String| fail(Problem::Malformed { format: "GGUF", why });
        let rank = cursor.u32()?;
        if rank > LISTED_DIMENSIONS {
            return Err(malformed(format!(
                "it has {rank} dimensions, expected at most {DIMENSION_LIMIT}"
            )));
        }
        let mut dims = Vec::with_capacity(rank as usize);
        for _ in 0..rank {
            dims.push(cursor.u64()?);
        }
        // ggml lists the innermost dimension first.
        dims.reverse();
        let dtype = dtype(cursor.u32()?);
        let offset = cursor.u64()?;
        let Some(shape) = Shape::new(dims.as_slice()) else {
            return Err(fail(Problem::ShapeOverflow { shape: dims }));
        };
        if !offset.is_multiple_of(header.alignment) {
            return Err(malformed(format!(
                "its data is at {offset}, not a multiple of the alignment {}",
                header.alignment
            )));
        }
        let unreadable = why_unreadable(&dtype, &shape);
        let end = match dtype.bytes_for(shape.elements()) {
            // Inferred below from the next tensor's offset.
            _ if has_unknown_length(&dtype, &shape) => offset,
            Some(length) => offset
                .checked_add(length)
                .ok_or_else(|| malformed(format!("its data at {offset} ends past 64 bits")))?,
            None => return Err(fail(Problem::ShapeOverflow { shape: dims })),
        };
        let mut stored = Stored::new(name, dtype, shape, offset..end);
        if let Some(why) = unreadable {
            stored.access = Access::Unreadable(why.into());
        }
        header.stored.push(stored);
    }

    let data = cursor.position().next_multiple_of(header.alignment);
    place(&mut header.stored, data, source)?;
    Ok(header)
}

/// Returns why ggml has no tensor of this type and shape; `None` if it has.
fn why_unreadable(dtype: &DType, shape: &Shape) -> Option<String> {
    if shape.rank() > DIMENSION_LIMIT as usize {
        let rank = shape.rank();
        return Some(format!("it has {rank} dimensions, GGUF has at most {DIMENSION_LIMIT}"));
    }
    let DType::Block(block) = dtype else { return None };
    (!has_whole_blocks(*block, shape)).then(|| {
        format!(
            "its rows have {} elements, not a multiple of the {} in a block of {block}",
            shape.row_len(),
            block.elements()
        )
    })
}

fn has_whole_blocks(block: BlockType, shape: &Shape) -> bool {
    shape.row_len().is_multiple_of(block.elements())
}

/// Returns whether type and shape do not determine the number of bytes.
fn has_unknown_length(dtype: &DType, shape: &Shape) -> bool {
    match dtype {
        DType::Other(_) => true,
        DType::Block(block) => !has_whole_blocks(*block, shape),
        _ => false,
    }
}

/// Converts offsets to file positions, sorts tensors by them, and checks that tensors lie inside
/// the file and do not overlap.
fn place(stored: &mut [Stored], data: u64, source: &Source) -> Result<()> {
    let path = source.path();
    stored.sort_by_key(|s| (s.range.start, s.range.end));
    let length = source.size().saturating_sub(data);
    let starts: Vec<u64> = stored.iter().skip(1).map(|s| s.range.start).chain([length]).collect();
    let mut names = HashSet::with_capacity(stored.len());
    for (tensor, next) in stored.iter_mut().zip(starts) {
        let fail = |problem| Err(ReadError::of_tensor(path, &tensor.name, problem));
        if has_unknown_length(&tensor.dtype, &tensor.shape) {
            tensor.range.end = next.max(tensor.range.start);
        }
        if tensor.range.end > length {
            let (end, found) = (tensor.range.end, length);
            return fail(Problem::DataCutOff { end, found });
        }
        if tensor.range.end > next {
            return fail(Problem::Overlap { end: tensor.range.end, next });
        }
        tensor.range = data + tensor.range.start..data + tensor.range.end;
        if !names.insert(tensor.name.to_string()) {
            return Err(ReadError::of_tensor(path, &tensor.name, Problem::DuplicateTensor));
        }
    }
    Ok(())
}

/// Returns a type by its number in ggml.
fn dtype(id: u32) -> DType {
    match id {
        0 => DType::F32,
        1 => DType::F16,
        24 => DType::I8,
        25 => DType::I16,
        26 => DType::I32,
        27 => DType::I64,
        28 => DType::F64,
        30 => DType::BF16,
        _ => match BlockType::from_ggml(id) {
            Some(block) => DType::Block(block),
            None => DType::Other(format!("ggml type {id}").into()),
        },
    }
}

/// Returns the number of a type in ggml; `None` for a type that GGUF does not have.
pub(crate) fn ggml_type(dtype: &DType) -> Option<u32> {
    Some(match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::I8 => 24,
        DType::I16 => 25,
        DType::I32 => 26,
        DType::I64 => 27,
        DType::F64 => 28,
        DType::BF16 => 30,
        DType::Block(block) => block.ggml(),
        _ => return None,
    })
}

enum NameError {
    Read(ReadError),
    Bad(String),
}

impl NameError {
    fn or_bad(self, bad: &dyn Fn(String) -> ReadError) -> ReadError {
        match self {
            NameError::Read(error) => error,
            NameError::Bad(why) => bad(why),
        }
    }
}

fn name(cursor: &mut Cursor, what: &str) -> Result<String, NameError> {
    let length = cursor.u64().map_err(NameError::Read)?;
    if length > NAME_LIMIT {
        let why = format!("{what} claims {length} bytes, more than the limit of {NAME_LIMIT}");
        return Err(NameError::Bad(why));
    }
    let bytes = cursor.bytes(length).map_err(NameError::Read)?;
    String::from_utf8(bytes).map_err(|_| NameError::Bad(format!("{what} is not UTF-8")))
}

#[cfg(test)]
mod tests;
