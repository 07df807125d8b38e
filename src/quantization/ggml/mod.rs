//! ggml's block types, used in GGUF files: one file per family, and one table.
//!
//! Encoding and decoding are bit for bit those of ggml 0.26 compiled without fused multiply-add,
//! with the algorithms of its `ggml-quants.c`.

mod arithmetic;
mod fp4;
mod grids;
mod importance;
mod iq1;
mod iq2;
mod iq3;
mod iq4;
mod k_quants;
mod lattice;
mod legacy;
mod rows;
mod search;
mod table;
mod ternary;

pub use importance::{Importance, ImportanceOrigin};
pub use rows::{BlockError, dequantize_blocks, importance_use, quantize_rows};
pub use table::ImportanceUse;

pub(crate) use importance::RowImportance;
pub(crate) use rows::{CHECKED_FROM, ChunkMemory, decode_blocks, quantize_elements, quantize_part};
pub(crate) use table::codec;
