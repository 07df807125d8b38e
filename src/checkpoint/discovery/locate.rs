//! From a path to the files of a checkpoint.

use crate::checkpoint::discovery::files::Files;
use crate::checkpoint::discovery::numbered::{self, Numbered};
use crate::checkpoint::discovery::{directory, sharded};
use crate::checkpoint::error::{CheckpointError, Problem, Result};
use crate::checkpoint::file_names::has_extension;
use crate::checkpoint::formats::pytorch::distributed_directory;
use std::path::Path;

/// Finds the checkpoint at `path`: a file, an index, or a directory with one of them.
pub(crate) fn discover(path: &Path) -> Result<Files> {
    let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => CheckpointError::new(path, Problem::NotFound),
        _ => CheckpointError::new(path, e),
    })?;
    if metadata.is_dir() {
        return directory::choose(path);
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if has_extension(path, "json") {
        return sharded::open(path, parent);
    }
    let directory = parent.join("config.json").is_file().then(|| parent.to_owned());
    let alone = |notes| Files { shards: vec![path.to_owned()], index: None, directory, notes };
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(numbered) = name.and_then(Numbered::parse).filter(|n| n.count > 1) else {
        return Ok(alone(Vec::new()));
    };
    if has_extension(path, "gguf") {
        if !numbered::is_gguf_part(path, &numbered)? {
            return Ok(alone(Vec::new()));
        }
        let shards = numbered.all_in(parent)?;
        return Ok(Files { shards, ..alone(Vec::new()) });
    }
    Ok(alone(vec![format!(
        "this is one shard of {}; open its directory for the whole model",
        numbered.count
    )]))
}

/// Whether a directory holds a checkpoint, or several.
pub fn has_model(path: &Path) -> bool {
    match directory::choose(path) {
        _ if distributed_directory(path).is_some() => true,
        Ok(_) => true,
        Err(e) => matches!(e.problem, Problem::Ambiguous(_)),
    }
}
