//! optimum-quanto: `m.weight._data` and `m.weight._scale`, which multiplies.

use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::fp8::{Fp8, Scales};
use crate::checkpoint::packed::int8::{Int8, Int8Values};
use crate::checkpoint::packed::listing::{Listing, Part, Recognised, required};
use crate::checkpoint::packed::numbers::Numbers;
use crate::quantization::{Calibration, QuantizationScheme, Rounding};
use crate::tensor::DType;
use crate::tensor::minifloat::value_table;

/// Int8 or FP8 values with a scale per channel or tensor. Its types of fewer bits are
/// known by name only.
pub(super) fn recognise(listing: &Listing, values: Part) -> Recognised {
    let Some(name) = values.stored.name.strip_suffix("._data") else { return Ok(None) };
    let small = value_table(values.dtype());
    if *values.dtype() != DType::I8 && small.is_none() {
        return Ok(None);
    }
    let scale_name = format!("{name}._scale");
    let scale = required(listing.get(&scale_name), "scales", &scale_name)?;
    let shape = values.stored.shape.clone();
    let per_tensor = scale.stored.shape.elements() == 1;
    if !per_tensor {
        let mut expected = vec![1; shape.rank()];
        if let (Some(first), Some(&rows)) = (expected.first_mut(), shape.dims().first()) {
            *first = rows;
        }
        scale.shaped("scales", &expected)?;
    }
    let module = name.rsplit_once('.').map_or("", |(module, _)| module);
    let activations = listing.members(module, &["input_scale", "output_scale"]);
    let original = listing.original(scale.dtype());
    if let Some(table) = small {
        let numbers = Numbers::new(scale, "scales")?;
        if shape.rank() != 2 && !per_tensor {
            return Ok(None);
        }
        let scales = match per_tensor {
            true => Scales::of_tensor(numbers, &shape),
            false => Scales::of_rows(numbers, &shape),
        };
        let layout = Fp8 {
            name: format!("quanto fp8 {}", if per_tensor { "per-tensor" } else { "per-channel" }),
            values: values.id,
            table,
            scales: Some(scales),
            shape: shape.clone(),
            original,
            beside: [&[scale.id], activations.as_slice()].concat(),
        };
        return Ok(Some(PackedTensor::new(name, shape, layout)));
    }
    let Some(scale_type) = scale.dtype().float() else {
        return Err(format!("its scales are {}, expected floats", scale.dtype()).into());
    };
    let layout = Int8 {
        container: Some("quanto"),
        values: values.id,
        stored_as: Int8Values::Signed,
        scale: scale.id,
        scale_type,
        scheme: match per_tensor {
            true => QuantizationScheme::PER_TENSOR,
            false => QuantizationScheme::PER_CHANNEL,
        },
        rounding: Rounding::default(),
        calibration: Calibration::default(),
        original,
        shape: shape.clone(),
        beside: activations,
    };
    Ok(Some(PackedTensor::new(name, shape, layout)))
}
