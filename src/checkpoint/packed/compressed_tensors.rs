//! compressed-tensors: int8 values beside their scales, and integers of 1 to 8 bits packed
//! into 32-bit words.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::bit_packing::{Packing, packed_rows};
use crate::checkpoint::packed::format::{PackedFormat, PackedTensor};
use crate::checkpoint::packed::int8::{Int8, Int8Values};
use crate::checkpoint::packed::listing::{Listing, Part, Recognised, product, required, shape};
use crate::checkpoint::packed::numbers::{Numbers, indices};
use crate::checkpoint::packed::runs::{columns_of, floats, runs, take};
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::quantization::QuantizationScheme;
use crate::tensor::{DType, FloatType, Shape};
use std::collections::BTreeSet;
use std::ops::Range;

/// What may lie beside the weight, and decoding needs not.
const BESIDE: [&str; 4] = ["input_scale", "input_zero_point", "output_scale", "output_zero_point"];

const CONTAINER: &str = "compressed-tensors";

/// How scales of a shape divide a matrix.
#[derive(Clone, Copy, Debug)]
enum Division {
    Tensor,
    Channel,
    /// Runs of so many columns.
    Group(u64),
}

impl Division {
    fn of(listing: &Listing, scale: Part, rows: u64, columns: u64) -> Result<Division, String> {
        let said = || weights(listing, "group_size").into_iter().find_map(|said| said.as_u64());
        match *scale.dims() {
            [] | [1] => Ok(Division::Tensor),
            // One group in a row is a channel, unless the config says group.
            [n, 1] if n == rows && said() == Some(columns) => Ok(Division::Group(columns)),
            [n] | [n, 1] if n == rows => Ok(Division::Channel),
            [n, groups] if n == rows && groups > 0 => {
                let said = said().filter(|&size| size > 0 && columns.div_ceil(size) == groups);
                let even = columns.checked_div(groups).filter(|n| n * groups == columns);
                said.or(even).filter(|&size| size > 0).map(Division::Group).ok_or_else(|| {
                    format!("its {groups} scales in a row do not divide its {columns} columns")
                })
            }
            _ => {
                scale.shaped("scales", &[rows, 1])?;
                Ok(Division::Channel)
            }
        }
    }

    /// Scales in a row of so many columns; `None` if all rows share one.
    fn across(self, columns: u64) -> Option<u64> {
        match self {
            Division::Tensor => None,
            Division::Channel => Some(1),
            Division::Group(size) => Some(columns.div_ceil(size)),
        }
    }

    /// Columns that share a scale.
    fn group(self) -> u64 {
        match self {
            Division::Tensor | Division::Channel => u64::MAX,
            Division::Group(size) => size,
        }
    }

    fn scheme(self) -> Result<QuantizationScheme, String> {
        Ok(match self {
            Division::Tensor => QuantizationScheme::PER_TENSOR,
            Division::Channel => QuantizationScheme::PER_CHANNEL,
            Division::Group(size) => QuantizationScheme::per_block(
                u32::try_from(size).map_err(|_| format!("its groups have {size} columns"))?,
            ),
        })
    }
}

/// What the config's groups say of weights under a key.
fn weights(listing: &Listing, key: &str) -> Vec<serde_json::Value> {
    let groups = listing.config.as_ref().and_then(|config| {
        let groups = config.quantization()?.get("config_groups")?.as_object()?;
        Some(groups.values().filter_map(|group| group.get("weights")?.get(key).cloned()).collect())
    });
    groups.unwrap_or_default()
}

