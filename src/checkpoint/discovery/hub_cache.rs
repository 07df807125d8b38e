//! The cache of the Hugging Face Hub: `models--org--name/{blobs,refs,snapshots}`.

use crate::checkpoint::config;
use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::path_error::IoContext;
use std::path::{Component, Path, PathBuf};

/// Returns whether `directory` is a repository in the cache.
pub(super) fn is_repository(directory: &Path) -> bool {
    let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    directory.join("snapshots").is_dir()
        && (directory.join("refs").is_dir() || name.starts_with("models--"))
}

/// Returns whether `name` is a model repository's directory name in the cache.
pub(super) fn is_repository_name(name: &str) -> bool {
    name.strip_prefix("models--").is_some_and(|rest| !rest.is_empty())
}

/// Returns the snapshot of a repository: the one that `refs/main` names, or the only one. The note
/// is present if `refs/main` names a missing snapshot.
///
/// # Errors
///
/// There is no snapshot, or there are several and no `refs/main`.
pub(super) fn snapshot(repository: &Path) -> Result<(PathBuf, Option<String>)> {
    let snapshots = repository.join("snapshots");
    let main = config::text(&repository.join("refs/main")).and_then(|text| text.ok());
    let main = main.map(|revision| revision.trim().to_owned()).filter(|revision| {
        let mut components = Path::new(revision).components();
        components.clone().count() == 1 && components.all(|c| matches!(c, Component::Normal(_)))
    });
    if let Some(revision) = &main
        && snapshots.join(revision).is_dir()
    {
        return Ok((snapshots.join(revision), None));
    }
    let entries = std::fs::read_dir(&snapshots).context(&snapshots)?;
    let is_directory = |entry: &std::fs::DirEntry| entry.path().is_dir();
    let mut names: Vec<String> = entries
        .flatten()
        .filter(is_directory)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    match names.as_slice() {
        [] => Err(ReadError::new(repository, Problem::NoSnapshot)),
        [only] => {
            let note = main.map(|revision| {
                format!(
                    "refs/main names the snapshot {revision}, which is not here; the only one, {only}, was opened"
                )
            });
            Ok((snapshots.join(only), note))
        }
        _ => {
            let several = names.iter().map(|name| format!("snapshots/{name}")).collect();
            Err(ReadError::new(repository, Problem::SeveralDirectories(several)))
        }
    }
}
