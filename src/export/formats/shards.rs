//! The shards of a safetensors output: entries, headers, names, and the index.

use crate::checkpoint::formats::safetensors::header_bytes;
use crate::checkpoint::packed::{METADATA_KEY, QuantizedMetadata, QuantizedTensorMetadata};
use crate::checkpoint::{Checkpoint, Content, Format, Shard, StoredId, has_extension, python_json};
use crate::export::error::SaveError;
use crate::export::left_out::{self, is_left_out};
use crate::export::output_plan::{Entry, MadeFrom, OutFile, OutputPlan, TextFile};
use crate::quantization::Rounding;
use crate::tensor::{DType, TensorId};
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use rayon::prelude::*;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// The entries of each shard, in the source's order.
pub(super) type Shards = Vec<Vec<Entry>>;

/// A file's `__metadata__`, in file order.
pub(super) type FileMetadata = Vec<(String, String)>;

/// Tensors per parallel task; smaller tasks cost more to start than they save.
const TENSORS_PER_TASK: usize = 1024;

/// The metadata key for the framework that wrote a file.
const FRAMEWORK_KEY: &str = "format";

/// Returns every stored tensor in order, with the tensor that it holds or is the first part of, and
/// whether it is part of a packed tensor.
fn stored_with_tensors(
    checkpoint: &Checkpoint,
) -> impl Iterator<Item = (StoredId, Option<TensorId>, bool)> {
    let mut first_parts = HashMap::new();
    let mut parts = HashSet::new();
    for id in checkpoint.ids() {
        match checkpoint.content(id) {
            Content::Plain(stored) => _ = first_parts.insert(*stored, id),
            Content::Packed(layout) => {
                let mut all = layout.parts();
                all.sort();
                first_parts.extend(all.first().map(|first| (*first, id)));
                parts.extend(all);
            }
        }
    }
    checkpoint.all_stored().map(move |(stored, _)| {
        (stored, first_parts.get(&stored).copied(), parts.contains(&stored))
    })
}

fn copied(checkpoint: &Checkpoint, id: StoredId) -> Entry {
    let stored = checkpoint.stored(id);
    Entry {
        name: stored.name.to_string(),
        dtype: stored.dtype.clone(),
        shape: stored.shape.clone(),
        bytes: stored.bytes(),
        made_from: MadeFrom::Stored(id),
    }
}

/// Returns the entries that replace each stored tensor, shard by shard. `change` gets the tensor
/// that the stored tensor holds, and whether it is part of a packed one; it returns `None` to copy
/// it. Tensors that no output holds are left out.
pub(super) fn entries(
    checkpoint: &Checkpoint,
    change: impl Fn(Option<TensorId>, bool) -> Option<Vec<Entry>> + Sync,
) -> Shards {
    let all: Vec<_> = stored_with_tensors(checkpoint).collect();
    let made = all.par_iter().with_min_len(TENSORS_PER_TASK).map(|&(stored, tensor, is_part)| {
        if is_left_out(checkpoint, checkpoint.stored(stored)) {
            return Vec::new();
        }
        change(tensor, is_part).unwrap_or_else(|| vec![copied(checkpoint, stored)])
    });
    let made: Vec<Vec<Entry>> = made.collect();
    let mut shards = vec![Vec::new(); checkpoint.shards().len()];
    for ((stored, ..), made) in all.into_iter().zip(made) {
        if let Some(shard) = shards.get_mut(checkpoint.stored(stored).shard as usize) {
            shard.extend(made);
        }
    }
    shards
}