/// I8 values with `_scale` beside them, with or without a zero point.
pub(super) fn int8(listing: &Listing, values: Part) -> Recognised {
    let name = &values.stored.name;
    let (DType::I8, Some(scale)) = (values.dtype(), listing.get(&format!("{name}_scale"))) else {
        return Ok(None);
    };
    let (rows, columns) = values.matrix("values")?;
    let division = Division::of(listing, scale, rows, columns)?;
    let Some(scale_type) = scale.dtype().float() else {
        return Err(format!("its scales are {}, expected floats", scale.dtype()).into());
    };
    let shape = values.stored.shape.clone();
    let module = name.rsplit_once('.').map_or("", |(module, _)| module);
    let mut beside = listing.members(module, &BESIDE);
    let order = listing.get(&format!("{name}_g_idx"));
    if let Some(zeros) = listing.get(&format!("{name}_zero_point")) {
        zeros.typed("zero points", &[DType::I8])?;
        zeros.shaped("zero points", scale.dims())?;
        let layout = Packed {
            values: values.id,
            row_bytes: columns,
            packing: Packing::Stream { bits: 8 },
            signed: true,
            shape: shape.clone(),
            division,
            scales: Numbers::new(scale, "scales")?,
            zeros: Some(Zeros::Bytes(zeros.id)),
            order: order.map(|part| act_order(listing, part, columns)).transpose()?.flatten(),
            original: listing.original(scale.dtype()),
            beside: [&[scale.id, zeros.id], beside.as_slice()].concat(),
        };
        return Ok(Some(PackedTensor::new(name, shape, layout)));
    }
    beside.extend(order.map(|part| part.id));
    let layout = Int8 {
        container: Some(CONTAINER),
        values: values.id,
        stored_as: Int8Values::Signed,
        scale: scale.id,
        scale_type,
        scheme: division.scheme()?,
        rounding: listing.rounding(values),
        calibration: listing.calibration(values, name),
        original: listing.original(scale.dtype()),
        shape: shape.clone(),
        beside,
    };
    Ok(Some(PackedTensor::new(name, shape, layout)))
}

/// I32 words of packed integers.
pub(super) fn packed(listing: &Listing, values: Part) -> Recognised {
    let Some(name) = values.stored.name.strip_suffix("_packed") else { return Ok(None) };
    if *values.dtype() != DType::I32 {
        return Ok(None);
    }
    let sibling = |suffix: &str| listing.get(&format!("{name}_{suffix}"));
    let (shape_name, scale_name) = (format!("{name}_shape"), format!("{name}_scale"));
    let dims_part = required(sibling("shape"), "dimensions", &shape_name)?;
    let scale = required(sibling("scale"), "scales", &scale_name)?;
    let (rows, words) = values.matrix("packed values")?;
    let (out, columns) = dimensions(listing, dims_part)?;
    if out != rows {
        let name = shape_name.escape_debug();
        return Err(format!("'{name}' says that it has {out} rows, its values have {rows}").into());
    }
    let bits = bits_of(listing, columns, words)?;
    let shape = shape(vec![out, columns])?;
    let division = Division::of(listing, scale, rows, columns)?;
    let module = name.rsplit_once('.').map_or("", |(module, _)| module);
    let zeros = sibling("zero_point");
    let order = sibling("g_idx");
    let mut beside = vec![dims_part.id];
    let order_read = order.map(|part| act_order(listing, part, columns)).transpose()?.flatten();
    beside.extend(order.map(|part| part.id));
    beside.extend(listing.members(module, &BESIDE));
    let per_word = u64::from(32 / bits);
    if let (8, None, None, true, Some(scale_type)) =
        (bits, zeros, order_read, columns % per_word == 0, scale.dtype().float())
    {
        let layout = Int8 {
            container: Some("compressed-tensors packed"),
            values: values.id,
            stored_as: Int8Values::Offset,
            scale: scale.id,
            scale_type,
            scheme: division.scheme()?,
            rounding: listing.rounding(values),
            calibration: listing.calibration(values, name),
            original: listing.original(scale.dtype()),
            shape: shape.clone(),
            beside,
        };
        return Ok(Some(PackedTensor::new(name, shape, layout)));
    }
    let zeros = zeros
        .map(|part| {
            let across = scale.dims().get(1).copied().unwrap_or(1);
            let down = scale.dims().first().copied().unwrap_or(1);
            beside.push(part.id);
            if *part.dtype() == DType::I8 {
                part.shaped("zero points", scale.dims())?;
                return Ok(Zeros::Bytes(part.id));
            }
            part.typed("zero points", &[DType::I32, DType::I8])?;
            part.shaped("packed zero points", &[down.div_ceil(per_word), across])?;
            Ok::<_, String>(Zeros::Words { id: part.id, across })
        })
        .transpose()?;
    let layout = Packed {
        values: values.id,
        row_bytes: product(words, 4)?,
        packing: Packing::Words { bits },
        signed: false,
        shape: shape.clone(),
        division,
        scales: Numbers::new(scale, "scales")?,
        zeros,
        order: order_read,
        original: listing.original(scale.dtype()),
        beside: [&[scale.id], beside.as_slice()].concat(),
    };
    Ok(Some(PackedTensor::new(name, shape, layout)))
}

