//! What discovery finds.

use crate::checkpoint::discovery::index::{Index, WeightMap};
use std::path::PathBuf;

/// The files of one checkpoint.
#[derive(Debug)]
pub(crate) struct Files {
    /// Shards in the order of their names; one for a single file.
    pub shards: Vec<PathBuf>,
    pub index: Option<(Index, WeightMap)>,
    /// The directory that is the model, with its config and tokenizer; `None` for a file
    /// that stands alone.
    pub directory: Option<PathBuf>,
    /// What the user should know about the choice, one sentence each.
    pub notes: Vec<String>,
}
