//! Converts rows of elements to blocks and back.

use crate::quantization::ggml::importance::RowImportance;
use crate::quantization::ggml::table::{ImportanceUse, codec};
use crate::quantization::{NotQuantizable, QuantizationScheme, kernels};
use crate::tensor::{BlockType, FloatType};
use std::cell::Cell;

/// From this magnitude a scale may be infinite as F16.
pub(crate) const CHECKED_FROM: f32 = 32768.0;

/// Why rows cannot be quantized, or blocks not decoded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum BlockError {
    #[error("{0} blocks are not decoded")]
    NotDecoded(BlockType),
    #[error("{0} blocks are not written")]
    NotWritten(BlockType),
    #[error("rows of {found} elements are not whole blocks of {block}, which have {}", block.elements())]
    Row { block: BlockType, found: u64 },
    #[error("{block} needs the importance of the elements, as ggml does")]
    NoImportance { block: BlockType },
    #[error("the importance has {found} elements where a row has {expected}")]
    Importance { expected: u64, found: u64 },
    #[error("{found} bytes are not whole blocks of {block}, which have {}", block.bytes())]
    Bytes { block: BlockType, found: u64 },
    #[error(transparent)]
    NotQuantizable(#[from] NotQuantizable),
}

impl BlockError {
    /// Adds the number of preceding elements to the index in the error.
    fn after(self, elements: u64) -> BlockError {
        match self {
            BlockError::NotQuantizable(why) => why.after(elements).into(),
            other => other,
        }
    }

    /// Converts the error to the reason why a tensor cannot be quantized as `block`.
    pub(crate) fn not_quantizable(self, block: BlockType) -> NotQuantizable {
        match self {
            BlockError::NotQuantizable(why) => why,
            other => NotQuantizable::SchemeDoesNotFit {
                scheme: QuantizationScheme::Ggml(block),
                why: other.to_string(),
            },
        }
    }
}

/// Returns how a type uses importance; `None` if it cannot be written.
pub fn importance_use(block: BlockType) -> Option<ImportanceUse> {
    Some(codec(block)?.quantize?.1)
}

/// Quantizes rows of `row_len` elements and appends the blocks, bit for bit like ggml 0.26's
/// `ggml_quantize_chunk` without fused multiply-add. `importance` is the importance of the elements
/// of each row: the mean square of the inputs they are multiplied with.
///
/// ```
/// use quantscope::quantization::ggml::{dequantize_blocks, quantize_rows};
/// use quantscope::tensor::BlockType;
///
/// let row: Vec<f32> = (-16..16).map(|n| n as f32).collect();
/// let (mut blocks, mut decoded) = (Vec::new(), Vec::new());
/// quantize_rows(BlockType::Q8_0, &row, 32, None, &mut blocks)?;
/// dequantize_blocks(BlockType::Q8_0, &blocks, &mut decoded)?;
/// assert_eq!(blocks.len(), 34);
/// assert!((decoded[0] + 16.0).abs() < 0.01);
/// # Ok::<(), quantscope::quantization::ggml::BlockError>(())
/// ```
///
/// # Errors
///
/// - The type cannot be written, or requires an importance.
/// - A row does not consist of whole blocks.
/// - An element is not finite, or a scale is too large for F16.
pub fn quantize_rows(
    block: BlockType,
    rows: &[f32],
    row_len: usize,
    importance: Option<&[f32]>,
    out: &mut Vec<u8>,
) -> Result<(), BlockError> {
    let codec = codec(block).and_then(|codec| Some((codec.decode, codec.quantize?)));
    let Some((decode, (quantize, importance_use))) = codec else {
        return Err(BlockError::NotWritten(block));
    };
    let block_len = block.elements() as usize;
    if row_len == 0 || !row_len.is_multiple_of(block_len) || !rows.len().is_multiple_of(row_len) {
        return Err(BlockError::Row { block, found: row_len as u64 });
    }
    match importance {
        None if importance_use == ImportanceUse::Required => {
            return Err(BlockError::NoImportance { block });
        }
        Some(importance) if importance.len() != row_len => {
            let (expected, found) = (row_len as u64, importance.len() as u64);
            return Err(BlockError::Importance { expected, found });
        }
        _ => {}
    }
    let range = kernels::range(FloatType::F32, bytemuck::cast_slice(rows));
    NotQuantizable::check(&range)?;
    out.reserve(rows.len() / block_len * block.bytes() as usize);
    let start = out.len();
    match importance {
        Some(_) => rows.chunks_exact(row_len).for_each(|row| quantize(row, importance, out)),
        None => quantize(rows, None, out),
    }
    if range.absmax() >= f64::from(CHECKED_FROM) {
        let mut decoded = vec![0f32; block_len];
        for block in out.get(start..).unwrap_or_default().chunks_exact(block.bytes() as usize) {
            decode(block, &mut decoded);
            if !decoded.iter().all(|x| x.is_finite()) {
                return Err(NotQuantizable::ScaleOverflow { absmax: range.absmax() }.into());
            }
        }
    }
    Ok(())
}

