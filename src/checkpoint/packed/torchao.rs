//! torchao's `Int8Tensor` in safetensors files: the parts of `L.weight` are `L._weight_qdata`,
//! `L._weight_scale` and optionally `L._weight_zero_point`; the file's metadata has the parameters
//! under `L.weight`.

use crate::checkpoint::config::float_type;
use crate::checkpoint::packed::bit_packing::Packing;
use crate::checkpoint::packed::float_part::FloatPart;
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::int8::{Int8, Int8Values};
use crate::checkpoint::packed::listing::{Listing, PartTensor, required};
use crate::checkpoint::packed::packed_integers::{Division, PackedIntegers, Zeros};
use crate::tensor::{DType, FloatType};
use serde_json::Value;

/// The name of the container.
pub(crate) const NAME: &str = "torchao";

/// Maximum number of zero points that are read to check whether all are zero.
const ZEROS_LIMIT: u64 = 1 << 20;

/// Returns whether a metadata entry is part of torchao's description of its tensors.
pub(crate) fn describes_tensors(key: &str, value: &str) -> bool {
    match serde_json::from_str::<Value>(value) {
        Ok(Value::Array(_)) => key == "tensor_names",
        Ok(Value::Object(object)) => object
            .get("_type")
            .and_then(Value::as_str)
            .is_some_and(|class| class.ends_with("Tensor")),
        _ => false,
    }
}

/// Recognizes the values of an `Int8Tensor`. Other classes are not decoded.
pub(super) fn recognize(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
    let module = values.module("_weight_qdata")?;
    let name = format!("{module}.weight");
    let text = listing.metadata(values, &name)?;
    let described: Value = serde_json::from_str(text).ok()?;
    if described.get("_type").and_then(Value::as_str) != Some("Int8Tensor") {
        return None;
    }
    let decoded = decoded(listing, values, module, &name, &described);
    Some(listing.decoded_or_named(values, &name, NAME, decoded))
}

fn decoded(
    listing: &Listing,
    values: PartTensor,
    module: &str,
    name: &str,
    described: &Value,
) -> Result<PackedTensor, String> {
    values.typed("values", &[DType::I8])?;
    let (rows, columns) = values.matrix("values")?;
    let part = |last: &str| listing.get(&format!("{module}._weight_{last}"));
    if part("act_pre_scale").is_some() {
        return Err("its inputs are multiplied by factors before it".into());
    }
    let scale = required(part("scale"), "scales", &format!("{module}._weight_scale"))?;
    let Some(scale_type) = scale.dtype().float() else {
        return Err(format!("its scales are {}, expected floats", scale.dtype()));
    };
    let data = described.get("_data").ok_or("its metadata has no parameters")?;
    let (division, grid) = division(data, rows, columns)?;
    scale.shaped("scales", &grid)?;
    let original = original(data).unwrap_or_else(|| listing.original(scale.dtype()));
    let activations = ["act_quant_scale", "act_quant_zero_point"].map(part);
    let mut beside: Vec<_> = activations.into_iter().flatten().map(|part| part.id).collect();
    let shape = values.stored.shape.clone();
    let zeros = part("zero_point");
    if let Some(zeros) = zeros {
        zeros.typed("zero points", &[DType::I8])?;
        zeros.shaped("zero points", &grid)?;
        beside.push(zeros.id);
    }
    if let Some(zeros) = zeros.filter(|zeros| !are_zero(listing, *zeros)) {
        beside.push(scale.id);
        let format = PackedIntegers {
            container: NAME,
            values: values.id,
            row_bytes: columns,
            packing: Packing::Stream { bits: 8 },
            signed: true,
            shape: shape.clone(),
            division,
            scales: FloatPart::new(scale, "scales")?,
            zeros: Some(Zeros::Bytes(zeros.id)),
            order: None,
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
        beside,
    };
    Ok(PackedTensor::new(name, shape, format))
}

/// Returns the division among scales and the dimensions of the scales.
fn division(data: &Value, rows: u64, columns: u64) -> Result<(Division, [u64; 2]), String> {
    let block = data.get("block_size").and_then(Value::as_array);
    let block: Vec<u64> = block.into_iter().flatten().filter_map(Value::as_u64).collect();
    match *block.as_slice() {
        [r, c] if (r, c) == (rows, columns) && rows > 1 => Ok((Division::Tensor, [1, 1])),
        [1, c] if c == columns => Ok((Division::Channel, [rows, 1])),
        [1, c] if c > 0 && columns.is_multiple_of(c) => {
            Ok((Division::Group(c), [rows, columns / c]))
        }
        _ => {
            Err(format!("its blocks of {block:?} do not fit its {rows} rows and {columns} columns"))
        }
    }
}

/// Returns whether a part holds only zeros; false if it is too large to read.
fn are_zero(listing: &Listing, zeros: PartTensor) -> bool {
    listing.bytes(zeros, ZEROS_LIMIT).is_ok_and(|bytes| bytes.iter().all(|&byte| byte == 0))
}

/// Returns the type of the tensor before quantization.
fn original(data: &Value) -> Option<FloatType> {
    float_type(data.get("dtype")?.get("_data")?.as_str()?)
}
