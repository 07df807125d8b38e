//! `gguf`: a GGUF source with its marked tensors as Q8_0 and its key-values unchanged.

use crate::checkpoint::formats::gguf::{
    self, FILE_TYPE_KEY, Header, MAGIC, QUANTIZATION_VERSION_KEY, ggml_type,
};
use crate::checkpoint::{Checkpoint, Content, Format, Source, StoredId};
use crate::export::error::SaveError;
use crate::export::formats::writer::{FormatWriter, OutputKind};
use crate::export::output_plan::{Entry, MadeFrom, OutFile, OutputPlan};
use crate::export::q8_0;
use crate::export::request::Request;
use crate::plan::Plan;
use crate::quantization::{QuantizationScheme, ScaleStorage};
use crate::tensor::{BlockType, DType, TensorId, TensorInfo};
use std::collections::HashMap;

/// `general.file_type` of a file whose tensors are mostly Q8_0.
const MOSTLY_Q8_0: u32 = 7;

/// The version of ggml's block types.
const QUANTIZATION_VERSION: u32 = 2;

/// GGUF's number for a value that is an unsigned 32-bit integer.
const UINT32: u32 = 4;

pub(super) struct Gguf;

impl FormatWriter for Gguf {
    fn name(&self) -> &'static str {
        "gguf"
    }

    fn summary(&self) -> &'static str {
        "Q8_0 for llama.cpp, from a GGUF file of floats"
    }

    fn output_kind(&self) -> OutputKind {
        OutputKind::File("gguf")
    }

    fn default_scheme(&self, _: &Checkpoint, _: &[TensorId]) -> QuantizationScheme {
        q8_0::QUANTIZER.scheme
    }

    fn scale_storage(&self) -> ScaleStorage {
        ScaleStorage::F16
    }

    fn checkpoint_obstacle(&self, checkpoint: &Checkpoint) -> Option<String> {
        (checkpoint.format() != Format::Gguf).then(|| {
            format!(
                "only GGUF becomes GGUF, and this is {}; for llama.cpp save it as int8, which its converter takes",
                checkpoint.format().name()
            )
        })
    }

    fn lay_out(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        request: &Request,
        output_plan: &mut OutputPlan,
    ) -> Result<(), SaveError> {
        let unfit = |why: String| SaveError::Unfit { path: request.out.clone(), why };
        let [shard] = checkpoint.shards() else {
            let why = "a GGUF file split into several is not written; join them first";
            return Err(unfit(why.into()));
        };
        if let Some((id, quantizer)) = plan.iter().find(|(_, q)| *q != q8_0::QUANTIZER) {
            return Err(unfit(format!(
                "tensor '{}' is to be quantized {}, and Q8_0 is {}",
                checkpoint.tensor(id).name.escape_debug(),
                quantizer.scheme,
                q8_0::QUANTIZER.scheme
            )));
        }
        let (entries, warnings) = entries(checkpoint, plan);
        if warnings.len() == plan.len() {
            let why = warnings.into_iter().next().unwrap_or_default();
            return Err(unfit(format!("nothing to quantize: {why}")));
        }
        output_plan.warnings.extend(warnings);
        let header = gguf::read(&shard.source)?;
        let (keys, key_values) = key_values(&header, &shard.source, &unfit)?;
        let mut head = MAGIC.to_vec();
        head.extend(header.version.to_le_bytes());
        head.extend((entries.len() as u64).to_le_bytes());
        head.extend(keys.to_le_bytes());
        head.extend(key_values);
        output_plan.files.push(file(head, entries, header.alignment).map_err(unfit)?);
        Ok(())
    }
}

/// The tensors in the source's order, and a warning for each marked one that stays as it is.
fn entries(checkpoint: &Checkpoint, plan: &Plan) -> (Vec<Entry>, Vec<String>) {
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
        let mut entry = Entry {
            name: stored.name.to_string(),
            dtype: stored.dtype.clone(),
            shape: stored.shape.clone(),
            bytes: stored.bytes(),
            made_from: MadeFrom::Stored(id),
        };
        if let Some(&tensor) = marked.get(&id) {
            match why_kept(checkpoint.tensor(tensor)) {
                None => {
                    entry.dtype = DType::Block(BlockType::Q8_0);
                    entry.bytes = entry.dtype.bytes_for(stored.shape.elements()).unwrap_or(0);
                    entry.made_from = MadeFrom::Q8_0 { tensor };
                }
                Some(why) => {
                    warnings.push(format!("'{}' stays as it is: {why}", stored.name.escape_debug()))
                }
            }
        }
        entries.push(entry);
    }
    (entries, warnings)
}

/// The output's number of key-values and their bytes: the source's, with the file type
/// changed and the version of the block types added.
fn key_values(
    header: &Header,
    source: &Source,
    unfit: &dyn Fn(String) -> SaveError,
) -> Result<(u64, Vec<u8>), SaveError> {
    let handle = source.open()?;
    let range = &header.key_values;
    let mut key_values = vec![0; (range.end - range.start) as usize];
    source.read_exact(&handle, &mut key_values, range.start)?;
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
            let at = (at - range.start) as usize;
            if let Some(value) = key_values.get_mut(at..at + 4) {
                value.copy_from_slice(&MOSTLY_Q8_0.to_le_bytes());
            }
        }
    }
    Ok((keys, key_values))
}

/// A file of `entries`. `head`: its bytes up to the list of tensors.
fn file(mut head: Vec<u8>, entries: Vec<Entry>, alignment: u64) -> Result<OutFile, String> {
    let too_long = || "the output would be longer than 64 bits count".to_owned();
    let mut data = 0u64;
    let mut offsets = Vec::with_capacity(entries.len());
    for entry in &entries {
        let kind = ggml_type(&entry.dtype).ok_or_else(|| {
            let name = entry.name.escape_debug();
            format!("tensor '{name}' has type {}, whose size is not known", entry.dtype)
        })?;
        head.extend((entry.name.len() as u64).to_le_bytes());
        head.extend(entry.name.bytes());
        head.extend((entry.shape.rank() as u32).to_le_bytes());
        entry.shape.dims().iter().rev().for_each(|dim| head.extend(dim.to_le_bytes()));
        head.extend(kind.to_le_bytes());
        head.extend(data.to_le_bytes());
        offsets.push(data);
        let end = data.checked_add(entry.bytes);
        data = end.and_then(|end| end.checked_next_multiple_of(alignment)).ok_or_else(too_long)?;
    }
    let start = (head.len() as u64).next_multiple_of(alignment);
    let size = start.checked_add(data).ok_or_else(too_long)?;
    offsets.iter_mut().for_each(|offset| *offset += start);
    Ok(OutFile::placed(String::new(), head, entries, offsets, size))
}

/// Why llama.cpp would not use a tensor as Q8_0, if it would not.
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