/// Memory for a chunk of a tensor that a thread uses again for its next chunk: new memory would be
/// cleared by the system page by page.
#[derive(Debug, Default)]
pub(crate) struct ChunkMemory {
    /// The elements.
    pub values: Vec<f32>,
    /// Their blocks.
    pub blocks: Vec<u8>,
    /// The elements decoded from the blocks, by [`decode_blocks`].
    pub decoded: Vec<f32>,
}

thread_local! {
    static CHUNK_MEMORY: Cell<ChunkMemory> = Cell::default();
}

impl ChunkMemory {
    /// Calls `f` with this thread's memory, in which `values` are little-endian elements of any
    /// type converted to F32.
    pub(crate) fn with<R>(
        dtype: FloatType,
        elements: &[u8],
        f: impl FnOnce(&mut ChunkMemory) -> R,
    ) -> R {
        let mut memory = CHUNK_MEMORY.take();
        memory.values.resize(elements.len() / dtype.size(), 0.0);
        kernels::widen(dtype, elements, &mut memory.values);
        memory.blocks.clear();
        let result = f(&mut memory);
        CHUNK_MEMORY.set(memory);
        result
    }
}

/// Like [`quantize_part`], for little-endian elements of any type, which are rounded to F32 first.
///
/// # Errors
///
/// Those of [`quantize_rows`].
pub(crate) fn quantize_elements(
    block: BlockType,
    (dtype, elements): (FloatType, &[u8]),
    start: u64,
    importance: Option<RowImportance>,
    out: &mut Vec<u8>,
) -> Result<(), BlockError> {
    ChunkMemory::with(dtype, elements, |memory| {
        quantize_part(block, &memory.values, start, importance, out)
    })
}

/// Quantizes a part of a tensor from element `start` and appends the blocks. The part must consist
/// of whole rows if the type uses importance, else of whole blocks, which are independent of the
/// rest of their row.
///
/// # Errors
///
/// Those of [`quantize_rows`].
pub(crate) fn quantize_part(
    block: BlockType,
    values: &[f32],
    start: u64,
    importance: Option<RowImportance>,
    out: &mut Vec<u8>,
) -> Result<(), BlockError> {
    let is_used = importance_use(block) != Some(ImportanceUse::Ignored);
    let Some(importance) = importance.filter(|_| is_used) else {
        return quantize_rows(block, values, block.elements() as usize, None, out);
    };
    let row_len = importance.row_len();
    let (mut done, mut rest) = (0u64, values);
    while !rest.is_empty() {
        let (columns, rows) = importance.at_row((start + done) / row_len as u64);
        let alike = rows.saturating_mul(row_len).min(rest.len());
        let (part, later) = rest.split_at(alike);
        quantize_rows(block, part, row_len, Some(columns), out).map_err(|why| why.after(done))?;
        (done, rest) = (done + alike as u64, later);
    }
    Ok(())
}

/// Decodes blocks and appends the elements, bit for bit like ggml.
///
/// # Errors
///
/// The type cannot be decoded, or the bytes are not whole blocks.
pub fn dequantize_blocks(
    block: BlockType,
    bytes: &[u8],
    out: &mut Vec<f32>,
) -> Result<(), BlockError> {
    let start = out.len();
    out.resize(start.saturating_add(decoded_len(block, bytes)?), 0.0);
    decode(block, bytes, out.get_mut(start..).unwrap_or_default())
}

/// Like [`dequantize_blocks`], but replaces the contents of `out`.
///
/// # Errors
///
/// Those of [`dequantize_blocks`].
pub(crate) fn decode_blocks(
    block: BlockType,
    bytes: &[u8],
    out: &mut Vec<f32>,
) -> Result<(), BlockError> {
    out.resize(decoded_len(block, bytes)?, 0.0);
    decode(block, bytes, out)
}

/// Returns the number of elements in blocks.
fn decoded_len(block: BlockType, bytes: &[u8]) -> Result<usize, BlockError> {
    if !(bytes.len() as u64).is_multiple_of(block.bytes()) {
        return Err(BlockError::Bytes { block, found: bytes.len() as u64 });
    }
    Ok((bytes.len() as u64 / block.bytes() * block.elements()) as usize)
}

/// Decodes blocks to `out`, which has their number of elements.
fn decode(block: BlockType, bytes: &[u8], out: &mut [f32]) -> Result<(), BlockError> {
    (codec(block).ok_or(BlockError::NotDecoded(block))?.decode)(bytes, out);
    Ok(())
}
