//! Integers of 1 to 8 bits with scales and zero points, as stored by compressed-tensors and
//! torchao.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::bit_packing::{Packing, packed_rows};
use crate::checkpoint::packed::float_part::{FloatPart, indices};
use crate::checkpoint::packed::format::PackedFormat;
use crate::checkpoint::packed::listing::PartTensor;
use crate::checkpoint::packed::quant_config::WeightScheme;
use crate::checkpoint::packed::runs::{columns_of, floats, runs, take};
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::quantization::{Preset, QuantizationScheme};
use crate::tensor::{FloatType, Shape};
use std::ops::Range;

/// The division of a matrix among scales.
#[derive(Clone, Copy, Debug)]
pub(super) enum Division {
    Tensor,
    Channel,
    /// Groups of this many columns.
    Group(u64),
}

impl Division {
    /// Returns the division implied by the shape of the scales and consistent with the
    /// configuration. `leading` are the dimensions of a stack of matrices.
    pub(super) fn of(
        scheme: &WeightScheme,
        scale: PartTensor,
        leading: &[u64],
        rows: u64,
        columns: u64,
    ) -> Result<Division, String> {
        let division = Division::of_shape(scheme, scale, leading, rows, columns)?;
        let agrees = match (scheme.strategy.as_deref(), division) {
            (None, _) | (Some("tensor"), Division::Tensor) => true,
            (Some("channel"), Division::Channel) => true,
            (Some("group" | "tensor_group"), Division::Group(size)) => {
                scheme.group_size.is_none_or(|configured| configured == size)
            }
            // With one row or one column, two strategies give scales of the same shape.
            (Some("tensor"), Division::Channel) | (Some("channel"), Division::Tensor) => rows == 1,
            _ => false,
        };
        let strategy = scheme.strategy.as_deref().unwrap_or_default();
        agrees.then_some(division).ok_or_else(|| {
            format!(
                "config.json says strategy '{}', its scales are {}",
                strategy.escape_debug(),
                scale.stored.shape
            )
        })
    }

    fn of_shape(
        scheme: &WeightScheme,
        scale: PartTensor,
        leading: &[u64],
        rows: u64,
        columns: u64,
    ) -> Result<Division, String> {
        let size = scheme.group_size.filter(|&size| size > 0);
        let grouped = scheme.strategy.as_deref() == Some("group");
        let dims = match scale.dims().strip_prefix(leading) {
            Some(dims) => dims,
            None => {
                return Err(scale
                    .shaped("scales", &[leading, &[rows, 1]].concat())
                    .err()
                    .unwrap_or_default());
            }
        };
        match *dims {
            [] | [1] | [1, 1] if leading.is_empty() && rows != 1 => Ok(Division::Tensor),
            [] | [1] if leading.is_empty() => Ok(Division::Tensor),
            // One group per row is a channel, unless the configuration says group.
            [n, 1] if n == rows && (grouped || size == Some(columns)) => {
                Ok(Division::Group(size.unwrap_or(columns)))
            }
            [n] | [n, 1] if n == rows => Ok(Division::Channel),
            [n, groups] if n == rows && groups > 0 => {
                let configured = size.filter(|size| columns.div_ceil(*size) == groups);
                let even = columns.checked_div(groups).filter(|n| n * groups == columns);
                let even = even.filter(|_| size.is_none());
                configured.or(even).filter(|&size| size > 0).map(Division::Group).ok_or_else(|| {
                    format!("its {groups} scales in a row do not divide its {columns} columns")
                })
            }
            _ => {
                scale.shaped("scales", &[leading, &[rows, 1]].concat())?;
                Ok(Division::Channel)
            }
        }
    }

    /// Returns the number of scales in a row of `columns`; `None` if all rows share one.
    pub(super) fn across(self, columns: u64) -> Option<u64> {
        match self {
            Division::Tensor => None,
            Division::Channel => Some(1),
            Division::Group(size) => Some(columns.div_ceil(size)),
        }
    }

