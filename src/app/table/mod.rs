//! The ranked table: which rows there are, in which order, and where the cursor is.

mod folds;
mod name_order;
mod order;
mod rows;
mod totals;

pub use order::{Column, Sort};
pub use rows::{ColumnWidths, Row, Table};
pub use totals::{NodeTotals, RATINGS};
