//! One reader per file format: parses the header and lists the stored tensors.

pub(crate) mod burnpack;
pub(crate) mod element_type;
mod foreign;
pub(crate) mod format;
pub(crate) mod gguf;
pub(crate) mod numpy;
pub(crate) mod pytorch;
pub(crate) mod region;
pub(crate) mod row;
pub mod safetensors;
pub(crate) mod zip;