/// Rows and columns, as an I64 pair of data says.
fn dimensions(
    listing: &Listing,
    part: Part,
) -> Result<(u64, u64), crate::checkpoint::packed::listing::Refusal> {
    part.typed("dimensions", &[DType::I64, DType::I32])?;
    part.shaped("dimensions", &[2])?;
    let bytes = listing.bytes(part, 16)?;
    let side = bytes.len() / 2;
    let dims: Vec<i64> = bytes
        .chunks_exact(side.max(1))
        .map(|raw| match (raw.try_into(), raw.try_into()) {
            (Ok(long), _) => i64::from_le_bytes(long),
            (_, Ok(short)) => i32::from_le_bytes(short).into(),
            _ => -1,
        })
        .collect();
    match dims.as_slice() {
        [rows, columns] if *rows >= 0 && *columns >= 0 => Ok((*rows as u64, *columns as u64)),
        _ => {
            let name = part.stored.name.escape_debug();
            Err(format!("'{name}' holds {dims:?}, expected its rows and columns").into())
        }
    }
}

/// The bits of a value, from how many words its columns take: as the config says, if it is
/// one of those that fit.
fn bits_of(listing: &Listing, columns: u64, words: u64) -> Result<u32, String> {
    let fits = |bits: &u32| columns.div_ceil(u64::from(32 / bits)) == words;
    let said: BTreeSet<u32> = weights(listing, "num_bits")
        .iter()
        .filter_map(|value| u32::try_from(value.as_u64()?).ok())
        .filter(|bits| (1..=8).contains(bits))
        .collect();
    let candidates: Vec<u32> = match said.is_empty() {
        true => [8, 4, 2].into_iter().filter(fits).collect(),
        false => said.iter().copied().filter(fits).collect(),
    };
    match candidates.as_slice() {
        [bits] => Ok(*bits),
        [] => Err(format!(
            "its {columns} columns do not fill {words} words with the {} bits a value that the config says",
            said.iter().map(u32::to_string).collect::<Vec<_>>().join(" or "),
        )),
        _ => Err(format!("its {words} words can be values of {candidates:?} bits")),
    }
}

/// The group of each column, if columns are out of order; all −1 says that they are not.
fn act_order(
    listing: &Listing,
    part: Part,
    columns: u64,
) -> Result<Option<StoredId>, crate::checkpoint::packed::listing::Refusal> {
    part.typed("group indices", &[DType::I32])?;
    part.shaped("group indices", &[columns])?;
    let first = listing.start(part, 4)?;
    Ok((first != [0xFF; 4]).then_some(part.id))
}

/// Packed integers with scales, and zero points perhaps: element `i` of a row is
/// `(q - z) * scale` of its group.
#[derive(Debug)]
struct Packed {
    values: StoredId,
    row_bytes: u64,
    packing: Packing,
    /// Whether bytes are signed; else they have half their range added.
    signed: bool,
    shape: Shape,
    division: Division,
    scales: Numbers,
    zeros: Option<Zeros>,
    order: Option<StoredId>,
    original: FloatType,
    beside: Vec<StoredId>,
}

#[derive(Debug)]
enum Zeros {
    /// One I8 for each scale.
    Bytes(StoredId),
    /// Packed as the values are, but along the rows.
    Words { id: StoredId, across: u64 },
}

impl Packed {
    /// The zero points of the scales `range`, for `across` in a row.
    fn zeros(&self, reader: &mut StoredReader, range: Range<u64>) -> Result<Vec<i32>> {
        let half = 1 << (self.packing.bits() - 1);
        let mut bytes = Vec::new();
        match self.zeros {
            None => Ok(vec![0; (range.end - range.start) as usize]),
            Some(Zeros::Bytes(id)) => {
                reader.stored_into(id, range, &mut bytes)?;
                Ok(bytes.iter().map(|&byte| i32::from(byte as i8)).collect())
            }
            Some(Zeros::Words { id, across }) => {
                let across = across.max(1);
                let per_word = u64::from(32 / self.packing.bits());
                let mask = (1u32 << self.packing.bits()) - 1;
                let rows = range.start / across..range.end.div_ceil(across);
                let words = rows.start / per_word..rows.end.div_ceil(per_word);
                let first = words.start * across;
                reader.stored_into(id, first * 4..words.end * across * 4, &mut bytes)?;
                let words = bytes.as_chunks::<4>().0;
                Ok(range
                    .map(|at| {
                        let (row, column) = (at / across, at % across);
                        let word = words.get((row / per_word * across + column - first) as usize);
                        let word = word.map_or(0, |word| u32::from_le_bytes(*word));
                        let shift = (row % per_word) as u32 * self.packing.bits();
                        ((word >> shift) & mask) as i32 - half
                    })
                    .collect())
            }
        }
    }
}

