//! 8-bit floats: with a scale for each block (`weight_scale_inv`, which multiplies), with
//! one per channel or tensor (`weight_scale`), or with none.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::format::{PackedFormat, PackedTensor};
use crate::checkpoint::packed::listing::{Listing, Part, Recognised};
use crate::checkpoint::packed::numbers::Numbers;
use crate::checkpoint::packed::runs::{columns_of, floats, runs, take};
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::tensor::minifloat::{ValueTable, value_table};
use crate::tensor::{FloatType, Shape};
use std::ops::Range;

/// A block's sides where the config does not say.
const BLOCK: u64 = 128;

/// Names of a weight's scale beside it: compressed-tensors' and fbgemm's, then ComfyUI's.
/// All of them multiply.
const SCALES: [&str; 2] = ["weight_scale", "scale_weight"];

/// What is stored for activations, beside the weight.
const BESIDE: [&str; 3] = ["input_scale", "scale_input", "output_scale"];

#[derive(Clone, Debug)]
pub(super) struct Fp8 {
    pub name: String,
    pub values: StoredId,
    pub table: &'static ValueTable,
    pub scales: Option<Scales>,
    pub shape: Shape,
    pub original: FloatType,
    pub beside: Vec<StoredId>,
}

/// A grid of scales over each matrix of a tensor.
#[derive(Clone, Debug)]
pub(super) struct Scales {
    pub numbers: Numbers,
    /// Rows of one matrix: a stack of matrices has a grid for each.
    matrix: u64,
    /// Rows and columns that share a scale; those at the edges may be fewer.
    rows: u64,
    columns: u64,
    /// Scales in a row of the grid.
    across: u64,
}

impl Scales {
    /// One for the whole tensor.
    pub(super) fn of_tensor(numbers: Numbers, shape: &Shape) -> Scales {
        let rows = shape.elements().checked_div(shape.row_len()).unwrap_or(0).max(1);
        Scales { numbers, matrix: rows, rows, columns: shape.row_len().max(1), across: 1 }
    }

    /// One for each row.
    pub(super) fn of_rows(numbers: Numbers, shape: &Shape) -> Scales {
        let rows = shape.elements().checked_div(shape.row_len()).unwrap_or(0).max(1);
        Scales { numbers, matrix: rows, rows: 1, columns: shape.row_len().max(1), across: 1 }
    }

    /// One for each block of so many rows and columns of each matrix.
    fn of_blocks(numbers: Numbers, shape: &Shape, rows: u64, columns: u64) -> Scales {
        let matrix = shape.dims().iter().rev().nth(1).copied().unwrap_or(1).max(1);
        Scales { numbers, matrix, rows, columns, across: shape.row_len().div_ceil(columns) }
    }

    /// The row of the grid that a row of the tensor lies in.
    fn grid_row(&self, row: u64) -> u64 {
        row / self.matrix * self.matrix.div_ceil(self.rows) + row % self.matrix / self.rows
    }
}

/// FP8 values that have scales.
pub(super) fn scaled(listing: &Listing, values: Part) -> Recognised {
    let Some(table) = value_table(values.dtype()) else { return Ok(None) };
    let name = &values.stored.name;
    let shape = values.stored.shape.clone();
    let module = name.strip_suffix(".weight");
    let inverse = listing.get(&format!("{name}_scale_inv"));
    let plain = listing
        .get(&format!("{name}_scale"))
        .or_else(|| SCALES.iter().find_map(|scale| listing.get(&format!("{}.{scale}", module?))));
    let Some(scale) = inverse.or(plain) else { return Ok(None) };
    let numbers = Numbers::new(scale, "scales")?;
    let original = listing.original(scale.dtype());
    let dtype = values.dtype().name().trim_start_matches("F8_").to_lowercase();
    let rows = shape.elements().checked_div(shape.row_len()).unwrap_or(0);
    let (name, scales) = match *scale.dims() {
        [] | [1] => (format!("fp8 {dtype} per-tensor"), Scales::of_tensor(numbers, &shape)),
        [n] | [n, 1] if n == rows && inverse.is_none() && shape.rank() == 2 => {
            (format!("fp8 {dtype} per-channel"), Scales::of_rows(numbers, &shape))
        }
        _ if shape.rank() >= 2 => {
            let (high, wide) = block_of(listing);
            let mut expected = shape.dims().to_vec();
            for (dim, block) in expected.iter_mut().rev().zip([wide, high]) {
                *dim = dim.div_ceil(block);
            }
            scale.shaped(&format!("scales of {high}×{wide} blocks"), &expected)?;
            let name = format!("fp8 {dtype}, blocks of {high}×{wide}");
            (name, Scales::of_blocks(numbers, &shape, high, wide))
        }
        _ => {
            scale.shaped("scales", &[1])?;
            return Ok(None);
        }
    };
    let mut beside = vec![scale.id];
    beside.extend(module.map(|module| listing.members(module, &BESIDE)).unwrap_or_default());
    let values_name = values.stored.name.to_string();
    let layout = Fp8 {
        name,
        values: values.id,
        table,
        scales: Some(scales),
        shape: shape.clone(),
        original,
        beside,
    };
    Ok(Some(PackedTensor::new(values_name, shape, layout)))
}

