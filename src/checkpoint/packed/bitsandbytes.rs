//! bitsandbytes: 4-bit codes (nf4, fp4), high nibble first, with an absmax for each block of the
//! flattened tensor, which may itself be quantized; and int8 with an absmax per row.

use crate::checkpoint::config::float_type;
use crate::checkpoint::error::Result;
use crate::checkpoint::packed::float_part::FloatPart;
use crate::checkpoint::packed::format::{PackedFormat, PackedTensor};
use crate::checkpoint::packed::listing::{Listing, PartTensor, required, shape};
use crate::checkpoint::packed::quant_config::configured_dtype;
use crate::checkpoint::packed::runs::{floats, runs, take};
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::tensor::{DType, FloatType, Shape};
use serde::Deserialize;
use std::ops::Range;

/// Infix in the name of the tensor that describes a 4-bit tensor.
pub(super) const STATE: &str = ".quant_state.bitsandbytes__";

/// Maximum size of a description in bytes.
const STATE_LIMIT: u64 = 64 << 10;

/// The description of a 4-bit tensor.
#[derive(Debug, Deserialize)]
struct State {
    quant_type: String,
    blocksize: u64,
    dtype: String,
    shape: Vec<u64>,
    nested_blocksize: Option<u64>,
    nested_offset: Option<f64>,
}

#[derive(Debug)]
struct FourBits {
    name: String,
    values: StoredId,
    map: [f32; 16],
    block: u64,
    absmax: Absmax,
    original: FloatType,
    beside: Vec<StoredId>,
}

#[derive(Debug)]
enum Absmax {
    Plain(FloatPart),
    /// Codes with an absmax for each block of them, and an offset.
    Nested {
        codes: StoredId,
        map: Vec<f32>,
        absmax: FloatPart,
        block: u64,
        offset: f32,
    },
}

/// Recognizes the description of a 4-bit tensor, whose name contains the name of the values.
pub(super) fn four_bits(listing: &Listing, state: PartTensor) -> Option<PackedTensor> {
    let (name, _) = state.stored.name.split_once(STATE)?;
    let values = listing.get(name)?;
    let decoded = if listing.allows(&["bitsandbytes"]) {
        decoded_four_bits(listing, state, values)
    } else {
        Err("config.json names another quantization method".to_owned())
    };
    let others: Vec<StoredId> =
        listing.with_prefix(&format!("{name}.")).map(|part| part.id).collect();
    let named = |reason| listing.named_with(values, name, "bitsandbytes", Some(reason), &others);
    Some(decoded.unwrap_or_else(named))
}

fn decoded_four_bits(
    listing: &Listing,
    state: PartTensor,
    values: PartTensor,
) -> Result<PackedTensor, String> {
    let name = values.stored.name.as_str();
    let bytes = listing.bytes(state, STATE_LIMIT)?;
    let description: State = serde_json::from_slice(&bytes).map_err(|e| {
        format!("'{}' does not hold the expected JSON: {e}", state.stored.name.escape_debug())
    })?;
    let shape = shape(description.shape)?;
    let (elements, found) = (shape.elements(), values.stored.bytes());
    if found != elements.div_ceil(2) {
        let expected = elements.div_ceil(2);
        return Err(format!(
            "its shape {shape} needs {expected} bytes, '{}' has {found}",
            name.escape_debug()
        ));
    }
    let block = description.blocksize;
    if block == 0 {
        return Err("its blocks have no elements".to_owned());
    }
    let sibling = |suffix: &str| {
        let part = format!("{name}.{suffix}");
        required(listing.get(&part), suffix, &part)
    };
    let map = sibling("quant_map")?;
    map.shaped("quant_map", &[16])?;
    let map_numbers = FloatPart::new(map, "quant_map")?;
    let map_values = map_numbers.parse(&listing.bytes(map, 128)?);
    let absmax = sibling("absmax")?;
    let blocks = elements.div_ceil(block);
    absmax.shaped("absmax", &[blocks])?;
    let mut beside = vec![absmax.id, map.id, state.id];
    let absmax = if *absmax.dtype() == DType::U8 {
        let nested_map = sibling("nested_quant_map")?;
        nested_map.shaped("nested_quant_map", &[256])?;
        let nested = sibling("nested_absmax")?;
        let nested_block = description.nested_blocksize.filter(|&n| n > 0);
        let nested_block = nested_block.ok_or("its absmax is quantized in blocks of no size")?;
        nested.shaped("nested_absmax", &[blocks.div_ceil(nested_block)])?;
        beside.extend([nested_map.id, nested.id]);
        let numbers = FloatPart::new(nested_map, "nested_quant_map")?;
        Absmax::Nested {
            codes: absmax.id,
            map: numbers.parse(&listing.bytes(nested_map, 2048)?),
            absmax: FloatPart::new(nested, "nested_absmax")?,
            block: nested_block,
            offset: description.nested_offset.unwrap_or(0.0) as f32,
        }
    } else {
        Absmax::Plain(FloatPart::new(absmax, "absmax")?)
    };
    let double = if matches!(absmax, Absmax::Nested { .. }) { ", double quantized" } else { "" };
    let format = FourBits {
        name: format!(
            "bitsandbytes {}, blocks of {block}{double}",
            description.quant_type.escape_debug()
        ),
        values: values.id,
        map: map_values
            .try_into()
            .map_err(|_| "its quant_map does not have 16 values".to_owned())?,
        block,
        absmax,
        original: float_type(&description.dtype).unwrap_or_else(|| listing.original(&DType::F32)),
        beside,
    };
    Ok(PackedTensor::new(name, shape, format))
}

