//! Safetensors files written by `torch.distributed.checkpoint`: each rank's file holds parts of
//! tensors, and `DCP_SHARDING_INFO` in its metadata gives the offset of each part in its tensor.

use crate::checkpoint::access::{Access, Data, Indirect};
use crate::checkpoint::stored::{Shard, Stored};
use crate::checkpoint::tensor_parts::{TensorPart, TensorParts};
use crate::tensor::Shape;
use foldhash::{HashMap, HashMapExt};
use serde::Deserialize;
use std::sync::Arc;

/// The metadata key that holds the offsets of a file's parts.
const OFFSETS_KEY: &str = "DCP_SHARDING_INFO";

/// The metadata key that holds the version of the layout.
const VERSION_KEY: &str = "DCP_VERSION";

/// The metadata of one part.
#[derive(Deserialize)]
struct PartOffsets {
    saved_offsets: Vec<u64>,
}

/// The offsets of the parts in one file by tensor name, or the reason why they cannot be read.
type OffsetsByName = Result<HashMap<String, PartOffsets>, String>;

/// Joins the parts of each tensor. Returns whether the files hold parts; otherwise nothing
/// changes.
///
/// A tensor with missing or overlapping parts is listed with the reason. The metadata about parts
/// is removed, because it does not describe the joined tensors.
pub(crate) fn join(shards: &mut [Shard], stored: &mut Vec<Stored>) -> bool {
    let read_offsets = |shard: &Shard| -> Option<OffsetsByName> {
        let text = shard.metadata(OFFSETS_KEY)?;
        Some(serde_json::from_str(text).map_err(|e| {
            format!("{OFFSETS_KEY} of '{}' is not the expected JSON: {e}", shard.name())
        }))
    };
    let all_offsets: Vec<Option<OffsetsByName>> = shards.iter().map(read_offsets).collect();
    if all_offsets.iter().all(Option::is_none) {
        return false;
    }
    for shard in shards {
        shard.metadata.retain(|(key, _)| key != OFFSETS_KEY && key != VERSION_KEY);
    }
    let mut joined: Vec<Stored> = Vec::with_capacity(stored.len());
    let mut parts: Vec<(usize, Vec<Stored>)> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for part in std::mem::take(stored) {
        if all_offsets.get(part.shard as usize).is_none_or(Option::is_none) {
            joined.push(part);
            continue;
        }
        match known.get(part.name.as_str()).and_then(|&at| parts.get_mut(at)) {
            Some((_, parts)) => parts.push(part),
            None => {
                known.insert(part.name.to_string(), parts.len());
                joined.push(part.clone());
                parts.push((joined.len() - 1, vec![part]));
            }
        }
    }
    let offsets_of = |shard: u32| all_offsets.get(shard as usize).and_then(Option::as_ref);
    for (at, parts) in parts {
        let Some(tensor) = joined.get_mut(at) else { continue };
        match assembled(&parts, &offsets_of) {
            Ok((shape, None)) => tensor.shape = shape,
            Ok((shape, Some(access))) => {
                *tensor = Stored { shape, access, range: 0..0, ..tensor.clone() };
            }
            Err(why) => {
                let access = Access::Unreadable(why.into());
                *tensor = Stored { access, range: 0..0, ..tensor.clone() };
            }
        }
    }
    *stored = joined;
    true
}

/// Returns the shape of a tensor and how its parts are read; no access for a tensor whose only part
/// is the whole tensor.
fn assembled<'p>(
    parts: &[Stored],
    offsets_of: &dyn Fn(u32) -> Option<&'p OffsetsByName>,
) -> Result<(Shape, Option<Access>), String> {
    let first = parts.first().ok_or("it has no parts")?;
    let mut chunks: Vec<TensorPart> = Vec::with_capacity(parts.len());
    let mut dims = vec![0u64; first.shape.rank()];
    for part in parts {
        let offsets = match offsets_of(part.shard) {
            Some(Ok(offsets)) => offsets.get(part.name.as_str()),
            Some(Err(why)) => return Err(why.clone()),
            None => None,
        };
        let offsets = offsets.ok_or_else(|| format!("{OFFSETS_KEY} does not name it"))?;
        let offsets = &offsets.saved_offsets;
        if offsets.len() != dims.len() || part.shape.rank() != dims.len() {
            return Err("its parts differ in their number of dimensions".to_owned());
        }
        if part.dtype != first.dtype {
            return Err("its parts differ in their types".to_owned());
        }
        for ((dim, &offset), &length) in dims.iter_mut().zip(offsets).zip(part.shape.dims()) {
            let end = offset.checked_add(length).ok_or("one of its parts begins too far out")?;
            *dim = end.max(*dim);
        }
        let (offsets, sizes) = (offsets.as_slice().into(), part.shape.dims().into());
        let chunk =
            TensorPart { shard: part.shard, range: part.range.clone(), view: None, offsets, sizes };
        // Every rank may store an undivided tensor.
        let same =
            |other: &TensorPart| other.offsets == chunk.offsets && other.sizes == chunk.sizes;
        if !chunks.iter().any(same) {
            chunks.push(chunk);
        }
    }
    let shape = Shape::new(dims).ok_or("it has too many elements")?;
    if chunks.len() == 1 && shape == first.shape {
        return Ok((shape, None));
    }
    let size = first.dtype.bytes_for(1).ok_or("its elements are not whole bytes")?;
    let bytes = shape.elements().checked_mul(size).ok_or("it has too many elements")?;
    let chunks = TensorParts::new(shape.dims(), size, chunks)?;
    let data = Data::Parts(Arc::new(chunks));
    let access = Access::Indirect(Indirect { data, bytes, view: None, conversion: None }.into());
    Ok((shape, Some(access)))
}
