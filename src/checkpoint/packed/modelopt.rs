//! ModelOpt: NVFP4 and signed 4-bit integers, including the `pre_quant_scale` of AWQ and
//! SmoothQuant. Its FP8 formats are in `fp8`.

use crate::checkpoint::packed::float_part::FloatPart;
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::listing::{Listing, PartTensor, product, shape};
use crate::checkpoint::packed::scale_grid::ScaleGrid;
use crate::checkpoint::packed::scaled::{Codes, FirstNibble, GlobalScale, Scaled};
use crate::checkpoint::stored::StoredId;
use crate::tensor::DType;

/// Number of columns that share a scale in NVFP4.
const NVFP4_GROUP: u64 = 16;

/// Recognizes U8 `weight` with `weight_scale`.
pub(super) fn recognize(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
    let (DType::U8, Some(module)) = (values.dtype(), values.module("weight")) else { return None };
    let scale = listing.get(&format!("{module}.weight_scale"))?;
    let global = listing.get(&format!("{module}.weight_scale_2"));
    let named = listing.effective_method() == Some("modelopt");
    if !listing.allows(&["modelopt"]) || !(named || global.is_some()) {
        return None;
    }
    let name = values.stored.name.as_str();
    let (format, decoded) = match (scale.dtype(), global) {
        (DType::F8E4M3, Some(global)) => {
            ("modelopt nvfp4", nvfp4(listing, values, module, scale, global))
        }
        _ => ("modelopt int4", int4(listing, values, module, scale, global)),
    };
    Some(listing.decoded_or_named(values, name, format, decoded))
}

fn nvfp4(
    listing: &Listing,
    values: PartTensor,
    module: &str,
    scale: PartTensor,
    global: PartTensor,
) -> Result<PackedTensor, String> {
    let algorithm = algorithm(listing, module)?;
    if algorithm.is_some_and(|name| !(name.contains("NVFP4") || name.starts_with("MIXED"))) {
        return Err("config.json names another algorithm than NVFP4".into());
    }
    let (rows, bytes) = values.matrix("packed values")?;
    let columns = product(bytes, 2)?;
    let shape = shape(vec![rows, columns])?;
    scale.shaped("scales", &[rows, columns.div_ceil(NVFP4_GROUP)])?;
    let tiled = ScaleGrid::tiled_dims(rows, columns, NVFP4_GROUP);
    if listing.method().is_none() && scale.dims() == tiled {
        // ComfyUI uses the same names and shapes with another order.
        return Err(
            "its scales may be in row order or in tile order, and nothing in the files tells which"
                .into(),
        );
    }
    global.single("global scale")?;
    let (column_factor, factor) = column_factor(listing, module, columns)?;
    let parts = [scale.id, global.id].into_iter().chain(factor).collect();
    let name = match column_factor {
        Some(_) => "nvfp4, blocks of 16, with pre_quant_scale".to_owned(),
        None => "nvfp4, blocks of 16".to_owned(),
    };
    let codes = Codes::E2m1(FirstNibble::Low);
    let scales = ScaleGrid::of_blocks(FloatPart::new(scale, "scales")?, &shape, 1, NVFP4_GROUP);
    let global = Some(GlobalScale::Multiplies(FloatPart::new(global, "global scale")?));
    let original = listing.original(scale.dtype());
    let format = Scaled::new(name, values.id, codes, Some(scales), shape, original);
    Ok(Scaled { global, column_factor, parts, ..format }.into_tensor(&values.stored.name))
}

/// Decodes signed 4-bit integers, two rows in each row of bytes.
fn int4(
    listing: &Listing,
    values: PartTensor,
    module: &str,
    scale: PartTensor,
    global: Option<PartTensor>,
) -> Result<PackedTensor, String> {
    let algorithm = algorithm(listing, module)?;
    if algorithm.as_deref() != Some("W4A16_AWQ") || global.is_some() {
        return Err("config.json does not say W4A16_AWQ".into());
    }
    let (pairs, columns) = values.matrix("packed values")?;
    let rows = product(pairs, 2)?;
    let shape = shape(vec![rows, columns])?;
    let (_, groups) = scale.matrix("scales")?;
    let group = columns.checked_div(groups).filter(|group| group * groups == columns);
    let group = group.filter(|&group| group > 0);
    let group =
        group.ok_or_else(|| format!("its {groups} scales do not divide {columns} columns"))?;
    let configured = listing.module_number(module, &["group_size"]);
    if configured.is_some_and(|size| size > 0 && size as u64 != group) {
        return Err(format!(
            "its scales are for groups of {group}, but config.json gives another size"
        ));
    }
    scale.shaped("scales", &[rows, groups])?;
    let (column_factor, factor) = column_factor(listing, module, columns)?;
    let name = format!("modelopt int4, groups of {group}");
    let codes = Codes::SignedRowPairs;
    let scales = ScaleGrid::of_blocks(FloatPart::new(scale, "scales")?, &shape, 1, group);
    let parts = std::iter::once(scale.id).chain(factor).collect();
    let original = listing.original(scale.dtype());
    let format = Scaled::new(name, values.id, codes, Some(scales), shape, original);
    Ok(Scaled { column_factor, parts, ..format }.into_tensor(&values.stored.name))
}

/// Returns the configured algorithm; an error if its weights cannot be decoded.
fn algorithm(listing: &Listing, module: &str) -> Result<Option<String>, String> {
    let algorithm = listing.modelopt_algorithm();
    let low_rank = listing.get(&format!("{module}.svdquant_lora_a")).is_some();
    if low_rank || algorithm.as_deref().is_some_and(|name| name.contains("SVD")) {
        return Err("a low-rank product is part of its equation (SVDQuant)".into());
    }
    if listing.is_excluded(module) {
        return Err("config.json excludes its module from quantization".into());
    }
    if listing.get(&format!("{module}.weight_scale_inv")).is_some() {
        return Err("it has 'weight_scale_inv' as well".into());
    }
    Ok(algorithm)
}

/// Returns the factors of the columns, since `y = W (x * pre_quant_scale)`.
pub(super) fn column_factor(
    listing: &Listing,
    module: &str,
    columns: u64,
) -> Result<(Option<FloatPart>, Option<StoredId>), String> {
    let Some(part) = listing.get(&format!("{module}.pre_quant_scale")) else {
        return Ok((None, None));
    };
    part.shaped("pre_quant_scale", &[columns])?;
    if part.dtype().float().is_none() {
        return Err(format!("its pre_quant_scale is {}, expected floats", part.dtype()));
    }
    Ok((Some(FloatPart::new(part, "pre_quant_scale")?), Some(part.id)))
}
