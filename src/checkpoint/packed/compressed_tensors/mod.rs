//! compressed-tensors: int8 values, integers of 1 to 8 bits in 32-bit words, and NVFP4, MXFP4 and
//! MXFP6. Its FP8 formats are in `packed/fp8`.
//!
//! `int8` and `packed` recognize tensors by their names; `words` and `minifloats` decode what is
//! packed; `parts` checks the other stored tensors of a weight. Only `packed/registry` imports this
//! folder.

mod int8;
mod minifloats;
mod packed;
mod parts;
mod words;

pub(super) use int8::int8;
pub(super) use packed::packed;
