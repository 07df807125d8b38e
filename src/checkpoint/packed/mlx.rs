//! MLX: unsigned integers of 2 to 8 bits in one stream of bits along each row, with a
//! scale and a bias for each group: `q * scale + bias`.

use crate::checkpoint::config::QUANTIZATION_KEYS;
use crate::checkpoint::error::Result;
use crate::checkpoint::packed::bit_packing::{Packing, packed_rows};
use crate::checkpoint::packed::format::{PackedFormat, PackedTensor};
use crate::checkpoint::packed::listing::{Listing, Part, Recognised, product, shape};
use crate::checkpoint::packed::numbers::Numbers;
use crate::checkpoint::packed::runs::{columns_of, floats, runs, take};
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::tensor::{DType, FloatType, Shape};
use serde_json::Value;
use std::ops::Range;

#[derive(Debug)]
struct Affine {
    values: StoredId,
    row_bytes: u64,
    bits: u32,
    group: u64,
    scales: Numbers,
    biases: Numbers,
    shape: Shape,
    original: FloatType,
}

pub(super) fn recognise(listing: &Listing, values: Part) -> Recognised {
    let (DType::U32, Some(module)) = (values.dtype(), values.module("weight")) else {
        return Ok(None);
    };
    let named = |suffix: &str| listing.get(&format!("{module}.{suffix}"));
    let (Some(scale), Some(bias)) = (named("scales"), named("biases")) else { return Ok(None) };
    let (bits, group) = parameters(listing, module)?;
    let dims = values.dims();
    let (Some((&words, leading)), Some((&groups, _))) =
        (dims.split_last(), scale.dims().split_last())
    else {
        return Ok(None);
    };
    let columns = product(groups, group)?;
    if words.checked_mul(32) != columns.checked_mul(u64::from(bits)) {
        return Err(format!(
            "its {words} words in a row do not hold {columns} values of {bits} bits, as its scales and config.json say"
        )
        .into());
    }
    let mut expected = leading.to_vec();
    expected.push(groups);
    scale.shaped("scales", &expected)?;
    bias.shaped("biases", &expected)?;
    let mut dims = leading.to_vec();
    dims.push(columns);
    let shape = shape(dims)?;
    let layout = Affine {
        values: values.id,
        row_bytes: product(words, 4)?,
        bits,
        group,
        scales: Numbers::new(scale, "scales")?,
        biases: Numbers::new(bias, "biases")?,
        shape: shape.clone(),
        original: listing.original(scale.dtype()),
    };
    Ok(Some(PackedTensor::new(&values.stored.name, shape, layout)))
}

/// Bits and group size of a module: its own, or those of all.
fn parameters(listing: &Listing, module: &str) -> Result<(u32, u64), String> {
    let config = listing.config.as_ref();
    let all = config
        .and_then(|config| {
            let json = config.json();
            ["quantization"].iter().chain(&QUANTIZATION_KEYS).find_map(|&key| json.get(key))
        })
        .ok_or("no config.json says of how many bits its values are")?;
    let number = |key: &str| {
        let own = all.get(module).and_then(|own| own.get(key));
        own.or_else(|| all.get(key)).and_then(Value::as_u64)
    };
    let bits = number("bits").and_then(|bits| u32::try_from(bits).ok()).unwrap_or(4);
    let group = number("group_size").unwrap_or(64);
    if !(2..=8).contains(&bits) || group == 0 {
        return Err(format!(
            "config.json says {bits} bits in groups of {group}, expected 2 to 8 bits"
        ));
    }
    Ok((bits, group))
}

impl PackedFormat for Affine {
    fn name(&self) -> String {
        format!("mlx int{}, groups of {}", self.bits, self.group)
    }

    fn original(&self) -> FloatType {
        self.original
    }

    fn parts(&self) -> Vec<StoredId> {
        vec![self.values, self.scales.id, self.biases.id]
    }

    fn decode(
        &self,
        reader: &mut StoredReader,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let row_len = self.shape.row_len().max(1);
        let mut left = floats(out, &range);
        if range.is_empty() {
            return Ok(());
        }
        let packing = Packing::Stream { bits: self.bits };
        let (start, bytes) =
            packed_rows(reader, self.values, packing, self.row_bytes, &range, row_len)?;
        let across = row_len / self.group;
        let columns = columns_of(&range, row_len);
        let first = range.start / row_len * across + columns.start / self.group;
        let last = (range.end - 1) / row_len * across + columns.end.div_ceil(self.group);
        let scales = self.scales.read(reader, first..last)?;
        let biases = self.biases.read(reader, first..last)?;
        let mut codes = Vec::new();
        for (row, columns) in runs(range, row_len) {
            let here = packing.bytes(columns.start, columns.end);
            let at = row * self.row_bytes + here.start - start;
            codes.resize((columns.end - columns.start) as usize, 0);
            packing.unpack(bytes.get(at as usize..).unwrap_or_default(), columns.start, &mut codes);
            let mut codes = codes.as_mut_slice();
            let mut column = columns.start;
            while column < columns.end {
                let group = column / self.group;
                let end = columns.end.min((group + 1) * self.group);
                let at = (row * across + group - first) as usize;
                let scale = scales.get(at).copied().unwrap_or(f32::NAN);
                let bias = biases.get(at).copied().unwrap_or(f32::NAN);
                let count = (end - column) as usize;
                let codes = take(&mut codes, count);
                for (out, &mut code) in take(&mut left, count).iter_mut().zip(codes) {
                    *out = (f32::from(code) * scale + bias).to_le_bytes();
                }
                column = end;
            }
        }
        Ok(())
    }
}
