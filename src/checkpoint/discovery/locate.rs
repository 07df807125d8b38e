//! Finds the files of a checkpoint from a path.

use crate::checkpoint::discovery::files::CheckpointFiles;
use crate::checkpoint::discovery::numbered::{self, NumberedName};
use crate::checkpoint::discovery::{directory, sharded};
use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::file_names::{has_extension, names_in};
use crate::checkpoint::formats::pytorch::distributed_directory;
use crate::checkpoint::io::files::{self, PathTarget};
use std::path::Path;

/// Finds the checkpoint at `path`: a file, an index, or a directory that contains one of them.
pub(crate) fn discover(path: &Path) -> Result<CheckpointFiles> {
    let found = files::find(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound if is_repository_name(path) => {
            let problem = Problem::NotFoundButOnHub(path.display().to_string());
            ReadError::new(path, problem)
        }
        std::io::ErrorKind::NotFound => ReadError::new(path, Problem::NotFound),
        _ => ReadError::new(path, e),
    })?;
    if let PathTarget::Directory(directory) = found {
        return directory::choose(&directory);
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if has_extension(path, "json") {
        return sharded::open(path, parent);
    }
    let directory = files::is_file(&parent.join("config.json")).then(|| parent.to_owned());
    let alone =
        |notes| CheckpointFiles { shards: vec![path.to_owned()], index: None, directory, notes };
    let name = path.file_name().and_then(|name| name.to_str());
    if name.is_some_and(numbered::is_rank_file) {
        let mut names = names_in(parent);
        names.retain(|name| numbered::is_rank_file(name));
        let shards = names.iter().map(|name| parent.join(name)).collect();
        return Ok(CheckpointFiles { shards, ..alone(Vec::new()) });
    }
    let Some(numbered) = name.and_then(NumberedName::parse).filter(|n| n.count > 1) else {
        return Ok(alone(Vec::new()));
    };
    if has_extension(path, "gguf") {
        if !numbered::is_gguf_part(path, &numbered)? {
            return Ok(alone(Vec::new()));
        }
        let shards = numbered.all_in(parent)?;
        return Ok(CheckpointFiles { shards, ..alone(Vec::new()) });
    }
    Ok(alone(vec![format!(
        "this is one shard of {}; open its directory for the whole model",
        numbered.count
    )]))
}

/// Returns whether a path that does not exist looks like a repository of the Hub: `org/name`.
fn is_repository_name(path: &Path) -> bool {
    let text = path.to_str().unwrap_or_default();
    let is_plain = |part: &str| {
        !part.starts_with('.')
            && !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    text.split_once('/').is_some_and(|(org, name)| {
        is_plain(org) && is_plain(name) && !FILE_ENDINGS.iter().any(|end| name.ends_with(end))
    })
}

/// Extensions of paths that are meant to be files.
const FILE_ENDINGS: [&str; 8] =
    [".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".json", ".npz"];

/// Returns whether a directory contains at least one checkpoint.
pub fn has_model(path: &Path) -> bool {
    match directory::choose(path) {
        _ if distributed_directory(path).is_some() => true,
        Ok(_) => true,
        Err(e) => matches!(e.problem, Problem::Ambiguous(_)),
    }
}
