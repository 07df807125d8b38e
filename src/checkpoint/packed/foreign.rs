//! Formats that are recognized but not decoded.

use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::listing::{Listing, PartTensor, is_coded};
use crate::checkpoint::stored::StoredId;
use crate::tensor::DType;

/// Tensor names that identify a format: the last name component of the codes, and those of other
/// tensors in the module, at least one of which must exist.
struct Signature {
    format: &'static str,
    values: &'static str,
    beside: &'static [&'static str],
}

const fn signature(
    format: &'static str,
    values: &'static str,
    beside: &'static [&'static str],
) -> Signature {
    Signature { format, values, beside }
}

const SIGNATURES: [Signature; 18] = [
    signature("exl2", "q_weight", &["q_scale", "q_groups", "q_invperm"]),
    signature("exl3", "trellis", &["svh", "suh", "mcg", "mul1"]),
    signature("qtip", "trellis", &["SU", "SV", "tlut"]),
    signature("hqq", "W_q", &["meta", "scale", "zero", "meta.scale", "meta.scale_q", "meta.nbits"]),
    signature("aqlm", "codes", &["codebooks", "scales"]),
    signature("vptq", "indices", &["centroids", "centroids.weight", "res_centroids.weight"]),
    signature("quip#", "Qidxs", &["SU", "SV", "Wscale", "codebook_id"]),
    signature("spqr", "dense_weights", &["row_offsets", "col_vals"]),
    signature("marlin", "B", &["s", "workspace"]),
    signature("qqq", "B", &["s_channel", "s_group"]),
    signature("higgs", "weight", &["tables2", "tables"]),
    signature("eetq int8", "weight", &["weight_scales"]),
    signature("fp-quant", "qweight", &["forward_hadamard_matrix"]),
    signature("transformers nvfp4", "weight", &["weight_sf", "weight_sf_rowmajor"]),
    signature("bitsandbytes", "weight", &["weight.absmax", "weight.quant_map", "SCB"]),
    signature("torchao", "_weight_qdata", &["_weight_scale", "_weight_zero_point"]),
    signature("marlin-24", "weight_packed", &["meta", "scale_packed"]),
    signature("awq or gptq", "qweight", &["scales", "qzeros"]),
];

/// Methods whose tensors have known names.
const DECODED_METHODS: [&str; 11] = [
    "gptq",
    "awq",
    "compressed-tensors",
    "fp8",
    "fbgemm_fp8",
    "modelopt",
    "bitsandbytes",
    "mxfp4",
    "quanto",
    "torchao",
    "mlx",
];

/// Suffixes that scales and zero points append to the name of their weight.
const SCALE_SUFFIXES: [&str; 4] = ["_scale", "_scale_inv", "_zero_point", "_weight_scale"];

/// Returns whether a tensor holds the scales of codes stored under a prefix of its name, or as
/// the weight of the same module.
pub(super) fn scales_other_codes(listing: &Listing, part: PartTensor) -> bool {
    let owner = |end: &&str| listing.get(part.stored.name.strip_suffix(*end)?);
    let weight = || listing.get(&format!("{}.weight", part.module("scale")?));
    let owners = SCALE_SUFFIXES.iter().filter_map(owner).chain(weight());
    owners.into_iter().any(|owner| is_coded(owner.stored))
}

/// Returns whether a name component belongs to values that are not matrices of small numbers.
pub(super) fn holds_codes(last: &str) -> bool {
    matches!(last, "dense_weights" | "Qidxs" | "bitmask" | "codes" | "indices" | "trellis")
}

/// Recognizes a format by names that no other format uses.
pub(super) fn by_signature(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
    let (module, last) = values.stored.name.rsplit_once('.')?;
    if last == "bitmask" {
        return sparse(listing, module);
    }
    let has = |last: &&str| listing.get(&format!("{module}.{last}")).is_some();
    if ["_packed", "_data"].contains(&last)
        && let Some(tensor) = quanto(listing, values, module)
    {
        return Some(tensor);
    }
    let configured = |it: &Signature| last != "weight" && listing.method() == Some(it.format);
    let known = SIGNATURES
        .iter()
        .find(|it| it.values == last && (it.beside.iter().any(&has) || configured(it)));
    let format = known?.format;
    let name = format!("{module}.weight");
    let format = match listing.method() {
        Some(method) if ["qweight", "weight", "weight_packed"].contains(&last) => method,
        _ => format,
    };
    Some(listing.named(values, &name, format, None))
}

