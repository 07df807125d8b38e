//! Writing checkpoints: what a request makes of every tensor, laid out before a byte is
//! written, streamed to a temporary file, made whole by one rename, and verified.

mod blueprint;
mod burn;
mod companions;
mod compressed_tensors;
mod error;
pub mod faults;
pub mod frame;
mod gguf;
mod make;
mod receipt;
pub mod request;
mod safetensors;
pub mod sharing;
mod staging;
mod targets;
mod text_file;
mod verify;

pub use blueprint::{Blueprint, Companion, Entry, MadeFrom, OutFile, TextFile};
pub use error::ExportError;
pub use frame::input_scales;
pub use make::{KnownScales, Maker, Sink};
pub use receipt::{Comparison, Receipt};
pub use request::{OutputFormat, Request, Task, WeightLayout};
pub use staging::{Staging, check};
pub use text_file::write_text;
pub use verify::{Match, Pair, Pairing};
