//! quantscope: a terminal inspector for model checkpoints.
//!
//! The crate is a library with a thin binary. Each folder is one idea, and imports point
//! one way:
//!
//! `tensor ← quantization ← checkpoint ← activations ← plan ← report ← export ← job ← {cli, app ← ui ← terminal}`
//!
//! `text` writes names and figures for all who show them; `directories` knows where a person's
//! files are; `demo` is a checkpoint in the binary, for `cli`, `app` and `terminal`. Nothing below
//! `ui` names ratatui; only `app`'s key table and `terminal` name crossterm; `cli` and
//! `app` do not know each other. `tests/architecture.rs` keeps it so.

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
pub mod plan;
pub mod quantization;
pub mod report;
pub mod tensor;
pub mod text;
pub mod tui;
pub mod ui;
