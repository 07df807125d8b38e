//! Writes checkpoints: plans every byte of an output, encodes, replaces OUT atomically, and
//! verifies the result.
//!
//! `formats` has one writer per format, `verify` compares outputs with their sources, `load_check`
//! checks whether loaders accept them. `job` runs the steps on all cores. Nothing here may import
//! `job`, `report` or anything above.

mod atomic_output;
mod biases;
mod compensated;
mod container_check;
mod disk;
mod encode;
mod error;
mod formats;
mod ggml_blocks;
mod input_scales;
pub(crate) mod journal;
mod left_out;
mod load_check;
mod module_patterns;
mod output_path;
mod output_plan;
mod overflow;
pub(crate) mod partition;
mod planning;
mod receipt;
pub(crate) mod reflink;
mod request;
mod sidecar_file;
mod sidecar_files;
mod text_file;
pub(crate) mod verify;
mod weight_copies;
mod weight_layout;

pub use atomic_output::{AtomicOutput, KeptOutput};
pub use compensated::CompensatedTensors;
pub use encode::{ChunkEncoder, Sink};
pub use error::SaveError;
pub use input_scales::{fp8_input_scale, input_scales};
pub use load_check::{Finding, LoadCheck, Severity};
pub use output_path::check;
pub use output_plan::{Entry, KnownScales, MadeFrom, OutFile, OutputPlan, TextFile};
pub use partition::{Partition, PartitionError, ShareProgress, ShareState, Survey};
pub use receipt::{Comparison, OutputComparison, Receipt, VerifiedAgainst};
pub use request::{OutputFormat, Request, Task, WeightLayout};
pub use sidecar_file::{LeftOutFiles, SidecarFile};
pub use text_file::write_text;
pub use verify::pairing::{Match, Pair, Pairing};

pub(crate) use output_plan::share_absmax;
