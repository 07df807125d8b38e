//! Scales that form a grid over a tensor's matrices.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::float_part::FloatPart;
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::quantization::scale_tiles;
use crate::tensor::Shape;
use std::ops::Range;

/// A grid of scales over each matrix of a tensor.
#[derive(Clone, Debug)]
pub(super) struct ScaleGrid {
    numbers: FloatPart,
    /// Rows of one matrix. Each matrix of a stack has its own grid.
    matrix: u64,
    /// Rows and columns that share a scale; blocks at the edges may have fewer.
    rows: u64,
    columns: u64,
    /// Number of scales in a row of the grid.
    across: u64,
    order: StorageOrder,
}

/// The storage order of a grid's scales.
#[derive(Clone, Copy, Debug, PartialEq)]
enum StorageOrder {
    RowMajor,
    /// In tiles of 128 rows and 4 columns of the grid, see [`scale_tiles`].
    Tiled,
}

/// Total number of rows of a tensor's matrices.
fn all_rows(shape: &Shape) -> u64 {
    shape.elements().checked_div(shape.row_len()).unwrap_or(0).max(1)
}

/// Number of rows of one of a tensor's matrices.
pub(super) fn matrix_rows(shape: &Shape) -> u64 {
    shape.dims().iter().rev().nth(1).copied().unwrap_or(1).max(1)
}

impl ScaleGrid {
    /// Creates a grid with one scale for the whole tensor.
    pub(super) fn of_tensor(numbers: FloatPart, shape: &Shape) -> ScaleGrid {
        ScaleGrid::new(numbers, all_rows(shape), all_rows(shape), shape.row_len(), shape)
    }

    /// Creates a grid with one scale per matrix of a stack.
    pub(super) fn of_matrices(numbers: FloatPart, shape: &Shape) -> ScaleGrid {
        ScaleGrid::new(numbers, matrix_rows(shape), matrix_rows(shape), shape.row_len(), shape)
    }

    /// Creates a grid with one scale per row.
    pub(super) fn of_rows(numbers: FloatPart, shape: &Shape) -> ScaleGrid {
        ScaleGrid::new(numbers, matrix_rows(shape), 1, shape.row_len(), shape)
    }

    /// Creates a grid with one scale per column of each matrix.
    pub(super) fn of_columns(numbers: FloatPart, shape: &Shape) -> ScaleGrid {
        ScaleGrid::new(numbers, matrix_rows(shape), matrix_rows(shape), 1, shape)
    }

    /// Creates a grid with one scale per block of `rows` and `columns` of each matrix.
    pub(super) fn of_blocks(
        numbers: FloatPart,
        shape: &Shape,
        rows: u64,
        columns: u64,
    ) -> ScaleGrid {
        ScaleGrid::new(numbers, matrix_rows(shape), rows, columns, shape)
    }

    /// Creates a grid with one scale per run of `columns` of each row, stored in tiles.
    pub(super) fn of_tiled_groups(numbers: FloatPart, shape: &Shape, columns: u64) -> ScaleGrid {
        let grid = ScaleGrid::new(numbers, all_rows(shape), 1, columns, shape);
        ScaleGrid { order: StorageOrder::Tiled, ..grid }
    }

    fn new(numbers: FloatPart, matrix: u64, rows: u64, columns: u64, shape: &Shape) -> ScaleGrid {
        let columns = columns.max(1);
        let across = shape.row_len().div_ceil(columns);
        ScaleGrid {
            numbers,
            matrix,
            rows: rows.max(1),
            columns,
            across,
            order: StorageOrder::RowMajor,
        }
    }

    /// Returns the dimensions of the stored scales of a matrix with one scale per run of `columns`
    /// of each row, padded to whole tiles.
    pub(super) fn tiled_dims(rows: u64, row_len: u64, columns: u64) -> [u64; 2] {
        scale_tiles::dims(rows, row_len.div_ceil(columns.max(1)))
    }

    pub(super) fn id(&self) -> StoredId {
        self.numbers.id
    }

    /// Number of columns that share a scale.
    pub(super) fn columns(&self) -> u64 {
        self.columns
    }

    /// Returns the matrix that contains a row of the tensor.
    pub(super) fn matrix_of(&self, row: u64) -> u64 {
        row / self.matrix
    }

    /// Returns the grid row for a row of the tensor.
    fn grid_row(&self, row: u64) -> u64 {
        row / self.matrix * self.matrix.div_ceil(self.rows) + row % self.matrix / self.rows
    }

    /// Returns the index of the stored scale for a row and column of the grid.
    fn index(&self, row: u64, column: u64) -> u64 {
        match self.order {
            StorageOrder::RowMajor => row * self.across + column,
            StorageOrder::Tiled => scale_tiles::index(row, column, self.across),
        }
    }

    /// Reads the scales for `columns` of `rows` of the tensor. Both must be non-empty.
    pub(super) fn read(
        &self,
        reader: &mut StoredReader,
        rows: Range<u64>,
        columns: Range<u64>,
    ) -> Result<ScaleWindow<'_>> {
        let (top, bottom) = (self.grid_row(rows.start), self.grid_row(rows.end - 1));
        let stored = match self.order {
            StorageOrder::RowMajor => {
                let first = top * self.across + columns.start / self.columns;
                first..bottom * self.across + columns.end.div_ceil(self.columns)
            }
            StorageOrder::Tiled => {
                let band = scale_tiles::band(self.across);
                top / scale_tiles::ROWS * band..(bottom / scale_tiles::ROWS + 1) * band
            }
        };
        let first = stored.start;
        Ok(ScaleWindow { grid: self, first, scales: self.numbers.read(reader, stored)? })
    }
}

/// The part of a grid needed for a range of elements.
pub(super) struct ScaleWindow<'g> {
    grid: &'g ScaleGrid,
    first: u64,
    scales: Vec<f32>,
}

impl ScaleWindow<'_> {
    /// Returns the scale for a row and a column of the tensor; NaN outside the window.
    pub(super) fn at(&self, row: u64, column: u64) -> f32 {
        let index = self.grid.index(self.grid.grid_row(row), column / self.grid.columns);
        let at = index.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.scales.get(at)).copied().unwrap_or(f32::NAN)
    }
}
