//! Layouts that are known by name only: their tensors are listed, marked and copied, never
//! taken for plain integers.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::format::{PackedFormat, PackedTensor};
use crate::checkpoint::packed::listing::{Listing, Part, Recognised};
use crate::checkpoint::stored::{Stored, StoredId};
use crate::checkpoint::stored_reader::StoredReader;
use crate::tensor::{DType, FloatType};
use std::ops::Range;

#[derive(Debug)]
struct Named {
    name: String,
    parts: Vec<StoredId>,
    original: FloatType,
}

/// A layout's name, the last part of the name of the tensor that holds its values, and
/// those of the tensors beside it; the first of them must be there.
const SIGNATURES: [(&str, &str, &[&str]); 13] = [
    (
        "exl2",
        "q_weight",
        &["q_scale", "q_scale_max", "q_groups", "q_group_map", "q_invperm", "q_perm"],
    ),
    ("exl3", "trellis", &["svh", "suh", "su", "sv", "mcg", "mul1"]),
    ("hqq", "W_q", &["meta", "scale", "zero", "nbits", "group_size", "shape", "axis", "packing"]),
    ("aqlm", "codes", &["codebooks", "scales"]),
    ("vptq", "indices", &["centroids", "weight_scale", "weight_bias", "res_centroids", "perm"]),
    ("quip#", "Qidxs", &["SU", "SV", "Wscale", "codebook_id"]),
    ("marlin", "B", &["s", "workspace"]),
    ("eetq int8", "weight", &["weight_scales"]),
    ("mlx mxfp4", "weight", &["scales"]),
    ("awq, not gemm", "qweight", &["scales", "qzeros"]),
    ("torchao", "_weight_qdata", &["_weight_scale", "_weight_zero_point"]),
    ("compressed-tensors sparse", "compressed", &["bitmask", "row_offsets", "shape"]),
    ("marlin-24", "weight_packed", &["meta", "scale_packed", "weight_shape"]),
];

/// Tensors beside each other as only one layout has them.
pub(super) fn by_signature(listing: &Listing, values: Part) -> Recognised {
    let Some((module, last)) = values.stored.name.rsplit_once('.') else { return Ok(None) };
    let known = SIGNATURES.iter().find(|(_, name, beside)| {
        let first = beside.first().and_then(|first| listing.get(&format!("{module}.{first}")));
        *name == last && first.is_some()
    });
    let quanto = ["_packed", "_data"].contains(&last);
    let (layout, beside): (&str, &[&str]) = match known {
        Some((layout, _, beside)) => (layout, beside),
        None if quanto && listing.get(&format!("{module}._scale")).is_some() => {
            ("quanto, fewer than 8 bits", &["_scale", "_shift"])
        }
        None => return Ok(None),
    };
    let name = match last {
        "_packed" | "_data" => module.to_owned(),
        _ => format!("{module}.weight"),
    };
    let layout = match (listing.method(), last) {
        (Some(method), "qweight" | "weight" | "weight_packed") => method,
        _ => layout,
    };
    Ok(Some(found(listing, values, name, layout, listing.members(module, beside))))
}

/// Integers in a model whose config says that it is quantized, by whatever method.
pub(super) fn by_method(listing: &Listing, values: Part) -> Recognised {
    let Stored { name, dtype, shape, .. } = values.stored;
    let integer = matches!(dtype, DType::I8 | DType::U8 | DType::I16 | DType::I32 | DType::U32);
    let weight = ["weight", "qweight", "weight_packed"].iter().any(|end| name.ends_with(end));
    let Some(method) = listing.method() else { return Ok(None) };
    if !integer || !weight || shape.rank() < 2 {
        return Ok(None);
    }
    let (module, plain) = match name.rsplit_once('.') {
        Some((module, _)) => (module, format!("{module}.weight")),
        None => ("", name.to_string()),
    };
    let beside = [
        "weight_scale",
        "weight_scale_2",
        "weight_zero_point",
        "weight_shape",
        "scales",
        "qzeros",
        "g_idx",
    ];
    let beside = listing.members(module, &beside);
    Ok(Some(found(listing, values, plain, method, beside)))
}

fn found(
    listing: &Listing,
    values: Part,
    name: String,
    layout: &str,
    beside: Vec<StoredId>,
) -> PackedTensor {
    // A plain tensor of that name is another one.
    let name = match listing.get(&name) {
        Some(other) if other.id != values.id => values.stored.name.to_string(),
        _ => name,
    };
    let layout = Named {
        name: format!("{}, which quantscope does not read", layout.escape_debug()),
        parts: [&[values.id], beside.as_slice()].concat(),
        original: listing.original(values.dtype()),
    };
    PackedTensor::new(name, values.stored.shape.clone(), layout)
}

impl PackedFormat for Named {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn original(&self) -> FloatType {
        self.original
    }

    fn decoded(&self) -> Option<FloatType> {
        None
    }

    fn parts(&self) -> Vec<StoredId> {
        self.parts.clone()
    }

    fn decode(&self, reader: &mut StoredReader, _: Range<u64>, _: &mut Vec<u8>) -> Result<()> {
        let values = self.parts.first().copied().unwrap_or(StoredId(0));
        Err(reader.error(values, format!("it is stored as {}", self.name)))
    }
}
