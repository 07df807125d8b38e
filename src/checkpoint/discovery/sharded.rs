//! Opens a checkpoint by its index.

use crate::checkpoint::discovery::files::CheckpointFiles;
use crate::checkpoint::discovery::index::{self, Parsed};
use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::file_names::{has_extension, names_in};
use std::path::Path;

/// Opens the checkpoint that the index at `path` describes. Its shards are in the same directory or
/// below it.
///
/// # Errors
///
/// The index cannot be read, or shards are missing.
pub(super) fn open(path: &Path, directory: &Path) -> Result<CheckpointFiles> {
    let parsed = index::read(path)?;
    let missing = parsed.missing(directory);
    if !missing.is_empty() {
        return Err(missing_shards(directory, &parsed, missing));
    }
    Ok(into_files(parsed, directory))
}

/// Returns the files of an index whose shards are all in `directory`.
pub(super) fn into_files(parsed: Parsed, directory: &Path) -> CheckpointFiles {
    let Parsed { index, map } = parsed;
    CheckpointFiles {
        shards: map.shards.iter().map(|name| directory.join(name)).collect(),
        index: Some((index, map)),
        directory: Some(directory.to_owned()),
        notes: Vec::new(),
    }
}

/// Returns the error for an index whose shards are `missing`.
pub(super) fn missing_shards(directory: &Path, parsed: &Parsed, missing: Vec<String>) -> ReadError {
    let count = parsed.map.shards.len();
    let others = names_in(directory);
    let renamed = others.into_iter().find(|name| {
        has_extension(Path::new(name), "safetensors") && !parsed.map.shards.contains(name)
    });
    ReadError::new(&parsed.index.path, Problem::MissingShards { count, missing, renamed })
}
