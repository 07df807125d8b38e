//! Small numbers multiplied by a grid of scales: the formula shared by FP8, MXFP, NVFP4 and integer
//! blocks.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::bit_packing::Packing;
use crate::checkpoint::packed::float_part::FloatPart;
use crate::checkpoint::packed::format::{PackedFormat, PackedTensor};
use crate::checkpoint::packed::listing::PartTensor;
use crate::checkpoint::packed::runs::{columns_of, floats, runs, take};
use crate::checkpoint::packed::scale_grid::ScaleGrid;
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::quantization::Preset;
use crate::tensor::minifloat::{E2M1_VALUES, E2M3_VALUES, ValueTable};
use crate::tensor::{FloatType, Shape};
use half::bf16;
use std::ops::Range;

/// A tensor whose element `[r, c]` is `code[r, c] * scale[r, c]`, multiplied by `column_factor[c]`,
/// then rotated. All arithmetic is in F32, rounded after each step.
#[derive(Debug)]
pub(super) struct Scaled {
    pub name: String,
    pub values: StoredId,
    pub codes: Codes,
    pub scales: Option<ScaleGrid>,
    pub global: Option<GlobalScale>,
    /// One factor per column, such as ModelOpt's `pre_quant_scale`.
    pub column_factor: Option<FloatPart>,
    pub rotation: Option<Rotation>,
    /// Whether the products are rounded to BF16, as the software that defines the format does.
    pub through_bf16: bool,
    /// The preset of compressed-tensors with the same stored form.
    pub preset: Option<Preset>,
    pub shape: Shape,
    pub original: FloatType,
    /// The stored tensors other than the values.
    pub parts: Vec<StoredId>,
}

/// The storage of the elements' codes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Codes {
    /// One byte each, decoded with a table.
    Bytes(&'static ValueTable),
    SignedBytes,
    /// E2M1, two per byte.
    E2m1(FirstNibble),
    /// E2M3, four per three bytes.
    E2m3,
    /// Signed 4-bit integers, two per byte, the even column in the low nibble.
    SignedNibbles,
    /// Signed 4-bit integers: row `2k` in the low nibbles of row `k` of the bytes, row
    /// `2k + 1` in the high ones.
    SignedRowPairs,
}

/// The nibble that holds the element of the even column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum FirstNibble {
    Low,
    High,
}

/// A number that modifies all scales before they are applied to the codes.
#[derive(Clone, Debug)]
pub(super) enum GlobalScale {
    Divides(FloatPart),
    Multiplies(FloatPart),
    /// One number per matrix of a stack, divided by a constant; multiplies the scale.
    MultipliesMatrix(FloatPart, f32),
}

/// A Hadamard rotation of each run of `size` columns. It is its own inverse.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    /// A power of 4.
    pub size: u64,
}

/// Returns a tensor of I8 values with scales only.
pub(super) fn signed_bytes(
    values: PartTensor,
    name: String,
    scales: ScaleGrid,
    original: FloatType,
) -> PackedTensor {
    let shape = values.stored.shape.clone();
    let codes = Codes::SignedBytes;
    Scaled::new(name, values.id, codes, Some(scales), shape, original)
        .into_tensor(&values.stored.name)
}

impl Codes {
    fn bits(self) -> u64 {
        match self {
            Codes::Bytes(_) | Codes::SignedBytes => 8,
            Codes::E2m3 => 6,
            Codes::E2m1(_) | Codes::SignedNibbles | Codes::SignedRowPairs => 4,
        }
    }

