//! GGUF out, from GGUF: the key-values as they are, marked tensors as Q8_0.

use crate::checkpoint::formats::gguf::{
    self, FILE_TYPE_KEY, MAGIC, Q8_0_ELEMENTS, QUANTIZATION_VERSION_KEY, ggml_type, quantize_q8_0,
};
use crate::checkpoint::{Checkpoint, Content, StoredId};
use crate::export::error::SaveError;
use crate::export::output_plan::{Entry, MadeFrom, OutFile};
use crate::export::request::Request;
use crate::plan::Plan;
use crate::quantization::{Calibration, NotQuantizable, QuantizationScheme, Quantizer, kernels};
use crate::tensor::{BlockType, DType, FloatType, TensorId, TensorInfo};
use std::collections::HashMap;

/// What Q8_0 does, in quantscope's words.
pub(super) const QUANTIZER: Quantizer = Quantizer {
    calibration: Calibration::MinMax,
    scheme: QuantizationScheme::per_block(Q8_0_ELEMENTS as u32),
};

/// `general.file_type` of a file whose tensors are mostly Q8_0.
const MOSTLY_Q8_0: u32 = 7;

/// The version of the block types.
const QUANTIZATION_VERSION: u32 = 2;

/// ggml's number of a key's value of 32 bits.
const UINT32: u32 = 4;

/// The file, and a warning for each marked tensor that stays as it is.
pub(super) fn quantized(
    checkpoint: &Checkpoint,
    plan: &Plan,
    request: &Request,
) -> Result<(OutFile, Vec<String>), SaveError> {
    let unfit = |why: String| SaveError::Unfit { path: request.out.clone(), why };
    let [shard] = checkpoint.shards() else {
        return Err(unfit("a GGUF file split into several is not written; join them first".into()));
    };
    if let Some((id, quantizer)) = plan.iter().find(|(_, q)| *q != QUANTIZER) {
        return Err(unfit(format!(
            "tensor '{}' is to be quantized {}, and Q8_0 is {}",
            checkpoint.tensor(id).name.escape_debug(),
            quantizer.scheme,
            QUANTIZER.scheme
        )));
    }
    let marked: HashMap<StoredId, TensorId> = plan
        .iter()
        .filter_map(|(id, _)| match checkpoint.content(id) {
            Content::Plain(stored) => Some((*stored, id)),
            Content::Packed(_) => None,
        })
        .collect();
    let mut warnings = Vec::new();
    let mut entries = Vec::new();
    for (id, stored) in checkpoint.all_stored() {
        let mut dtype = stored.dtype.clone();
        let mut made_from = MadeFrom::Stored(id);
        if let Some(&tensor) = marked.get(&id) {
            match why_kept(checkpoint.tensor(tensor)) {
                None => {
                    dtype = DType::Block(BlockType::Q8_0);
                    made_from = MadeFrom::Q8_0 { tensor };
                }
                Some(why) => {
                    warnings.push(format!("'{}' stays as it is: {why}", stored.name.escape_debug()))
                }
            }
        }
        let bytes = match made_from {
            MadeFrom::Stored(_) => stored.bytes(),
            _ => dtype.bytes_for(stored.shape.elements()).unwrap_or(0),
        };
        let (name, shape) = (stored.name.to_string(), stored.shape.clone());
        entries.push(Entry { name, dtype, shape, bytes, made_from });
    }
    if warnings.len() == plan.len() {
        let why = warnings.into_iter().next().unwrap_or_default();
        return Err(unfit(format!("nothing to quantize: {why}")));
    }

    let header = gguf::read(&shard.source)?;
    let handle = shard.source.open()?;
    let mut key_values = vec![0; (header.key_values.end - header.key_values.start) as usize];
    shard.source.read_exact(&handle, &mut key_values, header.key_values.start)?;
    let mut keys = header.keys;
    let mut append = |key: &str, value: u32| {
        keys += 1;
        key_values.extend((key.len() as u64).to_le_bytes());
        key_values.extend(key.bytes());
        key_values.extend(UINT32.to_le_bytes());
        key_values.extend(value.to_le_bytes());
    };
    if !header.has_quantization_version {
        append(QUANTIZATION_VERSION_KEY, QUANTIZATION_VERSION);
    }
    match header.file_type {
        None if header.metadata.iter().any(|(key, _)| key == FILE_TYPE_KEY) => {
            return Err(unfit(format!("the source's {FILE_TYPE_KEY} is not a 32-bit number")));
        }
        None => append(FILE_TYPE_KEY, MOSTLY_Q8_0),
        Some(at) => {
            let at = (at - header.key_values.start) as usize;
            if let Some(value) = key_values.get_mut(at..at + 4) {
                value.copy_from_slice(&MOSTLY_Q8_0.to_le_bytes());
            }
        }
    }

    let mut head = MAGIC.to_vec();
    head.extend(header.version.to_le_bytes());
    head.extend((entries.len() as u64).to_le_bytes());
    head.extend(keys.to_le_bytes());
    head.extend(key_values);
    let too_long = || unfit("the output would be longer than 64 bits count".into());
    let mut data = 0u64;
    let mut offsets = Vec::with_capacity(entries.len());
    for entry in &entries {
        let kind = ggml_type(&entry.dtype).ok_or_else(|| {
            let name = entry.name.escape_debug();
            unfit(format!("tensor '{name}' is of {}, whose size is not known", entry.dtype))
        })?;
        head.extend((entry.name.len() as u64).to_le_bytes());
        head.extend(entry.name.bytes());
        head.extend((entry.shape.rank() as u32).to_le_bytes());
        entry.shape.dims().iter().rev().for_each(|dim| head.extend(dim.to_le_bytes()));
        head.extend(kind.to_le_bytes());
        head.extend(data.to_le_bytes());
        offsets.push(data);
        let end = data.checked_add(entry.bytes);
        data = end
            .and_then(|end| end.checked_next_multiple_of(header.alignment))
            .ok_or_else(too_long)?;
    }
    let start = (head.len() as u64).next_multiple_of(header.alignment);
    let size = start.checked_add(data).ok_or_else(too_long)?;
    offsets.iter_mut().for_each(|offset| *offset += start);
    Ok((OutFile::placed(String::new(), head, entries, offsets, size), warnings))
}

