//! From the path that a user names to the files of the checkpoint.
//!
//! Files are chosen in the way that loaders choose them: `candidate` ranks possible sources of
//! weights, `directory` chooses one, and `tests/data/discovery` has a table of cases. Only names,
//! indexes, small text files and the headers of split GGUF files are read here; the readers in
//! `formats` open the chosen files.

mod candidate;
mod directory;
mod files;
mod hints;
mod hub_cache;
mod index;
mod locate;
mod numbered;
mod sharded;

pub(crate) use files::CheckpointFiles;
pub use index::Index;
pub(crate) use index::WeightMap;
pub(crate) use locate::discover;
pub use locate::has_model;
