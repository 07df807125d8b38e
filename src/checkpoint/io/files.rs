//! Files and directories by their paths, on this machine or on a server.

use crate::checkpoint::io::remote::{self, Entry, RemoteFile};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a path names.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// A file of this machine: the path to open, which differs from the one that was asked for
    /// where a copy of a remote file is in the local cache.
    Local(PathBuf, std::fs::Metadata),
    Remote(Arc<RemoteFile>),
    /// A directory; of a remote one, the path by which to list it.
    Directory(PathBuf),
}

/// What `path` names. Links are followed.
///
/// # Errors
///
/// There is nothing, or it cannot be told; a device or another special file is an error too.
pub(crate) fn find(path: &Path) -> io::Result<Found> {
    if !remote::is_remote(path) {
        return find_local(path.to_owned());
    }
    match remote::entry(path)? {
        Entry::File(file) => Ok(Found::Remote(file)),
        Entry::Directory => Ok(Found::Directory(path.to_owned())),
        Entry::Cached(cached) => find_local(cached),
    }
}

fn find_local(path: PathBuf) -> io::Result<Found> {
    let metadata = std::fs::metadata(&path)?;
    if metadata.is_dir() {
        return Ok(Found::Directory(path));
    }
    match metadata.is_file() {
        true => Ok(Found::Local(path, metadata)),
        false => Err(io::Error::other("is not a regular file")),
    }
}

pub(crate) fn is_file(path: &Path) -> bool {
    matches!(find(path), Ok(Found::Local(..) | Found::Remote(_)))
}

/// The names in a directory. The value says what a name leads to: `Some(true)` a directory,
/// `Some(false)` a file, `None` nothing. Names that are not Unicode are left out.
pub(crate) fn names(directory: &Path) -> io::Result<BTreeMap<String, Option<bool>>> {
    let local = match find(directory)? {
        Found::Directory(path) if remote::is_remote(&path) => {
            let names = remote::names(&path)?;
            return Ok(names.into_iter().map(|(name, kind)| (name, Some(kind))).collect());
        }
        Found::Directory(path) => path,
        Found::Local(..) | Found::Remote(_) => return Err(io::ErrorKind::NotADirectory.into()),
    };
    let mut names = BTreeMap::new();
    for entry in std::fs::read_dir(local)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            let kind = std::fs::metadata(entry.path()).ok().map(|found| found.is_dir());
            names.insert(name, kind);
        }
    }
    Ok(names)
}

/// Bytes of a file.
pub(crate) fn size(path: &Path) -> io::Result<u64> {
    match find(path)? {
        Found::Local(_, metadata) => Ok(metadata.len()),
        Found::Remote(file) => Ok(file.size()),
        Found::Directory(_) => Err(io::ErrorKind::IsADirectory.into()),
    }
}

/// All bytes of a file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    match find(path)? {
        Found::Local(path, _) => std::fs::read(path),
        Found::Remote(file) => {
            let mut bytes = vec![0; usize::try_from(file.size()).map_err(io::Error::other)?];
            file.read_exact(&mut bytes, 0)?;
            Ok(bytes)
        }
        Found::Directory(_) => Err(io::ErrorKind::IsADirectory.into()),
    }
}
