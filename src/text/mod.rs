//! Formats names, figures and sizes, in the same way on the screen, on the command line and in
//! reports. Imports `tensor` and `quantization`; every folder that prints may use it.

pub(crate) mod figures;
pub(crate) mod json;
pub mod names;
pub(crate) mod nearest;
pub(crate) mod shell;
pub mod size;
