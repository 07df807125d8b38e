//! `quantize`: writes the checkpoint with the selected tensors quantized.
//!
//! `args` has the options, `plan` the tensors and their schemes, `budget` the choice of schemes for
//! a size or an SQNR, `gguf` llama.cpp's mixes; `run` puts them together and saves.

mod args;
mod budget;
mod gguf;
mod plan;
mod run;

pub(super) use args::Quantize;