/// optimum-quanto's codes of fewer than 8 bits. They are stored in groups, and the file does not
/// contain the shape of the weight.
fn quanto(listing: &Listing, values: PartTensor, module: &str) -> Option<PackedTensor> {
    let weight = module.strip_suffix("._data").unwrap_or(module);
    listing.get(&format!("{weight}._scale"))?;
    let others = listing.present(&["_scale", "_shift"].map(|last| format!("{weight}.{last}")));
    let format = "quanto, fewer than 8 bits";
    Some(listing.named_with(values, weight, format, None, &others))
}

/// compressed-tensors' sparse weights: `compressed` values and a `bitmask`.
fn sparse(listing: &Listing, weight: &str) -> Option<PackedTensor> {
    let values = listing.get(&format!("{weight}.compressed"))?;
    let others: Vec<StoredId> = listing.with_prefix(&format!("{weight}.")).map(|p| p.id).collect();
    let format = "compressed-tensors sparse";
    Some(listing.named_with(values, weight, format, None, &others))
}

/// Recognizes integers in a model whose configuration says that it is quantized, with any method.
pub(super) fn by_method(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
    let integer = matches!(
        values.dtype(),
        DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::I32 | DType::U32
    );
    let last = values.last_name();
    let weight = ["weight", "qweight", "weight_packed"].contains(&last);
    let method = listing.method()?;
    if !integer || values.stored.shape.rank() < 2 {
        return None;
    }
    let Some((module, _)) = values.stored.name.rsplit_once('.') else {
        return weight.then(|| listing.named(values, values.stored.name.as_str(), method, None));
    };
    let name = format!("{module}.weight");
    if weight {
        return Some(listing.named(values, &name, method, None));
    }
    // A method that is not known may use any names for the parts of a weight.
    let has_scales = listing.module_tensors(module).iter().any(|part| {
        part.dtype().float().is_some() && part.stored.shape.rank() >= 1 && part.last_name() != last
    });
    let is_part = !DECODED_METHODS.contains(&method) && has_scales && listing.get(&name).is_none();
    is_part.then(|| {
        let parts: Vec<StoredId> =
            listing.module_tensors(module).iter().map(|part| part.id).collect();
        listing.named_with(values, &name, method, None, &parts)
    })
}

/// Recognizes scales, zero points or tables whose weight is not in the files: in a quantized
/// model by any of their names, in other models only by unambiguous names.
pub(super) fn scales_alone(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
    let name = values.stored.name.as_str();
    let is_scale = listing.is_quantized() && names_scales(name);
    if values.stored.shape.rank() < 2 || !(is_scale || always_scales(values.last_name())) {
        return None;
    }
    let reason = "it holds scales or a table, and the weight they belong to is not here";
    Some(listing.named_with(values, name, "quantized", Some(reason.into()), &[]))
}

/// Returns whether a name is only used for parts of quantized weights.
fn always_scales(last: &str) -> bool {
    ["weight_scale", "weight_scale_inv", "weight_scale_2", "weight_zero_point"].contains(&last)
        || ["qzeros", "absmax", "nested_absmax"].contains(&last)
}

/// The last name components of scales, zero points and tables.
const SCALE_NAMES: [&str; 19] = [
    "scale",
    "scales",
    "zero",
    "zeros",
    "qzeros",
    "biases",
    "qbiases",
    "codebooks",
    "absmax",
    "quant_map",
    "tables",
    "tables2",
    "tlut",
    "compressed",
    "_shift",
    "svdquant_lora_a",
    "svdquant_lora_b",
    "forward_hadamard_matrix",
    "backward_hadamard_matrix",
];

/// Returns whether a name belongs to scales, zero points or a table.
pub(super) fn names_scales(name: &str) -> bool {
    let (module, last) = name.rsplit_once('.').unwrap_or(("", name));
    SCALE_NAMES.contains(&last)
        || last.starts_with("weight_scale")
        || always_scales(last)
        || last.ends_with("_scale")
        || last.ends_with("_scale_inv")
        || last == "weight" && module.ends_with("centroids")
}

/// Recognizes I8 or packed values whose scales have a shape or name that no known format has.
pub(super) fn with_scales(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
    let name = values.stored.name.as_str();
    let ends = SCALE_SUFFIXES.map(|end| format!("{name}{end}"));
    let beside = ["scale", "scales", "zeros", "scale_weight"];
    let beside =
        values.module("weight").map(|module| beside.map(|last| format!("{module}.{last}")));
    let beside = beside.map(|names| listing.present(&names)).unwrap_or_default();
    let others = [listing.present(&ends), beside].concat();
    if others.is_empty() || values.dtype().float().is_some() {
        return None;
    }
    let reason = "its scales are not those of a format that quantscope reads";
    Some(listing.named(values, name, "quantized", Some(reason.into())))
}