/// Why a tensor has no Q8_0 form that llama.cpp would use, if it has none.
fn why_kept(tensor: &TensorInfo) -> Option<String> {
    if tensor.shape.rank() < 2 {
        return Some("it has fewer than two dimensions".into());
    }
    let row = tensor.shape.row_len();
    if row == 0 || !row.is_multiple_of(BlockType::Q8_0.elements()) {
        let block = BlockType::Q8_0.elements();
        return Some(format!("its rows of {row} are not a multiple of {block}"));
    }
    let kept = ["_norm", "position_embd", "token_types", "ffn_gate_inp", "ssm_conv1d"];
    let part = kept.into_iter().find(|part| tensor.name.contains(part))?;
    Some(format!("llama.cpp needs floats in '{part}' tensors"))
}

/// Replaces `out` by the blocks of whole blocks of elements.
pub(super) fn q8_0(
    dtype: FloatType,
    elements: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), NotQuantizable> {
    let mut wide = Vec::new();
    kernels::convert(dtype, elements, FloatType::F32, &mut wide);
    out.clear();
    for block in wide.chunks(Q8_0_ELEMENTS * 4) {
        let mut values = [0f32; Q8_0_ELEMENTS];
        for (value, raw) in values.iter_mut().zip(block.as_chunks().0) {
            *value = f32::from_le_bytes(*raw);
        }
        if quantize_q8_0(&values, out).is_none() {
            let range = kernels::range(dtype, elements);
            NotQuantizable::check(&range)?;
            return Err(NotQuantizable::ScaleOverflow { absmax: range.absmax() });
        }
    }
    Ok(())
}
