//! compressed-tensors: int8 values, integers of 1 to 8 bits in 32-bit words, and NVFP4, MXFP4 and
//! MXFP6. Its FP8 formats are in `fp8`.

use crate::checkpoint::packed::bit_packing::Packing;
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::int8::{Int8, Int8Values};
use crate::checkpoint::packed::listing::{
    Listing, PartTensor, module_of, product, required, shape,
};
use crate::checkpoint::packed::numbers::Numbers;
use crate::checkpoint::packed::packed_integers::{Division, PackedIntegers, Zeros};
use crate::checkpoint::packed::quant_config::WeightScheme;
use crate::checkpoint::packed::scale_grid::ScaleGrid;
use crate::checkpoint::packed::scaled::{Codes, FirstNibble, GlobalScale, Scaled};
use crate::checkpoint::stored::StoredId;
use crate::quantization::Preset;
use crate::tensor::{DType, FloatType};

const NAME: &str = "compressed-tensors";

/// Quantization methods whose tensors have this format.
const METHODS: [&str; 1] = [NAME];

/// Recognizes I8 values with `_scale`, with or without a zero point.
pub(super) fn int8(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
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
        let scales = ScaleGrid::of_blocks(Numbers::new(scale, "scales")?, &shape, high, wide);
        let format = format!("{NAME} int8, blocks of {high}×{wide}");
        return Ok(signed_bytes(values, format, scales, original));
    }
    let division = Division::of(&scheme, scale, leading, rows, columns)?;
    if !leading.is_empty() {
        none(zeros, "zero points of stacked matrices")?;
        let columns = division.group().min(columns);
        let scales = ScaleGrid::of_blocks(Numbers::new(scale, "scales")?, &shape, 1, columns);
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
            scales: Numbers::new(scale, "scales")?,
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

/// Returns a tensor of I8 values with scales only.
pub(super) fn signed_bytes(
    values: PartTensor,
    name: String,
    scales: ScaleGrid,
    original: FloatType,
) -> PackedTensor {
    let shape = values.stored.shape.clone();
    let format = Scaled {
        name,
        values: values.id,
        codes: Codes::SignedBytes,
        parts: vec![scales.id()],
        scales: Some(scales),
        global: None,
        column_factor: None,
        rotation: None,
        through_bf16: false,
        preset: None,
        shape: shape.clone(),
        original,
    };
    PackedTensor::new(&values.stored.name, shape, format)
}

/// Recognizes `_packed` words or bytes.
pub(super) fn packed(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
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

/// Decodes I32 words of packed integers.
fn words(listing: &Listing, values: PartTensor, name: &str) -> Result<PackedTensor, String> {
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
    let zeros = match zeros {
        None => None,
        Some(_) if !leading.is_empty() => {
            return Err("it has zero points of stacked matrices, which are not read".into());
        }
        Some(part) => {
            let across = scale.dims().get(1).copied().unwrap_or(1);
            let down = scale.dims().first().copied().unwrap_or(1);
            beside.push(part.id);
            if *part.dtype() == DType::I8 {
                part.shaped("zero points", scale.dims())?;
                Some(Zeros::Bytes(part.id))
            } else {
                part.typed("zero points", &[DType::I32, DType::I8])?;
                let words = packing.bytes(0, down).end.div_ceil(4);
                part.shaped("packed zero points", &[words, across])?;
                Some(Zeros::Words { id: part.id, across })
            }
        }
    };
    let format = PackedIntegers {
        container: NAME,
        values: values.id,
        row_bytes: product(words, 4)?,
        packing,
        signed: false,
        shape: shape.clone(),
        division,
        scales: Numbers::new(scale, "scales")?,
        zeros,
        order: order_used,
        original: listing.original(scale.dtype()),
        beside: [&[scale.id], beside.as_slice()].concat(),
    };
    Ok(PackedTensor::new(name, shape, format))
}

/// Decodes packed E2M1 or E2M3: NVFP4, MXFP4 or MXFP6.
fn minifloats(listing: &Listing, values: PartTensor, name: &str) -> Result<PackedTensor, String> {
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
        let divisor = GlobalScale::Divides(Numbers::new(global, "global scale")?);
        (Numbers::new(scale, "scales")?, Some(divisor))
    } else {
        none(global, "a global scale")?;
        (Numbers::exponents(scale, "scales")?, None)
    };
    let original = listing.original(scale.dtype());
    let preset = match (nvfp4, bits, leading.is_empty()) {
        (true, _, true) => Some(Preset::Nvfp4A16),
        (false, 4, true) => Some(Preset::Mxfp4A16),
        _ => None,
    };
    let format = Scaled {
        name: match (nvfp4, bits) {
            (true, _) => "nvfp4, blocks of 16".to_owned(),
            (_, bits) => format!("mxfp{bits}, blocks of 32"),
        },
        values: values.id,
        codes: if bits == 6 { Codes::E2m3 } else { Codes::E2m1(FirstNibble::Low) },
        scales: Some(ScaleGrid::of_blocks(numbers, &shape, 1, group)),
        global,
        column_factor: None,
        rotation: None,
        // compressed-tensors decompresses NVFP4 in BF16, whatever type the weight had.
        through_bf16: nvfp4 && original != FloatType::BF16,
        preset,
        shape: shape.clone(),
        original,
        parts,
    };
    Ok(PackedTensor::new(name, shape, format))
}

/// Returns the leading dimensions of a stack of matrices, and the rows and columns of one.
fn stack<'p>(values: PartTensor<'p>, what: &str) -> Result<(&'p [u64], u64, u64), String> {
    match values.stored.shape.dims() {
        [leading @ .., rows, columns] if leading.len() <= 1 => Ok((leading, *rows, *columns)),
        _ => Err(values.matrix(what).err().unwrap_or_default()),
    }
}

/// Checks that an optional part is absent.
fn none(part: Option<PartTensor>, what: &str) -> Result<(), String> {
    match part {
        None => Ok(()),
        Some(part) => Err(format!("it has {what}, '{}'", part.stored.name.escape_debug())),
    }
}

/// Checks that the module has no further factors, which this decoder would ignore.
fn no_further_factors(listing: &Listing, name: &str) -> Result<(), String> {
    let module = module_of(name);
    let names = ["pre_quant_scale", "svdquant_lora_a", "weight_scale_2", "weight_scale_inv"];
    let found = names.iter().find_map(|last| listing.get(&format!("{module}.{last}")));
    none(found, "a further part of its equation")
}

/// Checks that parts required by the configuration exist.
fn agrees_with_parts(
    scheme: &WeightScheme,
    zeros: Option<PartTensor>,
    order: Option<PartTensor>,
) -> Result<(), String> {
    if scheme.symmetric == Some(false) && zeros.is_none() {
        return Err("config.json says that it is asymmetric, its zero points are missing".into());
    }
    if scheme.act_order.as_deref() == Some("group") && order.is_none() {
        return Err("config.json says activation order, its group indices are missing".into());
    }
    Ok(())
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

/// Returns the group index of each column if columns are reordered. All −1 means that they are not.
fn act_order(
    listing: &Listing,
    part: PartTensor,
    columns: u64,
) -> Result<Option<StoredId>, String> {
    part.typed("group indices", &[DType::I32])?;
    part.shaped("group indices", &[columns])?;
    let first = listing.start(part, 4)?;
    Ok((first != [0xFF; 4]).then_some(part.id))
}
