//! One reader per container: from a file's header to the list of its stored tensors.

pub(crate) mod burnpack;
mod foreign;
pub(crate) mod format;
pub(crate) mod gguf;
pub(crate) mod numpy;
pub(crate) mod pytorch;
pub mod safetensors;
pub(crate) mod zip;
