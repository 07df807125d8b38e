//! The result of discovery.

use crate::checkpoint::discovery::index::{Index, WeightMap};
use std::path::PathBuf;

/// The files of one checkpoint.
#[derive(Debug)]
pub(crate) struct CheckpointFiles {
    /// Shards sorted by name; one for a single file.
    pub shards: Vec<PathBuf>,
    pub index: Option<(Index, WeightMap)>,
    /// The model's directory, with its config and tokenizer; `None` for a single file.
    pub directory: Option<PathBuf>,
    /// Notes for the user about the choice, one sentence each.
    pub notes: Vec<String>,
}
