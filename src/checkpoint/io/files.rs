//! Files and directories by their paths, on this machine or on a server.

use crate::checkpoint::io::remote::{self, Entry, RemoteFile};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
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

/// Opens a file to be read from its start.
pub(crate) fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    match find(path)? {
        Found::Local(path, _) => Ok(Box::new(File::open(path)?)),
        Found::Remote(file) => Ok(Box::new(RemoteReader { file, at: 0 })),
        Found::Directory(_) => Err(io::ErrorKind::IsADirectory.into()),
    }
}

/// Reads a remote file from its start to its end.
struct RemoteReader {
    file: Arc<RemoteFile>,
    at: u64,
}

impl Read for RemoteReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.file.size().saturating_sub(self.at);
        let count = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
        let (part, _) = buffer.split_at_mut(count);
        self.file.read_exact(part, self.at)?;
        self.at += count as u64;
        Ok(count)
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
