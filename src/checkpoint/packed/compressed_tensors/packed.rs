//! Recognizes packed values by their name, and decodes them by their type.

use crate::checkpoint::packed::compressed_tensors::minifloats::minifloats;
use crate::checkpoint::packed::compressed_tensors::parts::METHODS;
use crate::checkpoint::packed::compressed_tensors::words::words;
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::listing::{Listing, PartTensor};
use crate::tensor::DType;

/// Recognizes `_packed` words or bytes.
pub(in crate::checkpoint::packed) fn packed(
    listing: &Listing,
    values: PartTensor,
) -> Option<PackedTensor> {
    let name = values.stored.name.strip_suffix("_packed")?;
    let beside = ["_scale", "_shape", "_global_scale", "_zero_point"];
    let any = beside.iter().any(|suffix| listing.get(&format!("{name}{suffix}")).is_some());
    // Other tensors may have names that end like this.
    if !any && !name.ends_with(".weight") {
        return None;
    }
    if !matches!(values.dtype(), DType::I32 | DType::U8 | DType::I8) {
        return None;
    }
    if let Some(method) = listing.effective_method().filter(|method| !METHODS.contains(method)) {
        return Some(listing.named(values, name, method, None));
    }
    let (format, decoded) = match values.dtype() {
        DType::I32 => ("compressed-tensors packed", words(listing, values, name)),
        _ => ("compressed-tensors packed floats", minifloats(listing, values, name)),
    };
    Some(listing.decoded_or_named(values, name, format, decoded))
}
