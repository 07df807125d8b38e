//! `gguf`: a GGUF source with its marked tensors in ggml's block types and unchanged key-values.
//! The parts of a split source become one file, or stay separate.

use crate::checkpoint::formats::gguf::{
    self, FILE_TYPE_KEY, Header, IMPORTANCE_CHUNKS_KEY, IMPORTANCE_DATASET_KEY,
    IMPORTANCE_ENTRIES_KEY, IMPORTANCE_FILE_KEY, MAGIC, QUANTIZATION_VERSION_KEY, ggml_type,
};
use crate::checkpoint::{Checkpoint, Content, Format, Source, StoredId};
use crate::export::error::SaveError;
use crate::export::formats::writer::{FormatWriter, OutputKind};
use crate::export::ggml_blocks::{INT8_BLOCKS, block_type};
use crate::export::output_plan::{Entry, MadeFrom, OutFile, OutputPlan};
use crate::export::request::Request;
use crate::plan::Plan;
use crate::plan::gguf_mix::{self, GgufMix};
use crate::plan::rules::{Reason, kept_part};
use crate::plan::target::Container;
use crate::quantization::ggml::ImportanceOrigin;
use crate::quantization::{Calibration, QuantizationScheme, Quantizer};
use crate::tensor::{BlockType, DType, FloatType, TensorId, TensorInfo};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// The version of ggml's block types.
const QUANTIZATION_VERSION: u32 = 2;

/// GGUF's type number of an unsigned 32-bit integer.
const UINT32: u32 = 4;

/// GGUF's type number of a string.
const STRING: u32 = 8;

/// Maximum length in bytes of a string about an importance matrix, as in llama.cpp.
const IMPORTANCE_TEXT_BYTES: usize = 127;

pub(super) struct Gguf;

impl FormatWriter for Gguf {
    fn name(&self) -> &'static str {
        "gguf"
    }

    fn container(&self) -> Container {
        Container::Gguf
    }

    fn output_kind(&self) -> OutputKind {
        OutputKind::FileOrDirectory("gguf")
    }

    fn default_scheme(&self, _: &Checkpoint, _: &[TensorId]) -> QuantizationScheme {
        INT8_BLOCKS
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
        if let Some((_, stored)) = checkpoint.all_stored().find(|(_, s)| s.unreadable().is_some()) {
            let (name, why) = (stored.name.escape_debug(), stored.unreadable().unwrap_or_default());
            return Err(unfit(format!("tensor '{name}' cannot be written: {why}")));
        }
        let is_stored = |quantizer: &Quantizer| {
            block_type(quantizer.scheme).is_some() && quantizer.calibration == Calibration::MinMax
        };
        if let Some((id, quantizer)) = plan.iter().find(|(_, quantizer)| !is_stored(quantizer)) {
            let name = checkpoint.tensor(id).name.escape_debug();
            return Err(unfit(match quantizer.calibration {
                Calibration::MinMax => format!(
                    "tensor '{name}' is to be quantized {}, and GGUF stores {INT8_BLOCKS} as Q8_0, or a block type such as q4_K",
                    quantizer.scheme
                ),
                other => format!(
                    "tensor '{name}' is to be calibrated by {other}, and blocks of ggml have scales of their own"
                ),
            }));
        }
        let (parts, warnings) = entries(checkpoint, plan);
        let is_block = |entry: &Entry| matches!(entry.made_from, MadeFrom::GgmlBlocks { .. });
        if !parts.iter().flatten().any(is_block) {
            let why = warnings.into_iter().next().unwrap_or_default();
            return Err(unfit(format!("nothing to quantize: {why}")));
        }
        output_plan.warnings.extend(warnings);
        let file_type = file_type(checkpoint, &parts, plan.mix);
        let importance = plan.importance.origin();
        let is_directory = output_plan.directory;
        if is_directory && checkpoint.shards().len() < 2 {
            return Err(unfit("a GGUF of one part needs a path that ends in .gguf".into()));
        }
        if !is_directory {
            // The first part has the key-values of the whole model.
            let Some(first) = checkpoint.shards().first() else { return Ok(()) };
            let head =
                FileHead::new(&first.source, SourceParts::Joined, file_type, importance, &unfit)?;
            let entries = parts.into_iter().flatten().collect();
            output_plan.files.push(head.file(String::new(), entries).map_err(unfit)?);
            return Ok(());
        }
        for (number, (shard, entries)) in checkpoint.shards().iter().zip(parts).enumerate() {
            let parts = if number == 0 { SourceParts::First } else { SourceParts::Later };
            let importance = importance.filter(|_| number == 0);
            let head = FileHead::new(&shard.source, parts, file_type, importance, &unfit)?;
            output_plan.files.push(head.file(shard.name(), entries).map_err(unfit)?);
        }
        Ok(())
    }

    /// Accepts every file, because no other library reads the format.
    fn check_container(&self, _: &Path) -> Result<(), String> {
        Ok(())
    }
}