/// FP8 values on their own.
pub(super) fn unscaled(listing: &Listing, values: Part) -> Recognised {
    let Some(table) = value_table(values.dtype()) else { return Ok(None) };
    let shape = values.stored.shape.clone();
    let dtype = values.dtype().name().trim_start_matches("F8_").to_lowercase();
    let layout = Fp8 {
        name: format!("fp8 {dtype}, unscaled"),
        values: values.id,
        table,
        scales: None,
        shape: shape.clone(),
        original: listing.original(values.dtype()),
        beside: Vec::new(),
    };
    Ok(Some(PackedTensor::new(&values.stored.name, shape, layout)))
}

/// Rows and columns of a block, as the config says.
fn block_of(listing: &Listing) -> (u64, u64) {
    let sides = |said: &serde_json::Value| match said.as_array()?.as_slice() {
        [rows, columns] => {
            Some((rows.as_u64().filter(|&n| n > 0)?, columns.as_u64().filter(|&n| n > 0)?))
        }
        _ => None,
    };
    let said = listing.config.as_ref().and_then(|config| config.quantization());
    let own = said.and_then(|said| said.get("weight_block_size"));
    let group = said.and_then(|said| {
        let groups = said.get("config_groups")?.as_object()?;
        groups.values().find_map(|group| group.get("weights")?.get("block_structure"))
    });
    own.and_then(sides).or_else(|| group.and_then(sides)).unwrap_or((BLOCK, BLOCK))
}

impl PackedFormat for Fp8 {
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
        let mut codes = Vec::new();
        reader.stored_into(self.values, range.clone(), &mut codes)?;
        let mut codes = codes.as_mut_slice();
        let mut out = floats(out, &range);
        let Some(scales) = &self.scales else {
            for (out, &mut code) in out.iter_mut().zip(codes) {
                *out = self.table[usize::from(code)].to_le_bytes();
            }
            return Ok(());
        };
        let row_len = self.shape.row_len();
        let rows = range.start / row_len.max(1)..range.end.div_ceil(row_len.max(1));
        if rows.is_empty() {
            return Ok(());
        }
        let (top, bottom) = (scales.grid_row(rows.start), scales.grid_row(rows.end - 1));
        let blocks = match rows.end - rows.start {
            1 => columns_of(&range, row_len),
            _ => 0..row_len,
        };
        let first = top * scales.across + blocks.start / scales.columns;
        let end = bottom * scales.across + blocks.end.div_ceil(scales.columns);
        let grid = scales.numbers.read(reader, first..end)?;
        for (row, columns) in runs(range, row_len) {
            let at = scales.grid_row(row) * scales.across;
            let mut column = columns.start;
            while column < columns.end {
                let block = column / scales.columns;
                let end = columns.end.min((block + 1) * scales.columns);
                let scale = grid.get((at + block - first) as usize).copied().unwrap_or(f32::NAN);
                let count = (end - column) as usize;
                let here = take(&mut codes, count);
                for (out, code) in take(&mut out, count).iter_mut().zip(here) {
                    *out = (self.table[usize::from(*code)] * scale).to_le_bytes();
                }
                column = end;
            }
        }
        Ok(())
    }
}
