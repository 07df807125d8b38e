//! Packed formats: tensors that are stored as several stored tensors.
//!
//! One file per format. A recognizer takes a stored tensor that may hold quantized values and finds
//! the other parts by their names. It decodes only if configuration, markers, names, types and
//! shapes agree; otherwise it names the format and gives the reason. To add a format, write its
//! file and add one line to the table in `registry`. Only `checkpoint` imports this folder, except
//! for the names of quantscope's own metadata, which the writers need.

mod attachments;
mod awq;
mod bit_packing;
mod bitsandbytes;
mod comfyui;
mod comfyui_markers;
mod compressed_tensors;
mod float_part;
mod foreign;
pub(crate) mod format;
mod fp8;
mod gpt_oss;
mod gptq;
mod int8;
mod listing;
mod listing_bytes;
mod mlx;
mod modelopt;
mod native_format;
mod packed_integers;
mod quant_config;
mod quanto;
mod recognize;
mod registry;
mod runs;
mod scale_grid;
mod scaled;
mod torchao;
mod undecoded;

pub(crate) use comfyui::NAME as COMFYUI;
pub use format::PackedFormat;
pub(crate) use format::PackedTensor;
pub(crate) use int8::{BIAS_FACTOR, Int8, Int8Values};
pub(crate) use mlx::NAME as MLX;
pub(crate) use native_format::{
    CALIBRATION_KEY, FAKE_METADATA_KEY, METADATA_KEY, ORIGINAL_KEY, QuantizedMetadata,
    QuantizedTensorMetadata, ROUNDING_KEY, SCALE_SUFFIX, calibration_metadata,
    describes_quantization, strings_by_tensor,
};
pub(crate) use recognize::recognize;
pub(crate) use torchao::{NAME as TORCHAO, describes_tensors as is_torchao_metadata};