/// Lays out `shards` as the files of the output: with the names of the source's files if the output
/// is a directory, else in one file. `edit_metadata` converts the source's `__metadata__` to that
/// of a file with the given entries.
pub(super) fn lay_out(
    checkpoint: &Checkpoint,
    shards: Shards,
    edit_metadata: &(dyn Fn(FileMetadata, &[Entry]) -> FileMetadata + Sync),
    output_plan: &mut OutputPlan,
) -> Result<(), SaveError> {
    can_hold(checkpoint, &shards)?;
    let left_out = left_out::warnings(checkpoint);
    if let (true, Some(why)) = (shards.iter().all(Vec::is_empty), left_out.first()) {
        let why = format!("there is no tensor to save: {why}");
        return Err(SaveError::Unfit { path: checkpoint.path().to_owned(), why });
    }
    output_plan.warnings.extend(left_out);
    output_plan.warnings.extend(shared_elements(checkpoint));
    let sources = checkpoint.shards();
    // The metadata of other formats has another meaning.
    let is_safetensors = checkpoint.format() == Format::Safetensors;
    let file = |name: String, metadata: FileMetadata, entries: Vec<Entry>| {
        let entries = aligned(entries);
        let mut metadata = edit_metadata(metadata, &entries);
        name_framework(checkpoint, &mut metadata);
        let listed = entries.iter().map(|e| (e.name.as_str(), &e.dtype, &e.shape, e.bytes));
        let head = header_bytes(&metadata, listed);
        OutFile::contiguous(name, head, entries)
    };
    if output_plan.directory {
        let keeps_names = is_safetensors && !checkpoint.joins_parts();
        // A file may be empty: all its tensors may start in other files, or it may be the first
        // part of a split GGUF with key-values only.
        let is_needed =
            |entries: &Vec<Entry>| keeps_names || sources.len() == 1 || !entries.is_empty();
        let kept: Vec<_> = sources.iter().zip(shards).filter(|(_, e)| is_needed(e)).collect();
        let count = kept.len();
        output_plan.files.par_extend(kept.into_par_iter().enumerate().map(
            |(at, (source, entries))| {
                let number = at + 1;
                let name = match count {
                    _ if keeps_names && has_extension(source.source.path(), "safetensors") => {
                        name_inside(checkpoint, source)
                    }
                    1 => "model.safetensors".to_owned(),
                    all => format!("model-{number:05}-of-{all:05}.safetensors"),
                };
                let metadata = if is_safetensors { source.metadata.clone() } else { Vec::new() };
                file(name, metadata, entries)
            },
        ));
        output_plan.texts.extend(index(checkpoint, &output_plan.files));
        return Ok(());
    }
    let mut metadata = FileMetadata::new();
    for (key, value) in sources.iter().filter(|_| is_safetensors).flat_map(|s| &s.metadata) {
        match metadata.iter_mut().find(|(k, _)| k == key) {
            Some((key, present)) if key == METADATA_KEY => *present = joined(present, value),
            Some(_) => {}
            None => metadata.push((key.clone(), value.clone())),
        }
    }
    output_plan.files.push(file(String::new(), metadata, shards.into_iter().flatten().collect()));
    Ok(())
}

/// Lays out `shards` like [`lay_out`], with quantscope's description of the quantized tensors under
/// `key`.
pub(super) fn lay_out_described(
    checkpoint: &Checkpoint,
    rounding: Rounding,
    shards: Shards,
    key: &str,
    output_plan: &mut OutputPlan,
) -> Result<(), SaveError> {
    let describe = |mut metadata, entries: &[Entry]| {
        let tensors = quantized_metadata(checkpoint, entries);
        describe_tensors(&mut metadata, key, rounding, tensors);
        metadata
    };
    lay_out(checkpoint, shards, &describe, output_plan)
}

/// Returns the path of a source file relative to the model's directory, with `/` as separator.
fn name_inside(checkpoint: &Checkpoint, shard: &Shard) -> String {
    let inside = checkpoint
        .directory()
        .and_then(|directory| shard.source.path().strip_prefix(directory).ok());
    let parts = inside.into_iter().flatten().map(|part| part.to_string_lossy());
    let name = parts.collect::<Vec<_>>().join("/");
    if name.is_empty() { shard.name() } else { name }
}

/// Adds the framework if the source does not name it. transformers 4.57 rejects a file with
/// metadata that lacks it, so it is added to every model with a config or from PyTorch.
fn name_framework(checkpoint: &Checkpoint, metadata: &mut FileMetadata) {
    let has_config = || checkpoint.model_config().is_ok_and(|config| config.is_some());
    let needs_it = !metadata.is_empty() || checkpoint.format() == Format::PyTorch || has_config();
    if needs_it && !metadata.iter().any(|(key, _)| key == FRAMEWORK_KEY) {
        metadata.push((FRAMEWORK_KEY.to_owned(), "pt".to_owned()));
    }
}

