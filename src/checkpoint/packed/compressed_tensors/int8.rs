//! int8 values in the tensor's own shape.

use crate::checkpoint::packed::bit_packing::Packing;
use crate::checkpoint::packed::compressed_tensors::parts::{
    METHODS, NAME, act_order, agrees_with_parts, no_further_factors, none, stack,
};
use crate::checkpoint::packed::float_part::FloatPart;
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::int8::{Int8, Int8Values};
use crate::checkpoint::packed::listing::{Listing, PartTensor, module_of};
use crate::checkpoint::packed::packed_integers::{Division, PackedIntegers, Zeros};
use crate::checkpoint::packed::scale_grid::ScaleGrid;
use crate::checkpoint::packed::scaled::signed_bytes;
use crate::tensor::DType;

/// Recognizes I8 values with `_scale`, with or without a zero point.
pub(in crate::checkpoint::packed) fn int8(
    listing: &Listing,
    values: PartTensor,
) -> Option<PackedTensor> {
    let name = values.stored.name.as_str();
    if *values.dtype() != DType::I8 {
        return None;
    }
    let scale = listing.get(&format!("{name}_scale"))?;
    if let Some(method) = listing.effective_method().filter(|method| !METHODS.contains(method)) {
        return Some(listing.named(values, name, method, None));
    }
    let decoded = int8_parts(listing, values, scale);
    Some(listing.decoded_or_named(values, name, "compressed-tensors int8", decoded))
}

fn int8_parts(
    listing: &Listing,
    values: PartTensor,
    scale: PartTensor,
) -> Result<PackedTensor, String> {
    let name = values.stored.name.as_str();
    no_further_factors(listing, name)?;
    let scheme = listing.weight_scheme(module_of(name))?;
    scheme.stored_as(&["int-quantized", "naive-quantized"])?;
    scheme.typed("int", 8)?;
    let Some(scale_type) = scale.dtype().float() else {
        return Err(format!("its scales are {}, expected floats", scale.dtype()));
    };
    let (leading, rows, columns) = stack(values, "values")?;
    let shape = values.stored.shape.clone();
    let zeros = listing.get(&format!("{name}_zero_point"));
    let order = listing.get(&format!("{name}_g_idx"));
    agrees_with_parts(&scheme, zeros, order)?;
    let original = listing.original(scale.dtype());
    if let (Some("block"), Some((high, wide))) = (scheme.strategy.as_deref(), scheme.block) {
        let grid = [leading, &[rows.div_ceil(high), columns.div_ceil(wide)]].concat();
        scale.shaped("scales", &grid)?;
        none(zeros, "zero points of blocks")?;
        let scales = ScaleGrid::of_blocks(FloatPart::new(scale, "scales")?, &shape, high, wide);
        let format = format!("{NAME} int8, blocks of {high}×{wide}");
        return Ok(signed_bytes(values, format, scales, original));
    }
    let division = Division::of(&scheme, scale, leading, rows, columns)?;
    if !leading.is_empty() {
        none(zeros, "zero points of stacked matrices")?;
        let columns = division.group().min(columns);
        let scales = ScaleGrid::of_blocks(FloatPart::new(scale, "scales")?, &shape, 1, columns);
        let format = format!("{NAME} int8 {}", division.describe());
        return Ok(signed_bytes(values, format, scales, original));
    }
    let order_used = order.map(|part| act_order(listing, part, columns)).transpose()?.flatten();
    if zeros.is_some() || order_used.is_some() {
        let mut beside = vec![scale.id];
        if let Some(zeros) = zeros {
            zeros.typed("zero points", &[DType::I8])?;
            zeros.shaped("zero points", scale.dims())?;
            beside.push(zeros.id);
        }
        beside.extend(order.map(|part| part.id));
        let format = PackedIntegers {
            container: NAME,
            values: values.id,
            row_bytes: columns,
            packing: Packing::Stream { bits: 8 },
            signed: true,
            shape: shape.clone(),
            division,
            scales: FloatPart::new(scale, "scales")?,
            zeros: zeros.map(|zeros| Zeros::Bytes(zeros.id)),
            order: order_used,
            original,
            beside,
        };
        return Ok(PackedTensor::new(name, shape, format));
    }
    let format = Int8 {
        container: Some(NAME),
        values: values.id,
        stored_as: Int8Values::Signed,
        scale: scale.id,
        scale_type,
        biases: None,
        scheme: division.scheme()?,
        rounding: listing.rounding(values),
        calibration: listing.calibration(values, name),
        original,
        shape: shape.clone(),
        beside: order.map(|part| part.id).into_iter().collect(),
    };
    Ok(PackedTensor::new(name, shape, format))
}
