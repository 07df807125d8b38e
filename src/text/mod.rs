//! How names and figures are written, one way for each kind, on the screen, on the command
//! line and in reports.
//!
//! Imports `tensor` and `quantization`; everything that a person reads may use it.

pub(crate) mod figures;
pub(crate) mod json;
pub mod names;
pub mod size;
