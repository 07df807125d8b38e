//! safetensors out: int8 values with their scales beside them, floats that went through
//! int8, and floats given back.

use crate::checkpoint::formats::safetensors;
use crate::checkpoint::packed::{
    CALIBRATION_KEY, FAKE_METADATA_KEY, Int8Values, METADATA_KEY, QuantizedMetadata,
    QuantizedTensorMetadata, ROUNDING_KEY, SCALE_SUFFIX, calibration_metadata,
};
use crate::checkpoint::python_json;
use crate::checkpoint::{Checkpoint, Content, Format, StoredId, qat};
use crate::export::error::SaveError;
use crate::export::left_out::is_left_out;
use crate::export::output_plan::{Entry, MadeFrom, OutFile, TextFile};
use crate::export::request::{OutputFormat, Request, Task};
use crate::plan::Plan;
use crate::quantization::Rounding;
use crate::tensor::{DType, FloatType, TensorId};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The entries of each shard of the source, in its order.
pub(super) type Shards = Vec<Vec<Entry>>;

/// Every stored tensor in order, with the tensor it is the whole of, or the first part of.
fn stored_with_tensors(
    checkpoint: &Checkpoint,
) -> impl Iterator<Item = (StoredId, Option<TensorId>, bool)> {
    let mut whole = HashMap::new();
    let mut parts = HashSet::new();
    for id in checkpoint.ids() {
        match checkpoint.content(id) {
            Content::Plain(stored) => _ = whole.insert(*stored, id),
            Content::Packed(layout) => {
                let mut all = layout.parts();
                all.sort();
                whole.extend(all.first().map(|first| (*first, id)));
                parts.extend(all);
            }
        }
    }
    checkpoint
        .all_stored()
        .map(move |(stored, _)| (stored, whole.get(&stored).copied(), parts.contains(&stored)))
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

/// What `change` makes of each stored tensor, shard by shard; `None`: it stays as it is.
/// Tensors that no output holds are left out.
pub(super) fn entries(
    checkpoint: &Checkpoint,
    change: impl Fn(Option<TensorId>, bool) -> Option<Vec<Entry>>,
) -> Shards {
    let mut shards = vec![Vec::new(); checkpoint.shards().len()];
    for (stored, tensor, is_part) in stored_with_tensors(checkpoint) {
        if is_left_out(checkpoint, checkpoint.stored(stored)) {
            continue;
        }
        let made = change(tensor, is_part).unwrap_or_else(|| vec![copied(checkpoint, stored)]);
        if let Some(shard) = shards.get_mut(checkpoint.stored(stored).shard as usize) {
            shard.extend(made);
        }
    }
    shards
}

/// Marked tensors as I8 values followed by their F32 scales.
pub(super) fn quantized(
    checkpoint: &Checkpoint,
    plan: &Plan,
    request: &Request,
) -> Result<Shards, SaveError> {
    let names: HashSet<&str> = checkpoint.all_stored().map(|(_, s)| s.name.as_str()).collect();
    for (id, _) in plan.iter() {
        let scale = format!("{}{SCALE_SUFFIX}", checkpoint.tensor(id).name);
        if names.contains(scale.as_str()) {
            let why = format!(
                "the scales of '{}' would be named '{}', and the source has a tensor of that name; leave this one out",
                checkpoint.tensor(id).name.escape_debug(),
                scale.escape_debug()
            );
            return Err(SaveError::Unfit { path: request.out.clone(), why });
        }
    }
    Ok(entries(checkpoint, |tensor, _| {
        let id = tensor?;
        let quantizer = plan.get(id)?;
        let info = checkpoint.tensor(id);
        let scale_shape = quantizer.scheme.scale_shape(&info.shape);
        Some(vec![
            Entry {
                name: info.name.to_string(),
                dtype: DType::I8,
                shape: info.shape.clone(),
                bytes: info.parameters(),
                made_from: MadeFrom::Values {
                    tensor: id,
                    quantizer,
                    stored_as: Int8Values::Signed,
                },
            },
            Entry {
                name: format!("{}{SCALE_SUFFIX}", info.name),
                dtype: DType::F32,
                bytes: scale_shape.elements() * 4,
                shape: scale_shape,
                made_from: MadeFrom::Scales { tensor: id },
            },
        ])
    }))
}

/// Marked tensors as floats of their own type that went through int8.
pub(super) fn fake_quantized(checkpoint: &Checkpoint, plan: &Plan) -> Shards {
    entries(checkpoint, |tensor, _| {
        let id = tensor?;
        let quantizer = plan.get(id)?;
        let info = checkpoint.tensor(id);
        Some(vec![Entry {
            name: info.name.to_string(),
            dtype: info.dtype.clone(),
            shape: info.shape.clone(),
            bytes: info.bytes,
            made_from: MadeFrom::FakeQuantized { tensor: id, quantizer },
        }])
    })
}

/// Quantized tensors as floats under their plain names; what was not quantized stays.
pub(super) fn dequantized(
    checkpoint: &Checkpoint,
    to: Option<FloatType>,
    request: &Request,
) -> Result<Shards, SaveError> {
    let is_converted = checkpoint.format() != Format::Safetensors;
    let quantized = checkpoint.ids().any(|id| checkpoint.packed_format(id).is_some());
    if !is_converted && !quantized && !checkpoint.has_observers() {
        let why = "no tensor in it is quantized; there is nothing to dequantize".to_owned();
        return Err(SaveError::Unfit { path: checkpoint.path().to_owned(), why });
    }
    for id in checkpoint.ids() {
        let unread = checkpoint.packed_format(id).filter(|layout| layout.decoded().is_none());
        if let Some(layout) = unread {
            let name = checkpoint.tensor(id).name.escape_debug();
            let why =
                format!("tensor '{name}' cannot be dequantized: it is stored as {}", layout.name());
            return Err(SaveError::Unfit { path: checkpoint.path().to_owned(), why });
        }
    }
    let too_large = |id: TensorId| SaveError::Unfit {
        path: request.out.clone(),
        why: format!(
            "tensor '{}' has too many elements",
            checkpoint.tensor(id).name.escape_debug()
        ),
    };
    for id in checkpoint.ids() {
        checkpoint.tensor(id).parameters().checked_mul(8).ok_or_else(|| too_large(id))?;
    }
    Ok(entries(checkpoint, |tensor, is_part| {
        let Some(id) = tensor else { return is_part.then(Vec::new) };
        // What watched a training with fake quantization is no part of the plain model.
        if checkpoint.has_observers() && qat::is_observer(&checkpoint.tensor(id).name) {
            return Some(Vec::new());
        }
        let layout = checkpoint.packed_format(id)?;
        let to = to.unwrap_or(layout.original());
        let info = checkpoint.tensor(id);
        Some(vec![Entry {
            name: info.name.to_string(),
            dtype: to.dtype(),
            shape: info.shape.clone(),
            bytes: info.parameters() * to.size() as u64,
            made_from: MadeFrom::Floats { tensor: id, to },
        }])
    }))
}

/// An error for a tensor of a type that safetensors does not have.
pub(super) fn can_hold(checkpoint: &Checkpoint, shards: &Shards) -> Result<(), SaveError> {
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
            "tensor '{}' is of {}, and safetensors has no such type",
            entry.name.escape_debug(),
            entry.dtype
        ),
    })
}