    /// Reads the values of the elements `range`, in rows of `row_len`.
    fn read(
        self,
        reader: &mut StoredReader,
        id: StoredId,
        range: &Range<u64>,
        row_len: u64,
    ) -> Result<Vec<f32>> {
        let mut bytes = Vec::new();
        if let Codes::SignedRowPairs = self {
            let mut values = Vec::new();
            for (row, columns) in runs(range.clone(), row_len) {
                let start = row / 2 * row_len;
                reader.stored_into(id, start + columns.start..start + columns.end, &mut bytes)?;
                let shift = if row.is_multiple_of(2) { 4 } else { 0 };
                values.extend(bytes.iter().map(|&byte| f32::from((byte << shift) as i8 >> 4)));
            }
            return Ok(values);
        }
        let bits = self.bits();
        let packing = Packing::Stream { bits: bits as u32 };
        // Rows are whole bytes, so the codes of a tensor are one stream.
        reader.stored_into(id, packing.bytes(range.start, range.end), &mut bytes)?;
        let mut codes = vec![0; (range.end - range.start) as usize];
        packing.unpack(&bytes, range.start, &mut codes);
        if let Codes::E2m1(FirstNibble::High) = self {
            let nibble = |at: u64| {
                let byte = bytes.get((at / 2 - range.start / 2) as usize).copied().unwrap_or(0);
                if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
            };
            codes.iter_mut().zip(range.clone()).for_each(|(code, at)| *code = nibble(at));
        }
        Ok(codes.into_iter().map(|code| self.value(code)).collect())
    }

    fn value(self, code: u8) -> f32 {
        match self {
            Codes::Bytes(table) => table[usize::from(code)],
            Codes::SignedBytes => f32::from(code as i8),
            Codes::E2m1(_) => E2M1_VALUES[usize::from(code & 15)],
            Codes::E2m3 => E2M3_VALUES[usize::from(code & 63)],
            Codes::SignedNibbles | Codes::SignedRowPairs => f32::from((code << 4) as i8 >> 4),
        }
    }
}

impl Scaled {
    /// Returns a tensor with scales only, or without any.
    pub(super) fn new(
        name: String,
        values: StoredId,
        codes: Codes,
        scales: Option<ScaleGrid>,
        shape: Shape,
        original: FloatType,
    ) -> Scaled {
        Scaled {
            name,
            values,
            codes,
            parts: scales.as_ref().map(ScaleGrid::id).into_iter().collect(),
            scales,
            global: None,
            column_factor: None,
            rotation: None,
            through_bf16: false,
            preset: None,
            shape,
            original,
        }
    }

    /// Returns the tensor with this name.
    pub(super) fn into_tensor(self, name: &str) -> PackedTensor {
        let shape = self.shape.clone();
        PackedTensor::new(name, shape, self)
    }

    /// Reads the global scales for a range of rows.
    fn global(&self, reader: &mut StoredReader, rows: Range<u64>) -> Result<Vec<f32>> {
        let (numbers, matrices) = match &self.global {
            None => return Ok(Vec::new()),
            Some(GlobalScale::Divides(numbers) | GlobalScale::Multiplies(numbers)) => {
                (numbers, 0..1)
            }
            Some(GlobalScale::MultipliesMatrix(numbers, _)) => {
                let matrix = |row| self.scales.as_ref().map_or(0, |grid| grid.matrix_of(row));
                (numbers, 0..matrix(rows.end - 1) + 1)
            }
        };
        numbers.read(reader, matrices)
    }

    fn with_global(&self, scale: f32, row: u64, global: &[f32]) -> f32 {
        let first = global.first().copied().unwrap_or(f32::NAN);
        match &self.global {
            None => scale,
            Some(GlobalScale::Divides(_)) => scale / first,
            Some(GlobalScale::Multiplies(_)) => scale * first,
            Some(GlobalScale::MultipliesMatrix(_, divisor)) => {
                let matrix = self.scales.as_ref().map_or(0, |grid| grid.matrix_of(row));
                let global = global.get(matrix as usize).copied().unwrap_or(f32::NAN);
                scale * (global / divisor)
            }
        }
    }

