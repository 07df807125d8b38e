//! One reader per container: from a file's header to the list of its stored tensors.

pub mod burnpack;
pub mod format;
pub mod gguf;
pub mod numpy;
pub mod pytorch;
pub mod safetensors;
pub mod zip;
