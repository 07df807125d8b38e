//! Packed floats of 4 and 6 bits: NVFP4, MXFP4 and MXFP6.

use crate::checkpoint::packed::compressed_tensors::parts::{no_further_factors, none, stack};
use crate::checkpoint::packed::float_part::FloatPart;
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::listing::{
    Listing, PartTensor, module_of, product, required, shape,
};
use crate::checkpoint::packed::scale_grid::ScaleGrid;
use crate::checkpoint::packed::scaled::{Codes, FirstNibble, GlobalScale, Scaled};
use crate::quantization::Preset;
use crate::tensor::{DType, FloatType};

/// Decodes packed E2M1 or E2M3: NVFP4, MXFP4 or MXFP6.
pub(super) fn minifloats(
    listing: &Listing,
    values: PartTensor,
    name: &str,
) -> Result<PackedTensor, String> {
    values.typed("packed values", &[DType::U8])?;
    no_further_factors(listing, name)?;
    let scheme = listing.weight_scheme(module_of(name))?;
    if scheme.kind.as_deref().is_some_and(|kind| kind != "float") {
        return Err("config.json says that it holds integers".into());
    }
    let scale_name = format!("{name}_scale");
    let scale = required(listing.get(&scale_name), "scales", &scale_name)?;
    let global_name = format!("{name}_global_scale");
    let global = listing.get(&global_name);
    let (leading, rows, bytes) = stack(values, "packed values")?;
    let nvfp4 = *scale.dtype() == DType::F8E4M3;
    let columns = |bits: u64| product(bytes, 8).map(|all| all / bits);
    let six_bits =
        scheme.bits == Some(6) || scheme.format.as_deref() == Some("mxfp6-pack-quantized");
    let (format, bits, group) = match (nvfp4, six_bits) {
        (true, _) => ("nvfp4-pack-quantized", 4, 16),
        (false, false) => ("mxfp4-pack-quantized", 4, 32),
        (false, true) => ("mxfp6-pack-quantized", 6, 32),
    };
    scheme.stored_as(&[format])?;
    scheme.typed("float", bits)?;
    if scheme.group_size.is_some_and(|configured| configured != group) {
        return Err(format!("config.json does not say groups of {group}"));
    }
    let columns = columns(bits)?;
    if columns * bits != bytes * 8 {
        return Err(format!("its rows of {bytes} bytes do not hold whole values of {bits} bits"));
    }
    scale.shaped("scales", &[leading, &[rows, columns.div_ceil(group)]].concat())?;
    let shape = shape([leading, &[rows, columns]].concat())?;
    let mut parts = vec![scale.id];
    let (numbers, global) = if nvfp4 {
        let global = required(global, "global scale", &global_name)?;
        global.single("global scale")?;
        parts.push(global.id);
        let divisor = GlobalScale::Divides(FloatPart::new(global, "global scale")?);
        (FloatPart::new(scale, "scales")?, Some(divisor))
    } else {
        none(global, "a global scale")?;
        (FloatPart::exponents(scale, "scales")?, None)
    };
    let original = listing.original(scale.dtype());
    let preset = match (nvfp4, bits, leading.is_empty()) {
        (true, _, true) => Some(Preset::Nvfp4A16),
        (false, 4, true) => Some(Preset::Mxfp4A16),
        _ => None,
    };
    let format = match (nvfp4, bits) {
        (true, _) => "nvfp4, blocks of 16".to_owned(),
        (_, bits) => format!("mxfp{bits}, blocks of 32"),
    };
    let codes = if bits == 6 { Codes::E2m3 } else { Codes::E2m1(FirstNibble::Low) };
    let scales = ScaleGrid::of_blocks(numbers, &shape, 1, group);
    // compressed-tensors decompresses NVFP4 in BF16, whatever type the weight had.
    let through_bf16 = nvfp4 && original != FloatType::BF16;
    let format = Scaled::new(format, values.id, codes, Some(scales), shape, original);
    Ok(Scaled { global, through_bf16, preset, parts, ..format }.into_tensor(name))
}