    /// Multiplies values by their scales and column factors.
    fn scale(&self, reader: &mut StoredReader, range: &Range<u64>, out: &mut [f32]) -> Result<()> {
        let row_len = self.shape.row_len().max(1);
        let rows = range.start / row_len..range.end.div_ceil(row_len);
        let columns = columns_of(range, row_len);
        let factors = match &self.column_factor {
            Some(numbers) => numbers.read(reader, columns.clone())?,
            None => Vec::new(),
        };
        let global = self.global(reader, rows.clone())?;
        let window = match &self.scales {
            Some(grid) => Some((grid, grid.read(reader, rows, columns.clone())?)),
            None => None,
        };
        let mut left = out;
        for (row, here) in runs(range.clone(), row_len) {
            let values = take(&mut left, (here.end - here.start) as usize);
            if let Some((grid, window)) = &window {
                let mut rest = &mut *values;
                let mut column = here.start;
                while column < here.end {
                    let end = here.end.min((column / grid.columns() + 1) * grid.columns());
                    let scale = self.with_global(window.at(row, column), row, &global);
                    for value in take(&mut rest, (end - column) as usize) {
                        *value *= scale;
                    }
                    column = end;
                }
            }
            if self.column_factor.is_some() {
                let factors = factors.get((here.start - columns.start) as usize..);
                for (value, factor) in values.iter_mut().zip(factors.unwrap_or_default()) {
                    *value *= factor;
                }
            }
        }
        Ok(())
    }
}

impl Rotation {
    /// Multiplies each run of `size` values by the symmetric Hadamard matrix
    /// `H4 ⊗ H4 ⊗ …`, divided by the square root of its size.
    fn apply(self, values: &mut [f32]) {
        let size = self.size as usize;
        let norm = (self.size as f32).sqrt();
        for run in values.chunks_exact_mut(size.max(1)) {
            let mut distance = 1;
            while distance < size {
                for start in (0..size).filter(|at| at / distance % 4 == 0) {
                    let at = [0, 1, 2, 3].map(|k| start + k * distance);
                    let [a, b, c, d] = at.map(|at| run.get(at).copied().unwrap_or(0.0));
                    let mixed = [a + b + c - d, a + b - c + d, a - b + c + d, -a + b + c + d];
                    for (at, value) in at.into_iter().zip(mixed) {
                        if let Some(place) = run.get_mut(at) {
                            *place = value;
                        }
                    }
                }
                distance *= 4;
            }
            run.iter_mut().for_each(|value| *value /= norm);
        }
    }
}

impl PackedFormat for Scaled {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn preset(&self) -> Option<Preset> {
        self.preset
    }

    fn original(&self) -> FloatType {
        self.original
    }

    fn parts(&self) -> Vec<StoredId> {
        [&[self.values], self.parts.as_slice()].concat()
    }

    fn decode(
        &self,
        reader: &mut StoredReader,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let out = floats(out, &range);
        if range.is_empty() {
            return Ok(());
        }
        // A rotation needs whole runs, which do not span rows.
        let run = self.rotation.map_or(1, |rotation| rotation.size.max(1));
        let whole = range.start / run * run..range.end.div_ceil(run) * run;
        let row_len = self.shape.row_len().max(1);
        let mut values = self.codes.read(reader, self.values, &whole, row_len)?;
        self.scale(reader, &whole, &mut values)?;
        if let Some(rotation) = self.rotation {
            rotation.apply(&mut values);
        }
        if self.through_bf16 {
            values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32());
        }
        let values = values.get((range.start - whole.start) as usize..).unwrap_or_default();
        for (out, value) in out.iter_mut().zip(values) {
            *out = value.to_le_bytes();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_undoes_itself() {
        let original: Vec<f32> = (0..128).map(|i| (i * i % 31) as f32).collect();
        let mut values = original.clone();
        let rotation = Rotation { size: 64 };
        rotation.apply(&mut values);
        assert_ne!(values, original);
        rotation.apply(&mut values);
        assert_eq!(values, original);
    }
}