/// Adds quantscope's description of the quantized `tensors` under `key`.
fn describe_tensors(
    metadata: &mut FileMetadata,
    key: &str,
    rounding: Rounding,
    tensors: BTreeMap<String, QuantizedTensorMetadata>,
) {
    if tensors.is_empty() {
        return;
    }
    let text = description(rounding, tensors);
    match metadata.iter_mut().find(|(k, _)| k == key) {
        Some((_, present)) => *present = joined(&text, present),
        None => metadata.push((key.to_owned(), text)),
    }
}

/// Returns the metadata of quantized entries by tensor name.
fn quantized_metadata(
    checkpoint: &Checkpoint,
    entries: &[Entry],
) -> BTreeMap<String, QuantizedTensorMetadata> {
    let quantized = entries.iter().filter_map(|entry| {
        let (id, quantizer) = entry.quantizer()?;
        let tensor = checkpoint.tensor(id);
        Some((tensor.name.to_string(), QuantizedTensorMetadata::new(quantizer, &tensor.dtype)))
    });
    quantized.collect()
}

/// Formats quantscope's metadata of quantized tensors as JSON.
pub(super) fn description(
    rounding: Rounding,
    tensors: BTreeMap<String, QuantizedTensorMetadata>,
) -> String {
    let version = QuantizedMetadata::VERSION;
    let metadata = QuantizedMetadata { version, rounding: rounding.name().to_owned(), tensors };
    // Serializing strings and numbers cannot fail.
    serde_json::to_string(&metadata).unwrap_or_default()
}

/// Merges quantscope's metadata of two shards.
fn joined(a: &str, b: &str) -> String {
    let parsed = |text| serde_json::from_str::<QuantizedMetadata>(text).ok();
    match (parsed(a), parsed(b)) {
        (Some(mut a), Some(b)) => {
            a.tensors.extend(b.tensors);
            serde_json::to_string(&a).unwrap_or_default()
        }
        _ => a.to_owned(),
    }
}

/// Checks that safetensors has the types of all tensors.
fn can_hold(checkpoint: &Checkpoint, shards: &Shards) -> Result<(), SaveError> {
    let from_elsewhere = checkpoint.format() != Format::Safetensors;
    let unknown = |dtype: &DType| match dtype {
        DType::Block(_) => true,
        DType::Other(_) => from_elsewhere,
        _ => false,
    };
    let Some(entry) = shards.iter().flatten().find(|entry| unknown(&entry.dtype)) else {
        return Ok(());
    };
    Err(SaveError::Unfit {
        path: checkpoint.path().to_owned(),
        why: format!(
            "tensor '{}' has type {}; safetensors has no such type",
            entry.name.escape_debug(),
            entry.dtype
        ),
    })
}

/// Orders entries so that each starts at a multiple of its element size, which readers that map the
/// file rely on. Uses the first of these orders that achieves this: the source's order; the
/// source's order with all scales and then all values moved to the end; by decreasing element size,
/// like the safetensors crate.
fn aligned(entries: Vec<Entry>) -> Vec<Entry> {
    let size = |entry: &Entry| entry.dtype.bits().map_or(1, |bits| (bits / 8).max(1));
    let is_aligned = |entries: &[Entry]| {
        let mut at = 0u64;
        entries.iter().all(|entry| {
            let fits = at.is_multiple_of(size(entry));
            at += entry.bytes;
            fits
        })
    };
    if is_aligned(&entries) {
        return entries;
    }
    let mut behind = entries.clone();
    behind.sort_by_key(|entry| match entry.made_from {
        MadeFrom::Scales { .. } | MadeFrom::Biases { .. } => 1,
        MadeFrom::Values { .. } => 2,
        _ => 0,
    });
    if is_aligned(&behind) {
        return behind;
    }
    let mut falling = entries;
    falling.sort_by_key(|entry| std::cmp::Reverse(size(entry)));
    falling
}

