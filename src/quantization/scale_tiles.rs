//! The order of the scales of groups in tiles of 128 rows and 4 columns, as NVIDIA's block-scaled
//! matrix multiplication reads them. Rows and columns are padded to whole tiles.

/// Rows of scales in a tile.
pub(crate) const ROWS: u64 = 128;

/// Columns of scales in a tile.
const COLUMNS: u64 = 4;

/// Returns the rows and columns of the stored scales of `rows` with `across` scales each.
pub(crate) fn dims(rows: u64, across: u64) -> [u64; 2] {
    [rows.div_ceil(ROWS).saturating_mul(ROWS), across.div_ceil(COLUMNS).saturating_mul(COLUMNS)]
}

/// Returns the number of stored scales of [`ROWS`] rows with `across` scales each.
pub(crate) fn band(across: u64) -> u64 {
    across.div_ceil(COLUMNS) * ROWS * COLUMNS
}

/// Returns the place of the scale at a row and column among the stored scales.
pub(crate) fn index(row: u64, column: u64, across: u64) -> u64 {
    let tile = row / ROWS * across.div_ceil(COLUMNS) + column / COLUMNS;
    tile * ROWS * COLUMNS + row % 32 * 16 + row % ROWS / 32 * 4 + column % COLUMNS
}
