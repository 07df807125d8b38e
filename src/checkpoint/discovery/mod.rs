//! From the path a user names to the files that make up the checkpoint.
//!
//! Files are chosen as the software that loads them chooses: `directory` has the rules, and
//! `tests/data/discovery` a table of cases. Only names, indexes and small text files are read
//! here, and of split GGUF files the headers; the readers of `formats` open what is chosen.

mod directory;
mod files;
mod hints;
mod hub_cache;
mod index;
mod locate;
mod numbered;
mod sharded;

pub(crate) use files::Files;
pub use index::Index;
pub(crate) use index::WeightMap;
pub(crate) use locate::discover;
pub use locate::has_model;
