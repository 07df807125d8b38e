//! Outputs: files, receipts, containers, and the cache of analyses.

#[path = "../support/mod.rs"]
mod support;

mod cache;
mod check;
mod comfyui;
mod command_line;
mod compressed_tensors;
mod dequantized;
mod error_compensation;
mod gguf_files;
mod library;
mod loose_files;
mod mlx;
mod partitions;
mod presets;
mod public_reports;
mod qat_scales;
mod static_inputs;
mod targets;
mod torchao;
