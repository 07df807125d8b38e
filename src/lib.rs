//! Opens model checkpoints, measures what quantization costs each tensor, and saves quantized
//! or dequantized models.
//!
//! The program `quantscope` is a thin layer over this library. Its manual is in [`guide`]. The
//! vocabulary is that of the [Burn Book's quantization
//! chapter](https://burn.dev/books/burn/quantization.html).
//!
//! # Example
//!
//! Calibrate and quantize every weight of a checkpoint, and turn it back into floats:
//!
//! ```
//! use quantscope::checkpoint::Checkpoint;
//! use quantscope::plan::quantizable;
//! use quantscope::quantization::*;
//!
//! let checkpoint = Checkpoint::open("assets/demo.safetensors".as_ref())?;
//! let quantizer = Quantizer {
//!     calibration: Calibration::MinMax,
//!     scheme: QuantizationScheme::PerTensor(QuantizationMode::Symmetric, QuantizationType::QInt8),
//! };
//! let mut reader = checkpoint.reader();
//! for id in checkpoint.ids().filter(|&id| quantizable(&checkpoint, id)) {
//!     let tensor = checkpoint.tensor(id);
//!     if let Some((dtype, bytes)) = reader.elements(id, 0..tensor.parameters())? {
//!         let quantized = quantizer.quantize_weights(dtype, &tensor.shape, bytes)?;
//!         let floats = Dequantize::default().map_tensor(&quantized);
//!         assert_eq!(floats.len(), bytes.len());
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `assets/examples` has two complete programs.
//!
//! # Modules
//!
//! Each folder is one idea. Imports point one way, which `tests/architecture` checks:
//!
//! `tensor ← quantization ← checkpoint ← activations ← plan ← {report, export} ← job ← {cli, app ← ui ← tui}`
//!
//! | module | what it offers |
//! |---|---|
//! | [`tensor`] | element types and shapes |
//! | [`quantization`] | schemes, calibration, quantizing, error statistics: slices in, values out |
//! | [`checkpoint`] | opens a checkpoint from its headers, reads ranges of tensors on demand |
//! | [`activations`] | recorded layer inputs, and the error of a layer's output |
//! | [`plan`] | which tensors get which scheme: selection, budget, recipe |
//! | [`report`] | what was measured as HTML, CSV or JSON |
//! | [`export`] | decides every byte of an output, writes it, compares it with the source |
//! | [`job`] | background work with progress and cancellation: scan, save, verify, compare |
//! | [`cli`] | the command line, one file per subcommand |
//! | [`app`], [`ui`], [`tui`] | the inspector: its state, its drawing, its terminal |
//! | [`guide`] | the manual |
//! | [`text`], [`directories`], [`demo`] | how names and figures are written; the user's directories; the built-in demo |
//!
//! Nothing below `ui` names ratatui, only `app`'s key table and `tui` name crossterm, and `cli`
//! and `app` do not know each other.

pub mod activations;
pub mod app;
pub mod checkpoint;
pub mod cli;
pub mod demo;
pub mod directories;
pub mod export;
#[doc(hidden)]
pub mod failpoints;
pub mod guide;
pub mod job;
mod path_error;
pub mod plan;
pub mod quantization;
pub mod report;
pub mod tensor;
pub mod text;
pub mod tui;
pub mod ui;
