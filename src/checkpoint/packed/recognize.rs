//! Finds the packed tensors among the stored ones. Never fails: a tensor that cannot be decoded is
//! listed with the reason, and every other tensor is unaffected.

use crate::checkpoint::access::Role;
use crate::checkpoint::packed::attachments::{attach, names_attachment};
use crate::checkpoint::packed::bitsandbytes;
use crate::checkpoint::packed::foreign::{holds_codes, names_scales};
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::listing::{Listing, PartTensor, is_coded};
use crate::checkpoint::packed::native_format::{self, METADATA_KEY};
use crate::checkpoint::packed::registry::FORMATS;
use crate::checkpoint::stored::{Shard, Stored, StoredId, TENSORS_PER_TASK};
use crate::tensor::DType;
use foldhash::{HashMap, HashSet};
use rayon::prelude::*;
use std::path::Path;

/// Returns the packed tensors of a checkpoint by the stored tensor that holds their values. The
/// configuration in `directory` is only read if something looks quantized.
pub(crate) fn recognize(
    directory: Option<&Path>,
    shards: &[Shard],
    stored: &[Stored],
) -> HashMap<StoredId, PackedTensor> {
    let mut claims = Claims::default();
    for (number, shard) in shards.iter().enumerate() {
        let Some(metadata) = shard.metadata(METADATA_KEY) else { continue };
        // Stored tensors are sorted by shard.
        let first = stored.partition_point(|s| s.shard < number as u32);
        let end = stored.partition_point(|s| s.shard <= number as u32);
        let here = stored.get(first..end).unwrap_or_default();
        for tensor in native_format::recognize(metadata, (first as u32..).map(StoredId).zip(here)) {
            claims.add(tensor);
        }
    }
    let is_candidate = |(position, stored): (usize, &Stored)| {
        let id = StoredId(position as u32);
        (!claims.parts.contains(&id) && looks_packed(stored)).then_some(id)
    };
    let all = stored.par_iter().with_min_len(TENSORS_PER_TASK).enumerate();
    let candidates: Vec<StoredId> = all.filter_map(is_candidate).collect();
    if candidates.is_empty() {
        return claims.into_map(stored);
    }
    let listing = Listing::new(directory, shards, stored);
    // Some recognizers read a few bytes of each tensor, so use all cores.
    let parts: Vec<PartTensor> = candidates.iter().filter_map(|&id| listing.part(id)).collect();
    for (_, recognize) in FORMATS {
        let free: Vec<PartTensor> =
            parts.iter().copied().filter(|part| !claims.parts.contains(&part.id)).collect();
        let found = free.par_iter().filter_map(|&part| recognize(&listing, part));
        let checked: Vec<PackedTensor> = found.map(|tensor| checked(&listing, tensor)).collect();
        // Add decoded tensors first. Otherwise an undecoded tensor that the file stores earlier
        // could claim one of their parts.
        let (decoded, named): (Vec<_>, Vec<_>) =
            checked.into_iter().partition(|tensor| tensor.format.decoded().is_some());
        for tensor in decoded.into_iter().chain(named) {
            claims.add_or_name(&listing, tensor);
        }
    }
    claims.into_map(stored)
}

/// Returns the tensor, undecoded if the configuration could not be read or if a plain tensor has
/// the same name.
fn checked(listing: &Listing, tensor: PackedTensor) -> PackedTensor {
    if tensor.format.decoded().is_none() {
        return tensor;
    }
    let parts = tensor.format.parts();
    let twin = listing.get(&tensor.name).filter(|other| !parts.contains(&other.id));
    let reason = match (&listing.config_error, twin, unknown_factor(listing, &tensor)) {
        (Some(error), ..) => error.clone(),
        (None, Some(_), _) => "it is stored plain as well, under the same name".to_owned(),
        (None, None, Some(factor)) => {
            let name = factor.stored.name.escape_debug();
            format!("'{name}' may be part of its equation, and quantscope does not know it")
        }
        (None, None, None) => return tensor,
    };
    named_instead(listing, tensor, reason, &parts)
}

/// Returns a tensor in the module of a weight that has the name of a scale or a zero point and
/// that its decoder does not use.
fn unknown_factor<'s>(listing: &Listing<'s>, tensor: &PackedTensor) -> Option<PartTensor<'s>> {
    let module = tensor.name.strip_suffix(".weight")?;
    let parts = tensor.format.parts();
    let is_factor = |part: &PartTensor| {
        let last = part.last_name();
        names_scales(&part.stored.name) || last.contains("scale") || last.contains("smooth")
    };
    listing.module_tensors(module).into_iter().find(|part| {
        !parts.contains(&part.id) && is_factor(part) && !names_attachment(part.last_name())
    })
}

/// Replaces a tensor by an undecoded one with the reason; `parts` are the other stored tensors it
/// keeps.
fn named_instead(
    listing: &Listing,
    tensor: PackedTensor,
    reason: String,
    parts: &[StoredId],
) -> PackedTensor {
    let values = tensor.format.parts().first().and_then(|&id| listing.part(id));
    let Some(values) = values else { return tensor };
    let format = tensor.format.name();
    listing.named_with(values, &tensor.name, &format, Some(reason), parts)
}

/// Returns whether a stored tensor may hold quantized values.
fn looks_packed(stored: &Stored) -> bool {
    if stored.unreadable().is_some() || stored.role != Role::Network {
        return false;
    }
    let name = stored.name.as_str();
    let last = name.rsplit_once('.').map_or(name, |(_, last)| last);
    is_coded(stored)
        || holds_codes(last)
        || names_scales(name)
        || (stored.dtype == DType::U8 && name.contains(bitsandbytes::STATE))
}

/// The tensors recognized so far. A stored tensor is part of at most one packed tensor: the first
/// one recognized keeps it.
#[derive(Default)]
struct Claims {
    tensors: Vec<PackedTensor>,
    parts: HashSet<StoredId>,
    names: HashSet<String>,
}

impl Claims {
    /// Adds a tensor; returns it if its name or one of its parts is taken.
    fn add(&mut self, tensor: PackedTensor) -> Option<PackedTensor> {
        let parts = tensor.format.parts();
        let taken = parts.iter().any(|part| self.parts.contains(part));
        if taken || self.names.contains(&tensor.name) {
            return Some(tensor);
        }
        self.names.insert(tensor.name.clone());
        self.parts.extend(parts);
        self.tensors.push(tensor);
        None
    }

    /// Adds a tensor; if it shares parts with another, adds its values alone, undecoded.
    fn add_or_name(&mut self, listing: &Listing, tensor: PackedTensor) {
        let Some(tensor) = self.add(tensor) else { return };
        let reason = "parts of it belong to another quantized tensor as well".to_owned();
        let parts = tensor.format.parts();
        let free: Vec<StoredId> =
            parts.into_iter().filter(|part| !self.parts.contains(part)).collect();
        let mut tensor = named_instead(listing, tensor, reason, &free);
        let values = tensor.format.parts().first().and_then(|&id| listing.part(id));
        if let Some(values) = values.filter(|_| self.names.contains(&tensor.name)) {
            tensor.name = values.stored.name.to_string();
        }
        self.add(tensor);
    }

    fn into_map(self, stored: &[Stored]) -> HashMap<StoredId, PackedTensor> {
        let Claims { tensors, parts, .. } = self;
        let all = (0..).map(StoredId).zip(stored);
        let tensors = attach(tensors, all.filter(|(id, _)| !parts.contains(id)));
        let values = |tensor: PackedTensor| Some((*tensor.format.parts().first()?, tensor));
        tensors.into_iter().filter_map(values).collect()
    }
}
