//! The output formats, one writer each.
//!
//! A format is one file that implements [`writer::FormatWriter`] and one line in [`registry`].
//! Writers plan files; they neither read tensors nor write. They may import `checkpoint`, `plan`
//! and the files directly in `export`, but not `verify`.

mod burn;
mod comfyui;
mod compressed_tensors;
mod dequantized;
mod fake_quantized;
mod gguf;
mod mlx;
mod model_directory;
mod presets;
mod provenance;
pub(super) mod registry;
mod safetensors;
mod shards;
mod torchao;
pub(super) mod writer;