/// The output files: the source's shards under their names, or all in one.
pub(super) fn files(
    checkpoint: &Checkpoint,
    shards: Shards,
    directory: bool,
    task: &Task,
) -> Vec<OutFile> {
    let sources = checkpoint.shards();
    let is_safetensors = checkpoint.format() == Format::Safetensors;
    let finished = |name: String, metadata: Vec<(String, String)>, entries: Vec<Entry>| {
        let entries = aligned(entries);
        let metadata = said_in(metadata, &entries, checkpoint, task);
        let listed = entries.iter().map(|e| (e.name.as_str(), &e.dtype, &e.shape, e.bytes));
        let head = safetensors::header_bytes(&metadata, listed);
        OutFile::contiguous(name, head, entries)
    };
    if directory {
        let named = (1..).zip(sources).zip(shards);
        return named
            .map(|((number, source), entries)| {
                let name = match sources.len() {
                    1 => "model.safetensors".to_owned(),
                    _ if is_safetensors => source.name(),
                    all => format!("model-{number:05}-of-{all:05}.safetensors"),
                };
                let metadata = if is_safetensors { source.metadata.clone() } else { Vec::new() };
                finished(name, metadata, entries)
            })
            .collect();
    }
    let mut metadata: Vec<(String, String)> = Vec::new();
    // Other formats' key-values are not safetensors' metadata.
    for (key, value) in sources.iter().filter(|_| is_safetensors).flat_map(|s| &s.metadata) {
        match metadata.iter_mut().find(|(k, _)| k == key) {
            Some((key, present)) if key == METADATA_KEY => *present = joined(present, value),
            Some(_) => {}
            None => metadata.push((key.clone(), value.clone())),
        }
    }
    vec![finished(String::new(), metadata, shards.into_iter().flatten().collect())]
}