impl FourBits {
    /// Returns the absmax of each block in `range`.
    fn absmax(&self, reader: &mut StoredReader, range: Range<u64>) -> Result<Vec<f32>> {
        match &self.absmax {
            Absmax::Plain(numbers) => numbers.read(reader, range),
            Absmax::Nested { codes, map, absmax, block, offset } => {
                let mut bytes = Vec::new();
                reader.stored_into(*codes, range.clone(), &mut bytes)?;
                let first = range.start / block;
                let absmax = absmax.read(reader, first..range.end.div_ceil(*block))?;
                let value = |(at, code): (u64, &u8)| {
                    let scale = absmax.get((at / block - first) as usize).copied();
                    let level = map.get(usize::from(*code)).copied().unwrap_or(f32::NAN);
                    level * scale.unwrap_or(f32::NAN) + offset
                };
                Ok(range.zip(&bytes).map(value).collect())
            }
        }
    }
}

impl PackedFormat for FourBits {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn original(&self) -> FloatType {
        self.original
    }

    fn parts(&self) -> Vec<StoredId> {
        [&[self.values], self.beside.as_slice()].concat()
    }

    fn decode(
        &self,
        reader: &mut StoredReader,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut left = floats(out, &range);
        let first = range.start / 2;
        let mut bytes = Vec::new();
        reader.stored_into(self.values, first..range.end.div_ceil(2), &mut bytes)?;
        let first_block = range.start / self.block;
        let blocks = first_block..range.end.div_ceil(self.block).max(first_block);
        let absmax = self.absmax(reader, blocks)?;
        for (block, within) in runs(range, self.block) {
            let scale = absmax.get((block - first_block) as usize).copied().unwrap_or(f32::NAN);
            let scaled = self.map.map(|level| level * scale);
            let out = take(&mut left, (within.end - within.start) as usize);
            for (out, within) in out.iter_mut().zip(within) {
                let at = block * self.block + within;
                let byte = bytes.get((at / 2 - first) as usize).copied().unwrap_or(0);
                let code = if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
                *out = scaled[usize::from(code)].to_le_bytes();
            }
        }
        Ok(())
    }
}

/// 1/127 in F32. bitsandbytes multiplies by it; a division would give other bits.
const PER_CODE: f32 = 1.0 / 127.0;

/// Int8 with an absmax per row: `q * SCB * (1/127)`.
#[derive(Debug)]
struct EightBits {
    values: StoredId,
    absmax: FloatPart,
    shape: Shape,
    original: FloatType,
    beside: Vec<StoredId>,
}

/// Recognizes I8 `weight` with `SCB`.
pub(super) fn eight_bits(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
    let (DType::I8, Some(module)) = (values.dtype(), values.module("weight")) else { return None };
    let absmax = listing.get(&format!("{module}.SCB"))?;
    let name = values.stored.name.as_str();
    let decoded = || {
        if !listing.allows(&["bitsandbytes"]) {
            return Err("config.json names another quantization method".to_owned());
        }
        let (rows, _) = values.matrix("values")?;
        absmax.shaped("row maxima", &[rows])?;
        if absmax.dtype().float().is_none() {
            return Err(format!("its row maxima are {}, expected floats", absmax.dtype()));
        }
        if listing.get(&format!("{name}_scale")).is_some() {
            return Err("it has scales of another format as well".into());
        }
        let shape = values.stored.shape.clone();
        let format = EightBits {
            values: values.id,
            absmax: FloatPart::new(absmax, "row maxima")?,
            shape: shape.clone(),
            // The maxima are F32 whatever the model's type; transformers creates these tensors from
            // F16.
            original: configured_dtype(listing).unwrap_or(FloatType::F16),
            beside: vec![absmax.id],
        };
        Ok(PackedTensor::new(name, shape, format))
    };
    Some(listing.decoded_or_named(values, name, "bitsandbytes int8", decoded()))
}

impl PackedFormat for EightBits {
    fn name(&self) -> String {
        "bitsandbytes int8 per-channel".to_owned()
    }

    fn original(&self) -> FloatType {
        self.original
    }

    fn parts(&self) -> Vec<StoredId> {
        [&[self.values], self.beside.as_slice()].concat()
    }

    fn decode(
        &self,
        reader: &mut StoredReader,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut left = floats(out, &range);
        let row_len = self.shape.row_len().max(1);
        let mut bytes = Vec::new();
        reader.stored_into(self.values, range.clone(), &mut bytes)?;
        let mut codes = bytes.as_mut_slice();
        let first = range.start / row_len;
        let absmax = self.absmax.read(reader, first..range.end.div_ceil(row_len).max(first))?;
        for (row, columns) in runs(range, row_len) {
            let absmax = absmax.get((row - first) as usize).copied().unwrap_or(f32::NAN);
            let count = (columns.end - columns.start) as usize;
            let codes = take(&mut codes, count);
            for (out, &mut code) in take(&mut left, count).iter_mut().zip(codes) {
                *out = (f32::from(code as i8) * absmax * PER_CODE).to_le_bytes();
            }
        }
        Ok(())
    }
}
