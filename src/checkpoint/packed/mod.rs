//! Tensors that are stored quantized: several stored tensors that stand for one.
//!
//! One file for each family of layouts. A family looks at a stored tensor that may hold
//! the values of a quantized one, finds the other parts by their names, and checks shapes
//! and types of all of them against each other and against `config.json`: what it makes
//! can then be decoded range by range without reading past a part.

mod awq;
mod bit_packing;
mod bitsandbytes;
mod compressed_tensors;
pub(crate) mod format;
mod fp4;
mod fp8;
mod gptq;
mod int8;
mod listing;
mod mlx;
mod named;
mod native_format;
mod numbers;
mod quanto;
mod recognise;
mod runs;

pub use format::PackedFormat;
pub(crate) use format::PackedTensor;
pub(crate) use int8::{Int8, Int8Values};
pub(crate) use native_format::{
    CALIBRATION_KEY, FAKE_METADATA_KEY, METADATA_KEY, QuantizedMetadata, QuantizedTensorMetadata,
    ROUNDING_KEY, SCALE_SUFFIX, calibration_metadata,
};
pub(crate) use recognise::recognise;
