//! Checkpoints: an index made from headers only, and ranges of tensors read on demand.
//!
//! A checkpoint lists *stored* tensors, as its files do, and *tensors*, which the rest of the
//! program uses: most are one stored tensor, a packed one consists of several. File formats
//! (`formats/`) provide the first list, packed formats (`packed/`) combine stored tensors into
//! tensors. Nothing here writes, and nothing here knows plans, screens or the command line.

mod access;
#[allow(clippy::module_inception, reason = "the file holds the type of that name")]
mod checkpoint;
pub(crate) mod config;
mod discovery;
mod error;
mod file_names;
pub mod formats;
mod index_check;
pub(crate) mod io;
mod json_text;
mod model_search;
mod name_index;
mod open;
pub(crate) mod output_axes;
pub(crate) mod packed;
pub(crate) mod python_json;
pub(crate) mod qat;
mod reader;
mod stored;
mod stored_reader;
mod strided;
mod tensor_parts;

pub use access::{Access, Conversion, Data, Indirect, Role, SignChange};
pub use checkpoint::{Checkpoint, Content};
pub use config::Config;
pub use discovery::{Index, has_model};
pub use error::{Problem, ReadError, Result};
pub use file_names::has_extension;
pub(crate) use file_names::names_in;
pub use formats::format::Format;
pub use io::file_system::FileSystem;
pub use io::source::Source;
pub use model_search::{FoundModel, Models, find_models};
pub use packed::PackedFormat;
pub use qat::{ActivationRange, ObservedActivations, UnmatchedObserver};
pub use reader::Reader;
pub use stored::{Shard, Stored, StoredId};
pub use stored_reader::StoredReader;
pub use strided::StridedView;
pub use tensor_parts::{TensorPart, TensorParts};
