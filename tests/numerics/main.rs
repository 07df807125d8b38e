//! Figures and bytes compared with reference implementations and other engines.

#[path = "../support/digits.rs"]
mod digits;
#[path = "../support/mod.rs"]
mod support;

mod activations;
mod demo_network;
mod division;
mod ggml_blocks;
mod golden;
mod presets;