/// The parts of the source that an output file contains.
#[derive(Clone, Copy, PartialEq)]
enum SourceParts {
    /// All parts.
    Joined,
    /// The first part, or the only one.
    First,
    Later,
}

/// Returns the tensors of each part in the source's order, and a warning for each marked tensor
/// that is not stored in blocks.
fn entries(checkpoint: &Checkpoint, plan: &Plan) -> (Vec<Vec<Entry>>, Vec<String>) {
    let marked: HashMap<StoredId, (TensorId, Quantizer)> = plan
        .iter()
        .filter_map(|(id, quantizer)| match checkpoint.content(id) {
            Content::Plain(stored) => Some((*stored, (id, quantizer))),
            Content::Packed(_) => None,
        })
        .collect();
    let mut warnings = Vec::new();
    let mut parts = vec![Vec::new(); checkpoint.shards().len()];
    for (id, stored) in checkpoint.all_stored() {
        let mut entry = Entry {
            name: stored.name.to_string(),
            dtype: stored.dtype.clone(),
            shape: stored.shape.clone(),
            bytes: stored.bytes(),
            made_from: MadeFrom::Stored(id),
        };
        if let Some(&(tensor, quantizer)) = marked.get(&id) {
            let block = block_type(quantizer.scheme).unwrap_or(BlockType::Q8_0);
            let name = stored.name.escape_debug();
            match why_kept(checkpoint.tensor(tensor), block) {
                None => {
                    entry.dtype = DType::Block(block);
                    entry.bytes = entry.dtype.bytes_for(stored.shape.elements()).unwrap_or(0);
                    entry.made_from = MadeFrom::GgmlBlocks { tensor, quantizer, block };
                }
                Some(why)
                    if quantizer.scheme.ggml().is_some()
                        && gguf_mix::becomes_f16(checkpoint, tensor) =>
                {
                    let to = FloatType::F16;
                    entry.dtype = to.dtype();
                    entry.bytes = stored.shape.elements() * to.size() as u64;
                    entry.made_from = MadeFrom::Floats { tensor, to };
                    warnings.push(format!("'{name}' becomes F16, as in llama.cpp: {why}"));
                }
                Some(why) => warnings.push(format!("'{name}' stays as it is: {why}")),
            }
        }
        if let Some(part) = parts.get_mut(stored.shard as usize) {
            part.push(entry);
        }
    }
    (parts, warnings)
}

/// Returns the file type: a number for the mix, or for the type of most of the tensors.
fn file_type(checkpoint: &Checkpoint, parts: &[Vec<Entry>], mix: Option<GgufMix>) -> u32 {
    let blocks = parts.iter().flatten().filter_map(|entry| match entry.made_from {
        MadeFrom::GgmlBlocks { tensor, block, .. } => Some((tensor, block)),
        _ => None,
    });
    let mut types: Vec<(TensorId, BlockType)> = blocks.collect();
    types.sort_by_key(|&(id, _)| id);
    gguf_mix::file_type(checkpoint, &types, mix)
}

/// The start of an output file, up to the list of tensors.
struct FileHead {
    version: u32,
    keys: u64,
    /// The source's key-values, with the file type changed and the version of the block types
    /// added.
    key_values: Vec<u8>,
    alignment: u64,
}

impl FileHead {
    fn new(
        source: &Source,
        parts: SourceParts,
        file_type: u32,
        importance: Option<&ImportanceOrigin>,
        unfit: &dyn Fn(String) -> SaveError,
    ) -> Result<FileHead, SaveError> {
        let header = gguf::read(source)?;
        let handle = source.open()?;
        let range = header.key_values.clone();
        let mut key_values = vec![0; (range.end - range.start) as usize];
        source.read_exact(&handle, &mut key_values, range.start)?;
        let Header { version, keys, alignment, .. } = header;
        let mut head = FileHead { version, keys, key_values, alignment };
        // Appending does not move the positions found in the header.
        if parts != SourceParts::Later && !header.has_quantization_version {
            head.append(QUANTIZATION_VERSION_KEY, QUANTIZATION_VERSION);
        }
        if parts != SourceParts::Later {
            head.set_file_type(&header, file_type, unfit)?;
        }
        let mut outdated = Vec::new();
        if parts == SourceParts::Joined {
            outdated.extend(header.split_keys);
        }
        if importance.is_some() {
            outdated.extend(header.importance_keys);
        }
        outdated.sort_by_key(|place| place.start);
        head.remove(&outdated, range.start);
        if let Some(origin) = importance {
            head.name_importance(origin);
        }
        Ok(head)
    }

