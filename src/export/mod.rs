//! Writing checkpoints: what a request makes of every tensor, laid out before a byte is
//! written, streamed to a temporary file, made whole by one rename, and verified.

mod atomic_output;
mod burn;
mod compressed_tensors;
pub(crate) mod container_check;
mod encode;
mod error;
mod gguf;
mod left_out;
mod module_patterns;
mod output_plan;
mod receipt;
pub(crate) mod reflink;
pub(crate) mod request;
mod safetensors;
mod sidecar_files;
mod text_file;
mod verify;

pub use atomic_output::{AtomicOutput, check};
pub use container_check::input_scales;
pub use encode::{ChunkEncoder, KnownScales, Sink};
pub use error::SaveError;
pub use output_plan::{Entry, MadeFrom, OutFile, OutputPlan, SidecarFile, TextFile};
pub use receipt::{Comparison, Receipt};
pub use request::{OutputFormat, Request, Task, WeightLayout};
pub use text_file::write_text;
pub use verify::{Match, Pair, Pairing};
