//! Integers of 1 to 8 bits, packed into 32-bit words.

use crate::checkpoint::packed::bit_packing::Packing;
use crate::checkpoint::packed::compressed_tensors::parts::{
    NAME, act_order, agrees_with_parts, no_further_factors, stack,
};
use crate::checkpoint::packed::float_part::FloatPart;
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::int8::{Int8, Int8Values};
use crate::checkpoint::packed::listing::{
    Listing, PartTensor, module_of, product, required, shape,
};
use crate::checkpoint::packed::packed_integers::{Division, PackedIntegers, Zeros};
use crate::checkpoint::packed::quant_config::WeightScheme;
use crate::tensor::DType;

/// Decodes I32 words of packed integers.
pub(super) fn words(
    listing: &Listing,
    values: PartTensor,
    name: &str,
) -> Result<PackedTensor, String> {
    no_further_factors(listing, name)?;
    let sibling = |suffix: &str| listing.get(&format!("{name}_{suffix}"));
    let (shape_name, scale_name) = (format!("{name}_shape"), format!("{name}_scale"));
    let dims_part = required(sibling("shape"), "dimensions", &shape_name)?;
    let scale = required(sibling("scale"), "scales", &scale_name)?;
    let scheme = listing.weight_scheme(module_of(name))?;
    scheme.stored_as(&["pack-quantized"])?;
    if scheme.kind.as_deref().is_some_and(|kind| kind != "int") {
        return Err("config.json says that it holds floats".into());
    }
    let (leading, rows, words) = stack(values, "packed values")?;
    let dims = dimensions(listing, dims_part, leading.len() + 2)?;
    let Some((&columns, outer)) = dims.split_last() else {
        return Err("it has no dimensions".into());
    };
    if *outer != *[leading, &[rows]].concat() {
        let shape_name = shape_name.escape_debug();
        return Err(format!(
            "'{shape_name}' says {dims:?}, its values are {}",
            values.stored.shape
        ));
    }
    let packing = packing(listing, &scheme, columns, words)?;
    let bits = packing.bits();
    if bits == 8 && scheme.bits.is_none() && !uses_all_bits(&listing.start(values, 1 << 14)?) {
        return Err("its words hold values of 8 bits or of 7, and config.json does not say".into());
    }
    let zeros = sibling("zero_point");
    let order = sibling("g_idx");
    agrees_with_parts(&scheme, zeros, order)?;
    let shape = shape(dims.clone())?;
    let division = Division::of(&scheme, scale, leading, rows, columns)?;
    let mut beside = vec![dims_part.id];
    let order_used = order.map(|part| act_order(listing, part, columns)).transpose()?.flatten();
    beside.extend(order.map(|part| part.id));
    let whole_words = columns % 4 == 0 && leading.is_empty();
    if let (8, None, None, true, Some(scale_type)) =
        (bits, zeros, order_used, whole_words, scale.dtype().float())
    {
        let format = Int8 {
            container: Some("compressed-tensors packed"),
            values: values.id,
            stored_as: Int8Values::Offset,
            scale: scale.id,
            scale_type,
            biases: None,
            scheme: division.scheme()?,
            rounding: listing.rounding(values),
            calibration: listing.calibration(values, name),
            original: listing.original(scale.dtype()),
            shape: shape.clone(),
            beside,
        };
        return Ok(PackedTensor::new(name, shape, format));
    }
    if zeros.is_some() && !leading.is_empty() {
        return Err("it has zero points of stacked matrices, which are not read".into());
    }
    beside.extend(zeros.map(|part| part.id));
    let zeros = zeros.map(|part| zero_points(part, scale, packing)).transpose()?;
    let format = PackedIntegers {
        container: NAME,
        values: values.id,
        row_bytes: product(words, 4)?,
        packing,
        signed: false,
        shape: shape.clone(),
        division,
        scales: FloatPart::new(scale, "scales")?,
        zeros,
        order: order_used,
        original: listing.original(scale.dtype()),
        beside: [&[scale.id], beside.as_slice()].concat(),
    };
    Ok(PackedTensor::new(name, shape, format))
}