    /// Returns the number of columns that share a scale.
    pub(super) fn group(self) -> u64 {
        match self {
            Division::Tensor | Division::Channel => u64::MAX,
            Division::Group(size) => size,
        }
    }

    pub(super) fn describe(self) -> String {
        match self {
            Division::Tensor => "per-tensor".to_owned(),
            Division::Channel => "per-channel".to_owned(),
            Division::Group(size) => format!("per-block:{size}"),
        }
    }

    pub(super) fn scheme(self) -> Result<QuantizationScheme, String> {
        Ok(match self {
            Division::Tensor => QuantizationScheme::PER_TENSOR,
            Division::Channel => QuantizationScheme::PER_CHANNEL,
            Division::Group(size) => QuantizationScheme::per_block(
                u32::try_from(size).map_err(|_| format!("its groups have {size} columns"))?,
            ),
        })
    }
}

/// Packed integers with scales and optional zero points: an element is `(q - z) * scale` of its
/// group.
#[derive(Debug)]
pub(super) struct PackedIntegers {
    /// The name of the container.
    pub container: &'static str,
    pub values: StoredId,
    pub row_bytes: u64,
    pub packing: Packing,
    /// Whether codes are signed; otherwise half their range was added to them.
    pub signed: bool,
    pub shape: Shape,
    pub division: Division,
    pub scales: FloatPart,
    pub zeros: Option<Zeros>,
    pub order: Option<StoredId>,
    pub original: FloatType,
    pub beside: Vec<StoredId>,
}

#[derive(Debug)]
pub(super) enum Zeros {
    /// One I8 per scale.
    Bytes(StoredId),
    /// Packed like the values, but along the rows; `across` is the number of scales in a row.
    Words { id: StoredId, across: u64 },
}

impl PackedIntegers {
    /// Returns the number of words of zero points in a column.
    fn zero_words(&self) -> u64 {
        let rows = self.shape.elements().checked_div(self.shape.row_len()).unwrap_or(0);
        self.packing.bytes(0, rows).end.div_ceil(4)
    }

    /// Reads the zero points of the scales `range`, with `across` scales in a row.
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
                let rows = range.start / across..range.end.div_ceil(across);
                let words = self.packing.words(rows.start)..self.packing.words(rows.end - 1) + 2;
                let words = words.start..words.end.min(self.zero_words());
                let first = words.start * across;
                reader.stored_into(id, first * 4..words.end * across * 4, &mut bytes)?;
                let words = bytes.as_chunks::<4>().0;
                let word = |row: u64, column: u64| {
                    let at = (row * across + column).checked_sub(first);
                    let word = at.and_then(|at| words.get(at as usize));
                    word.map_or(0, |word| u32::from_le_bytes(*word))
                };
                Ok(range
                    .map(|at| {
                        let (row, column) = (at / across, at % across);
                        let code = self.packing.in_words(|n| word(n, column), row);
                        code as i32 - half
                    })
                    .collect())
            }
        }
    }
}

impl PackedFormat for PackedIntegers {
    fn name(&self) -> String {
        let zero = if self.zeros.is_some() { ", asymmetric" } else { "" };
        let order = if self.order.is_some() { ", act order" } else { "" };
        let bits = self.packing.bits();
        let division = self.division.describe();
        format!("{} int{bits} {division}{zero}{order}", self.container)
    }

    fn preset(&self) -> Option<Preset> {
        let Division::Group(group) = self.division else { return None };
        let group = u32::try_from(group).ok()?;
        match (self.packing.bits(), self.signed, self.order, &self.zeros) {
            (4, false, None, None) => Some(Preset::W4A16(group)),
            (4, false, None, Some(Zeros::Words { .. })) => Some(Preset::W4A16Asym(group)),
            _ => None,
        }
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
        // With reordered columns, any scale of a row may be needed.
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