/// quantscope's metadata of two shards as that of one.
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

/// The source's metadata, with what was done to the tensors.
fn said_in(
    mut metadata: Vec<(String, String)>,
    entries: &[Entry],
    checkpoint: &Checkpoint,
    task: &Task,
) -> Vec<(String, String)> {
    let (key, rounding) = match task {
        Task::Dequantize { .. } => {
            let ours = [METADATA_KEY, ROUNDING_KEY, CALIBRATION_KEY];
            metadata.retain(|(key, _)| !ours.contains(&key.as_str()));
            return metadata;
        }
        Task::Quantize { plan, format: OutputFormat::Safetensors } => (METADATA_KEY, plan.rounding),
        Task::Quantize { plan, format: OutputFormat::Int8 | OutputFormat::Int8WeightOnly } => {
            // Loaders ask for the framework; a rounding that is not theirs must be said.
            if !metadata.iter().any(|(key, _)| key == "format") {
                metadata.push(("format".into(), "pt".into()));
            }
            metadata.retain(|(key, _)| key != ROUNDING_KEY && key != CALIBRATION_KEY);
            if plan.rounding != Rounding::default() {
                metadata.push((ROUNDING_KEY.into(), plan.rounding.name().into()));
            }
            let calibrated = entries.iter().filter_map(|entry| {
                let (id, quantizer) = entry.quantizer()?;
                Some((checkpoint.tensor(id).name.as_str(), quantizer.calibration))
            });
            if let Some(said) = calibration_metadata(calibrated) {
                metadata.push((CALIBRATION_KEY.into(), said));
            }
            return metadata;
        }
        Task::Quantize { plan, .. } => (FAKE_METADATA_KEY, plan.rounding),
    };
    let tensors: BTreeMap<_, _> = entries
        .iter()
        .filter_map(|entry| match entry.made_from {
            MadeFrom::Values { tensor, quantizer, .. }
            | MadeFrom::FakeQuantized { tensor, quantizer } => {
                let info = checkpoint.tensor(tensor);
                let described = QuantizedTensorMetadata::new(quantizer, &info.dtype);
                Some((info.name.to_string(), described))
            }
            _ => None,
        })
        .collect();
    if tensors.is_empty() {
        return metadata;
    }
    let said = described(rounding, tensors);
    match metadata.iter_mut().find(|(k, _)| k == key) {
        Some((_, present)) => *present = joined(&said, present),
        None => metadata.push((key.to_owned(), said)),
    }
    metadata
}

pub(super) fn described(
    rounding: Rounding,
    tensors: BTreeMap<String, QuantizedTensorMetadata>,
) -> String {
    let version = QuantizedMetadata::VERSION;
    let said = QuantizedMetadata { version, rounding: rounding.name().to_owned(), tensors };
    // Strings and numbers always serialize.
    serde_json::to_string(&said).unwrap_or_default()
}

/// Entries in an order in which each starts on a multiple of its element's size, which
/// readers that map the file rely on: the source's order if it does, else what is kept in
/// the source's order with scales and values behind it, else by falling size, as the
/// safetensors crate itself orders.
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
        MadeFrom::Scales { .. } => 1,
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

/// The index of the shards, when there are several.
pub(super) fn index(checkpoint: &Checkpoint, files: &[OutFile]) -> Option<TextFile> {
    let source = checkpoint.index()?;
    let name = match checkpoint.format() {
        Format::Safetensors => source.path.file_name()?.to_string_lossy().into_owned(),
        _ => "model.safetensors.index.json".to_owned(),
    };
    let weight_map: BTreeMap<&str, &str> = files
        .iter()
        .flat_map(|file| file.entries.iter().map(|e| (e.name.as_str(), file.name.as_str())))
        .collect();
    let total: u64 = files.iter().flat_map(|f| &f.entries).map(|e| e.bytes).sum();
    let mut metadata = source.metadata.clone();
    metadata.insert("total_size".into(), total.into());
    let json = serde_json::json!({ "metadata": metadata, "weight_map": weight_map });
    let text =
        python_json::from_json(serde_json::to_string_pretty(&json).unwrap_or_default()) + "\n";
    Some(TextFile { name, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::{Calibration, QuantizationScheme, Quantizer};
    use crate::tensor::Shape;

    fn entry(name: &str, dtype: DType, bytes: u64, made_from: MadeFrom) -> Entry {
        let shape = Shape::vector(bytes * 8 / dtype.bits().unwrap_or(8));
        Entry { name: name.into(), dtype, shape, bytes, made_from }
    }

    #[test]
    fn the_order_changes_only_as_far_as_alignment_asks() {
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