    /// Records the importance matrix used for quantization.
    fn name_importance(&mut self, origin: &ImportanceOrigin) {
        self.append_text(IMPORTANCE_FILE_KEY, &origin.file);
        if let Some(dataset) = &origin.dataset {
            self.append_text(IMPORTANCE_DATASET_KEY, dataset);
        }
        self.append(IMPORTANCE_ENTRIES_KEY, origin.entries);
        if let Some(chunks) = origin.chunks {
            self.append(IMPORTANCE_CHUNKS_KEY, chunks);
        }
    }

    fn set_file_type(
        &mut self,
        header: &Header,
        file_type: u32,
        unfit: &dyn Fn(String) -> SaveError,
    ) -> Result<(), SaveError> {
        match header.file_type {
            None if header.metadata.iter().any(|(key, _)| key == FILE_TYPE_KEY) => {
                return Err(unfit(format!("the source's {FILE_TYPE_KEY} is not a 32-bit number")));
            }
            None => self.append(FILE_TYPE_KEY, file_type),
            Some(at) => {
                let at = (at - header.key_values.start) as usize;
                if let Some(value) = self.key_values.get_mut(at..at + 4) {
                    value.copy_from_slice(&file_type.to_le_bytes());
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, key: &str, value: u32) {
        self.keys += 1;
        self.key_values.extend((key.len() as u64).to_le_bytes());
        self.key_values.extend(key.bytes());
        self.key_values.extend(UINT32.to_le_bytes());
        self.key_values.extend(value.to_le_bytes());
    }

    fn append_text(&mut self, key: &str, text: &str) {
        let ends = (0..=IMPORTANCE_TEXT_BYTES.min(text.len())).rev();
        let end = ends.into_iter().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        let text = text.get(..end).unwrap_or_default();
        self.keys += 1;
        self.key_values.extend((key.len() as u64).to_le_bytes());
        self.key_values.extend(key.bytes());
        self.key_values.extend(STRING.to_le_bytes());
        self.key_values.extend((text.len() as u64).to_le_bytes());
        self.key_values.extend(text.bytes());
    }

    /// Removes key-values, given by their byte ranges in the source's file, where the first
    /// key-value is at `start`.
    fn remove(&mut self, ranges: &[Range<u64>], start: u64) {
        for range in ranges.iter().rev() {
            let range = (range.start - start) as usize..(range.end - start) as usize;
            self.key_values.drain(range);
            self.keys -= 1;
        }
    }

    /// Builds the file with the given entries.
    fn file(self, name: String, entries: Vec<Entry>) -> Result<OutFile, String> {
        let FileHead { version, keys, key_values, alignment } = self;
        let mut head = MAGIC.to_vec();
        head.extend(version.to_le_bytes());
        head.extend((entries.len() as u64).to_le_bytes());
        head.extend(keys.to_le_bytes());
        head.extend(key_values);
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
            let end = end.and_then(|end| end.checked_next_multiple_of(alignment));
            data = end.ok_or_else(too_long)?;
        }
        let start = (head.len() as u64).next_multiple_of(alignment);
        let size = start.checked_add(data).ok_or_else(too_long)?;
        offsets.iter_mut().for_each(|offset| *offset += start);
        Ok(OutFile::placed(name, head, entries, offsets, size))
    }
}

/// Returns why llama.cpp cannot use a tensor in a block type, if so.
fn why_kept(tensor: &TensorInfo, block: BlockType) -> Option<String> {
    if tensor.shape.rank() < 2 {
        return Some("it has fewer than two dimensions".into());
    }
    let row = tensor.shape.row_len();
    if row == 0 || !row.is_multiple_of(block.elements()) {
        let block = block.elements();
        return Some(format!("its rows of {row} are not a multiple of {block}"));
    }
    kept_part(&tensor.name).map(|part| Reason::KeptByLlamaCpp(part).to_string())
}
