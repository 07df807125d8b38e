//! Finds the packed tensors among the stored ones.

use crate::checkpoint::access::Role;
use crate::checkpoint::error::{CheckpointError, Problem, Result};
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::listing::{Listing, Part, Recognised, Refusal};
use crate::checkpoint::packed::{
    awq, bitsandbytes, compressed_tensors, fp4, fp8, gptq, mlx, named, native_format, quanto,
};
use crate::checkpoint::stored::{Shard, Stored, StoredId};
use crate::tensor::DType;
use foldhash::{HashMap, HashSet};
use rayon::prelude::*;
use std::path::Path;

/// The quantized tensors of a checkpoint, by the stored tensor that holds the values of
/// each. `directory` is asked for its config only if something looks quantized.
pub(crate) fn recognise(
    path: &Path,
    directory: Option<&Path>,
    shards: &[Shard],
    stored: &[Stored],
) -> Result<HashMap<StoredId, PackedTensor>> {
    let mut found = Claims::default();
    for (number, shard) in shards.iter().enumerate() {
        // Stored tensors lie shard by shard.
        let first = stored.partition_point(|s| s.shard < number as u32);
        let end = stored.partition_point(|s| s.shard <= number as u32);
        let here = (first as u32..).map(StoredId).zip(&stored[first..end]);
        for ours in native_format::recognise(shard.source.path(), &shard.metadata, here)? {
            found.add(stored, shards, ours)?;
        }
    }
    let candidates = |found: &Claims| -> Vec<StoredId> {
        let all = (0..stored.len() as u32).map(StoredId).zip(stored);
        let left = all.filter(|(id, s)| looks_quantized(s) && !found.parts.contains(id));
        left.map(|(id, _)| id).collect()
    };
    let looking = candidates(&found);
    if looking.is_empty() {
        return Ok(found.tensors);
    }
    let listing = Listing::new(directory, shards, stored)?;
    // A few families read a few bytes of each tensor, so all cores take part.
    let recognised: Vec<PackedTensor> = looking
        .par_iter()
        .filter_map(|&id| by_any(&listing, id, &FAMILIES))
        .collect::<Result<_>>()?;
    for tensor in recognised {
        found.add(stored, shards, tensor)?;
    }
    // What no family has claimed may be a quantized tensor in itself, or belong to a
    // layout that is known by name only.
    for pass in [named::by_signature as Recognise, fp8::unscaled, named::by_method] {
        for id in candidates(&found) {
            if found.parts.contains(&id) {
                continue;
            }
            if let Some(tensor) = by_any(&listing, id, &[pass]) {
                found.add(stored, shards, tensor?)?;
            }
        }
    }
    for tensor in found.tensors.values() {
        if let Some(plain) = listing.get(&tensor.name)
            && !found.parts.contains(&plain.id)
        {
            let why = "it is stored plain, and there are quantized parts of the same tensor".into();
            return Err(CheckpointError::of_tensor(path, &tensor.name, Problem::Layout(why)));
        }
    }
    Ok(found.tensors)
}

type Recognise = fn(&Listing, Part) -> Recognised;

/// Each looks at one stored tensor, and gives the quantized tensor whose values it holds.
const FAMILIES: [Recognise; 11] = [
    gptq::recognise,
    awq::recognise,
    compressed_tensors::packed,
    fp4::nvfp4,
    fp4::mxfp4,
    bitsandbytes::four_bits,
    bitsandbytes::eight_bits,
    quanto::recognise,
    mlx::recognise,
    fp8::scaled,
    compressed_tensors::int8,
];

fn by_any(listing: &Listing, id: StoredId, families: &[Recognise]) -> Option<Result<PackedTensor>> {
    let part = listing.part(id)?;
    families.iter().find_map(|family| match family(listing, part) {
        Ok(found) => found.map(Ok),
        Err(Refusal::Checkpoint(error)) => Some(Err(error)),
        Err(Refusal::Lie(why)) => Some(Err(listing.error(part, why))),
    })
}

/// Whether a stored tensor may hold quantized values: it has elements that are not plain
/// floats, in rows; or its name says that it describes such values.
fn looks_quantized(stored: &Stored) -> bool {
    if stored.unreadable().is_some() || stored.role != Role::Network {
        return false;
    }
    let coded = match stored.dtype {
        DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::I32 | DType::U32 => {
            stored.shape.rank() >= 2
        }
        DType::F8E4M3
        | DType::F8E5M2
        | DType::F8E4M3Fnuz
        | DType::F8E5M2Fnuz
        | DType::F8E8M0
        | DType::F4 => true,
        _ => false,
    };
    coded || (stored.dtype == DType::U8 && stored.name.contains(bitsandbytes::STATE))
}

/// What has been recognised so far; no stored tensor is part of two.
#[derive(Default)]
struct Claims {
    tensors: HashMap<StoredId, PackedTensor>,
    parts: HashSet<StoredId>,
    names: HashSet<String>,
}

impl Claims {
    fn add(&mut self, stored: &[Stored], shards: &[Shard], tensor: PackedTensor) -> Result<()> {
        let parts = tensor.format.parts();
        let shard =
            parts.first().and_then(|id| shards.get(stored.get(id.0 as usize)?.shard as usize));
        let path = shard.map_or(Path::new(""), |shard| shard.source.path());
        let fail =
            |why: String| Err(CheckpointError::of_tensor(path, &tensor.name, Problem::Layout(why)));
        for part in &parts {
            if !self.parts.insert(*part) {
                let name = stored.get(part.0 as usize).map_or("", |s| s.name.as_str());
                return fail(format!(
                    "'{}' is part of it and of another quantized tensor",
                    name.escape_debug()
                ));
            }
        }
        if !self.names.insert(tensor.name.clone()) {
            return fail("its quantized parts are there twice".into());
        }
        if let Some(&values) = parts.first() {
            self.tensors.insert(values, tensor);
        }
        Ok(())
    }
}
