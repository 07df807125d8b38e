//! Verifies an output against its source, independently of the code that wrote it.
//!
//! Tensors are paired by name, and every byte is compared. Nothing here writes.

pub(crate) mod file_verifier;
pub(crate) mod pairing;
mod recovered_request;
pub(crate) mod tensor_verifier;
