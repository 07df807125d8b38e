//! optimum-quanto: `m.weight._data` multiplied by `m.weight._scale`.

use crate::checkpoint::packed::float_part::FloatPart;
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::int8::{Int8, Int8Values};
use crate::checkpoint::packed::listing::{Listing, PartTensor, required};
use crate::checkpoint::packed::scale_grid::ScaleGrid;
use crate::checkpoint::packed::scaled::{Codes, Scaled};
use crate::quantization::{Calibration, QuantizationScheme, Rounding};
use crate::tensor::DType;
use crate::tensor::minifloat::value_table;

/// Recognizes int8 or FP8 values with one scale, or one per channel. Types of fewer bits are not
/// decoded.
pub(super) fn recognize(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
    let name = values.stored.name.strip_suffix("._data")?;
    if *values.dtype() != DType::I8 && value_table(values.dtype()).is_none() {
        return None;
    }
    let decoded = if listing.allows(&["quanto"]) {
        decoded(listing, values, name)
    } else {
        Err("config.json names another quantization method".to_owned())
    };
    Some(listing.decoded_or_named(values, name, "quanto", decoded))
}

fn decoded(listing: &Listing, values: PartTensor, name: &str) -> Result<PackedTensor, String> {
    let scale_name = format!("{name}._scale");
    let scale = required(listing.get(&scale_name), "scales", &scale_name)?;
    if listing.get(&format!("{name}._shift")).is_some() {
        return Err("it has shifts, expected scales only".into());
    }
    let shape = values.stored.shape.clone();
    let per_tensor = scale.elements() == 1;
    if !per_tensor {
        let mut expected = vec![1; shape.rank()];
        if let (Some(first), Some(&rows)) = (expected.first_mut(), shape.dims().first()) {
            *first = rows;
        }
        scale.shaped("scales", &expected)?;
    }
    let Some(scale_type) = scale.dtype().float() else {
        return Err(format!("its scales are {}, expected floats", scale.dtype()));
    };
    let original = listing.original(scale.dtype());
    if let Some(table) = value_table(values.dtype()) {
        if shape.rank() != 2 && !per_tensor {
            return Err("it has scales per channel, expected two dimensions".into());
        }
        let numbers = FloatPart::new(scale, "scales")?;
        let grid = if per_tensor {
            ScaleGrid::of_tensor(numbers, &shape)
        } else {
            ScaleGrid::of_rows(numbers, &shape)
        };
        let format =
            format!("quanto fp8 {}", if per_tensor { "per-tensor" } else { "per-channel" });
        let codes = Codes::Bytes(table);
        let format = Scaled::new(format, values.id, codes, Some(grid), shape, original);
        return Ok(format.into_tensor(name));
    }
    let format = Int8 {
        container: Some("quanto"),
        values: values.id,
        stored_as: Int8Values::Signed,
        scale: scale.id,
        scale_type,
        biases: None,
        scheme: if per_tensor {
            QuantizationScheme::PER_TENSOR
        } else {
            QuantizationScheme::PER_CHANNEL
        },
        rounding: Rounding::default(),
        calibration: Calibration::default(),
        original,
        shape: shape.clone(),
        beside: Vec::new(),
    };
    Ok(PackedTensor::new(name, shape, format))
}
