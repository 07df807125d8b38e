//! The path of an output: the conditions under which it may be written, and the names of the
//! temporary files next to it.

use crate::checkpoint::io::remote_path::is_remote;
use crate::checkpoint::{Checkpoint, has_model};
use crate::export::disk::{allocated_bytes, free_bytes, remove};
use crate::export::error::SaveError;
use crate::export::request::{Request, is_single_file};
use crate::path_error::IoContext;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Suffix of temporary files and directories.
pub(super) const SUFFIX: &str = ".quantscope-tmp";

/// Checks the preconditions for writing an output of `needed` bytes.
pub fn check(checkpoint: &Checkpoint, request: &Request, needed: u64) -> Result<(), SaveError> {
    let out = &request.out;
    let parent = may_be_written(checkpoint, out)?;
    put_back(&parent.join(aside_name(out)), out).context(out)?;
    if out.symlink_metadata().is_ok() {
        if !request.force {
            return Err(SaveError::Exists(out.clone()));
        }
        may_be_replaced(request)?;
    }
    let unfinished = allocated_bytes(&parent.join(temporary_name(out)));
    let free = free_bytes(&parent).context(&parent)?;
    match free.map(|free| free.saturating_add(unfinished)) {
        Some(free) if free < needed => Err(SaveError::NoSpace { out: out.clone(), needed, free }),
        _ => Ok(()),
    }
}

/// Returns the directory of an output, if it may be written there.
pub(super) fn may_be_written(checkpoint: &Checkpoint, out: &Path) -> Result<PathBuf, SaveError> {
    let parent = parent_of(out)?;
    if is_part_of_source(checkpoint, out) {
        return Err(SaveError::IsSource(out.to_owned()));
    }
    if is_hub_cache(&parent) {
        let why = "is in a Hugging Face cache, which is never written; choose another path";
        return Err(SaveError::Unfit { path: out.to_owned(), why: why.to_owned() });
    }
    Ok(parent)
}

/// Checks that an existing OUT may be replaced. A directory must be that of a model, because all
/// its content is deleted.
fn may_be_replaced(request: &Request) -> Result<(), SaveError> {
    let out = &request.out;
    let unfit = |why: &str| Err(SaveError::Unfit { path: out.clone(), why: why.to_owned() });
    let wants_file = is_single_file(out);
    let Ok(metadata) = fs::metadata(out) else { return Ok(()) };
    match (metadata.is_dir(), wants_file) {
        (true, true) => unfit("is a directory, but the output is a file; choose another path"),
        (false, false) => unfit(
            "is a file, but the output is a directory; choose another path, or one that ends in .safetensors",
        ),
        (false, true) => Ok(()),
        (true, false) => {
            let empty = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
            if empty || has_model(out) {
                Ok(())
            } else {
                unfit(
                    "is a directory that holds no model, and replacing it would delete everything in it; choose another path",
                )
            }
        }
    }
}

/// Returns the directory of an output.
pub(super) fn parent_of(out: &Path) -> Result<PathBuf, SaveError> {
    if is_remote(out) {
        let why = "is an address; outputs are written to this machine, choose a path".to_owned();
        return Err(SaveError::Unfit { path: out.to_owned(), why });
    }
    let named = matches!(out.components().next_back(), Some(Component::Normal(_)));
    if !named {
        let why = "does not name a file or directory to be written".to_owned();
        return Err(SaveError::Unfit { path: out.to_owned(), why });
    }
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if parent.is_dir() {
        Ok(parent)
    } else {
        Err(SaveError::NoParent { out: out.to_owned(), parent })
    }
}

/// Returns whether `out` is one of the checkpoint's files or a directory that contains them.
fn is_part_of_source(checkpoint: &Checkpoint, out: &Path) -> bool {
    let Ok(out) = out.canonicalize() else { return false };
    let sources = checkpoint.shards().iter().map(|s| s.source.path());
    sources
        .chain(checkpoint.directory())
        .filter_map(|path| Some((path.canonicalize().ok()?, std::path::absolute(path).ok()?)))
        .any(|(real, named)| real.starts_with(&out) || named.starts_with(&out))
}

/// Returns whether a directory belongs to a Hugging Face cache.
fn is_hub_cache(path: &Path) -> bool {
    let Ok(real) = path.canonicalize() else { return false };
    let names: Vec<_> = real.components().map(|c| c.as_os_str().to_string_lossy()).collect();
    names.windows(2).any(|pair| {
        pair[0].starts_with("models--") && ["snapshots", "blobs", "refs"].contains(&&*pair[1])
    })
}

/// Returns the temporary name of an output.
pub(super) fn temporary_name(out: &Path) -> String {
    format!(".{}{SUFFIX}", out.file_name().unwrap_or_default().to_string_lossy())
}

/// Returns the name of an output's journal.
pub(super) fn journal_name(out: &Path) -> String {
    format!(".{}.journal{SUFFIX}", out.file_name().unwrap_or_default().to_string_lossy())
}

/// Returns the name of the old directory while the new one takes its place, on systems that cannot
/// swap the two.
pub(super) fn aside_name(out: &Path) -> String {
    format!(".{}.old{SUFFIX}", out.file_name().unwrap_or_default().to_string_lossy())
}

/// Recovers from a save that was killed while replacing OUT in two steps: puts the old OUT back, or
/// removes it if the new one is in place.
fn put_back(aside: &Path, out: &Path) -> io::Result<()> {
    match (aside.symlink_metadata(), out.symlink_metadata()) {
        (Err(_), _) => Ok(()),
        (Ok(_), Err(e)) if e.kind() == io::ErrorKind::NotFound => fs::rename(aside, out),
        (Ok(_), _) => remove(aside),
    }
}
