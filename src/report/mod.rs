//! Writes what was measured of a checkpoint to a file: an HTML page, CSV or JSON.
//!
//! The command line and the screen fill the same [`Report`]; only this folder knows the formats.
//! Names from the checkpoint's files are escaped for the format. Imports `plan` and below.

mod contents;
mod csv;
pub(crate) mod csv_writer;
pub(crate) mod document;
pub(crate) mod experts;
mod format;
mod html;
mod json;
mod plots;

pub use contents::{ChannelError, Cost, Histogram, PlanSummary, Report, Row, TensorChannels};
pub use format::Format;
