//! The presets of compressed-tensors (W4A16, FP8, NVFP4, MXFP4 and others), reproduced byte for
//! byte.
//!
//! A preset works on whole rows of a matrix. The arithmetic is that of compressed-tensors: in the
//! weight's own type, rounded after every step. Slices in, stored bytes out; nothing here knows
//! files. The table of presets is in `quantization/preset.rs`.

mod clip_search;
mod coder;
mod compensated;
mod levels;
mod pack;
mod scale;
mod seen_codes;
mod stored;
mod working_type;

pub use stored::encode;

pub(crate) use coder::{EncodedRows, PresetCoder};
pub(crate) use compensated::OutputErrors;
pub(crate) use seen_codes::SeenCodes;
pub(crate) use stored::shape_bytes;
