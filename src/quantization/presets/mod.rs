//! The presets of compressed-tensors: what it stores for W4A16, FP8, NVFP4, MXFP4 and their
//! like, reproduced byte for byte.
//!
//! A preset works on whole rows of a matrix. Its arithmetic is that of the owner: in the
//! weight's own type, rounded after every step. Slices in, stored bytes out; nothing here knows
//! files. The table of presets is in `quantization/preset.rs`.

mod coder;
mod grid;
mod levels;
mod pack;
mod scale;
mod stored;
mod working_type;

pub use stored::encode;

pub(crate) use coder::{EncodedRows, PresetCoder};
pub(crate) use stored::shape_bytes;