/// Returns the zero points in `part`: one byte each, or packed like the values along the rows.
fn zero_points(part: PartTensor, scale: PartTensor, packing: Packing) -> Result<Zeros, String> {
    if *part.dtype() == DType::I8 {
        part.shaped("zero points", scale.dims())?;
        return Ok(Zeros::Bytes(part.id));
    }
    part.typed("zero points", &[DType::I32, DType::I8])?;
    let across = scale.dims().get(1).copied().unwrap_or(1);
    let down = scale.dims().first().copied().unwrap_or(1);
    let words = packing.bytes(0, down).end.div_ceil(4);
    part.shaped("packed zero points", &[words, across])?;
    Ok(Zeros::Words { id: part.id, across })
}

/// Returns the dimensions stored in a small tensor of integers.
fn dimensions(listing: &Listing, part: PartTensor, rank: usize) -> Result<Vec<u64>, String> {
    part.typed("dimensions", &[DType::I64, DType::I32])?;
    part.shaped("dimensions", &[rank as u64])?;
    let bytes = listing.bytes(part, 64)?;
    let side = bytes.len() / rank.max(1);
    let dims: Vec<i64> = bytes
        .chunks_exact(side.max(1))
        .map(|raw| match (raw.try_into(), raw.try_into()) {
            (Ok(long), _) => i64::from_le_bytes(long),
            (_, Ok(short)) => i32::from_le_bytes(short).into(),
            _ => -1,
        })
        .collect();
    let checked: Option<Vec<u64>> = dims.iter().map(|&dim| u64::try_from(dim).ok()).collect();
    checked.ok_or_else(|| {
        let name = part.stored.name.escape_debug();
        format!("'{name}' holds {dims:?}, expected its rows and columns")
    })
}

/// Returns how integers fill the words of a row: with the configured number of bits if that fits,
/// else with the only number of bits that fits.
fn packing(
    listing: &Listing,
    scheme: &WeightScheme,
    columns: u64,
    words: u64,
) -> Result<Packing, String> {
    let candidates: Vec<u64> = match scheme.bits {
        Some(bits) => vec![bits],
        None => vec![8, 4, 2],
    };
    let mut fitting = Vec::new();
    for bits in candidates.into_iter().filter(|bits| (1..=8).contains(bits)) {
        let whole = columns.div_ceil(32 / bits) == words;
        let dense = product(columns, bits)?.div_ceil(32) == words;
        let bits = bits as u32;
        match (32 % bits == 0, whole, dense) {
            (_, false, false) => {}
            (true, _, _) | (_, true, false) => fitting.push(Packing::Words { bits }),
            (_, false, true) => fitting.push(Packing::Stream { bits }),
            // Only the version number distinguishes these two.
            (_, true, true) => match listing.packs_densely() {
                Some(true) => fitting.push(Packing::Stream { bits }),
                Some(false) => fitting.push(Packing::Words { bits }),
                None => {
                    return Err(format!(
                        "its {words} words have two possible layouts for {bits}-bit values, and config.json gives no version of compressed-tensors"
                    ));
                }
            },
        }
    }
    match fitting.as_slice() {
        [packing] => Ok(*packing),
        [] => {
            let bits = scheme.bits.map_or("2, 4 or 8".to_owned(), |bits| bits.to_string());
            Err(format!("its {columns} columns do not fill {words} words with {bits} bits a value"))
        }
        _ => Err(format!("its {words} words can hold values of several widths")),
    }
}

/// Returns whether any word has one of its highest four bits, which four values of 7 bits leave
/// free.
fn uses_all_bits(words: &[u8]) -> bool {
    words.as_chunks::<4>().0.iter().any(|raw| u32::from_le_bytes(*raw) >> 28 != 0)
}