/// Returns a warning about tensors that share bytes of their file; each is written separately.
fn shared_elements(checkpoint: &Checkpoint) -> Option<String> {
    let mut ranges: Vec<_> = checkpoint
        .all_stored()
        .filter(|(_, s)| !is_left_out(checkpoint, s))
        .map(|(_, s)| (s.shard, s.range.start, s.range.end, &s.name))
        .collect();
    ranges.sort();
    let overlap = ranges.windows(2).filter_map(|pair| match pair {
        [a, b] if a.0 == b.0 && b.1 < a.2 && b.1 < b.2 => Some((a.3, b.3)),
        _ => None,
    });
    let pairs: Vec<_> = overlap.collect();
    let (a, b) = pairs.first()?;
    let (a, b) = (a.escape_debug(), b.escape_debug());
    Some(match pairs.len() {
        1 => format!("'{a}' and '{b}' share their elements; each is written separately"),
        n => format!(
            "'{a}' and '{b}', and {} more tensors, share elements; each is written separately",
            n - 1
        ),
    })
}

/// The content of an index of shards.
#[derive(Serialize)]
struct IndexFile<'i> {
    metadata: serde_json::Map<String, serde_json::Value>,
    #[serde(serialize_with = "as_map")]
    weight_map: Vec<(&'i str, &'i str)>,
}

fn as_map<S: Serializer>(pairs: &[(&str, &str)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().copied())
}

/// Returns the index of the shards if there are several or the source has one.
fn index<'f>(checkpoint: &Checkpoint, files: &'f [OutFile]) -> Option<TextFile> {
    let source = checkpoint.index();
    if source.is_none() && files.len() < 2 {
        return None;
    }
    let kept = source.filter(|_| checkpoint.format() == Format::Safetensors);
    let name = match kept {
        Some(index) => index.path.file_name()?.to_string_lossy().into_owned(),
        None => "model.safetensors.index.json".to_owned(),
    };
    let names = |file: &'f OutFile| file.entries.iter().map(|e| (e.name.as_str(), &*file.name));
    let mut weight_map: Vec<(&str, &str)> = files.iter().flat_map(names).collect();
    weight_map.par_sort_unstable();
    weight_map.dedup_by_key(|(tensor, _)| *tensor);
    let total: u64 = files.iter().flat_map(|f| &f.entries).map(|e| e.bytes).sum();
    let mut metadata = source.map(|index| index.metadata.clone()).unwrap_or_default();
    metadata.insert("total_size".into(), total.into());
    let json = serde_json::to_string_pretty(&IndexFile { metadata, weight_map });
    let text = python_json::from_json(json.unwrap_or_default()) + "\n";
    Some(TextFile { name, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::packed::Int8Values;
    use crate::quantization::{Calibration, QuantizationScheme, Quantizer};
    use crate::tensor::Shape;

    fn entry(name: &str, dtype: DType, bytes: u64, made_from: MadeFrom) -> Entry {
        let shape = Shape::vector(bytes * 8 / dtype.bits().unwrap_or(8));
        Entry { name: name.into(), dtype, shape, bytes, made_from }
    }

    #[test]
    fn entries_are_reordered_only_for_alignment() {
        let id = TensorId(0);
        let quantizer =
            Quantizer { calibration: Calibration::MinMax, scheme: QuantizationScheme::PER_TENSOR };
        let kept = |name, dtype, bytes| entry(name, dtype, bytes, MadeFrom::Stored(StoredId(0)));
        let values = |n| {
            let stored_as = Int8Values::Signed;
            entry("v", DType::I8, n, MadeFrom::Values { tensor: id, quantizer, stored_as })
        };
        let scales = || entry("s", DType::F32, 4, MadeFrom::Scales { tensor: id });
        let order = |entries: Vec<Entry>| {
            aligned(entries).iter().map(|e| e.name.clone()).collect::<Vec<_>>().join("")
        };
        assert_eq!(
            order(vec![kept("a", DType::F32, 8), values(8), scales(), kept("b", DType::F16, 2)]),
            "avsb"
        );
        assert_eq!(
            order(vec![kept("a", DType::I64, 8), values(8), scales(), kept("b", DType::I64, 8)]),
            "absv"
        );
        assert_eq!(
            order(vec![kept("a", DType::F16, 2), values(7), scales(), kept("b", DType::F64, 8)]),
            "bsav"
        );
    }
}