impl PackedFormat for Packed {
    fn name(&self) -> String {
        let zero = if self.zeros.is_some() { ", asymmetric" } else { "" };
        let order = if self.order.is_some() { ", act order" } else { "" };
        let bits = self.packing.bits();
        let division = match self.division {
            Division::Tensor => "per-tensor".to_owned(),
            Division::Channel => "per-channel".to_owned(),
            Division::Group(size) => format!("per-block:{size}"),
        };
        format!("{CONTAINER} int{bits} {division}{zero}{order}")
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
        let row_len = self.shape.row_len().max(1);
        let rows = range.start / row_len..range.end.div_ceil(row_len);
        let mut out = floats(out, &range);
        if rows.is_empty() {
            return Ok(());
        }
        let across = self.division.across(row_len);
        let order = match self.order {
            None => Vec::new(),
            Some(id) => {
                let columns = columns_of(&range, row_len);
                indices(reader, id, columns, across.unwrap_or(1))?
            }
        };
        // With columns out of order, any scale of a row may be asked for.
        let groups = match (across, &self.order) {
            (Some(n), None) if rows.end - rows.start == 1 => {
                let columns = columns_of(&range, row_len);
                let group = self.division.group();
                columns.start / group..columns.end.div_ceil(group).min(n)
            }
            (Some(n), _) => 0..n,
            (None, _) => 0..1,
        };
        let first_group = groups.start;
        let needed = match across {
            Some(n) => rows.start * n + groups.start..(rows.end - 1) * n + groups.end,
            None => groups,
        };
        let zeros = self.zeros(reader, needed.clone())?;
        let scales = self.scales.read(reader, needed)?;
        let half: i32 = 1 << (self.packing.bits() - 1);
        let mut codes = Vec::new();
        let group = self.division.group();
        let (first, bytes) =
            packed_rows(reader, self.values, self.packing, self.row_bytes, &range, row_len)?;
        for (row, columns) in runs(range.clone(), row_len) {
            let here = self.packing.bytes(columns.start, columns.end);
            let start = row * self.row_bytes;
            let here = (start + here.start - first) as usize..(start + here.end - first) as usize;
            let bytes = bytes.get(here).unwrap_or_default();
            codes.resize((columns.end - columns.start) as usize, 0);
            self.packing.unpack(bytes, columns.start, &mut codes);
            let at = across.map_or(0, |n| ((row - rows.start) * n) as usize);
            let of = |group: u64| {
                let at = at + group.saturating_sub(first_group) as usize;
                let scale = scales.get(at).copied().unwrap_or(f32::NAN);
                (scale, zeros.get(at).copied().unwrap_or(0))
            };
            let value = |code: u8, (scale, zero): (f32, i32)| {
                let q = if self.signed { i32::from(code as i8) } else { i32::from(code) - half };
                ((q - zero) as f32 * scale).to_le_bytes()
            };
            let out = take(&mut out, codes.len());
            if self.order.is_some() {
                let first = columns_of(&range, row_len).start;
                let order = order.get((columns.start - first) as usize..).unwrap_or_default();
                for ((out, &code), &group) in out.iter_mut().zip(&codes).zip(order) {
                    *out = value(code, of(group));
                }
                continue;
            }
            let mut column = columns.start;
            while column < columns.end {
                let index = column / group;
                let end = (index + 1).saturating_mul(group).min(columns.end);
                let part = (column - columns.start) as usize..(end - columns.start) as usize;
                let known = of(index);
                let codes = codes.get(part.clone()).unwrap_or_default();
                for (out, &code) in out.get_mut(part).unwrap_or_default().iter_mut().zip(codes) {
                    *out = value(code, known);
                }
                column = end;
            }
        }
        Ok(())
    }
}
