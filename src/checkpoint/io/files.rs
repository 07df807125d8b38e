//! Files and directories at local and remote paths.

use crate::checkpoint::io::remote::{self, Entry, RemoteFile};
use crate::checkpoint::io::remote_path::is_remote;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is at a path.
#[derive(Clone, Debug)]
pub(crate) enum PathTarget {
    /// A local file and the path to open. That differs from the requested path if a remote file has
    /// a copy in the local cache.
    Local(PathBuf, std::fs::Metadata),
    Remote(Arc<RemoteFile>),
    /// A directory and the path by which to list it.
    Directory(PathBuf),
}

/// Looks up a path, following links.
///
/// # Errors
///
/// Nothing is at the path, it cannot be accessed, or it is a device or another special file.
pub(crate) fn find(path: &Path) -> io::Result<PathTarget> {
    if !is_remote(path) {
        return find_local(path.to_owned());
    }
    match remote::entry(path)? {
        Entry::File(file) => Ok(PathTarget::Remote(file)),
        Entry::Directory => Ok(PathTarget::Directory(path.to_owned())),
        Entry::Cached(cached) => find_local(cached),
    }
}

fn find_local(path: PathBuf) -> io::Result<PathTarget> {
    let metadata = std::fs::metadata(&path)?;
    if metadata.is_dir() {
        return Ok(PathTarget::Directory(path));
    }
    if metadata.is_file() {
        Ok(PathTarget::Local(path, metadata))
    } else {
        Err(io::Error::other("is not a regular file"))
    }
}

pub(crate) fn is_file(path: &Path) -> bool {
    matches!(find(path), Ok(PathTarget::Local(..) | PathTarget::Remote(_)))
}

pub(crate) fn is_directory(path: &Path) -> bool {
    matches!(find(path), Ok(PathTarget::Directory(_)))
}

/// Lists a directory. The value is `Some(true)` for a directory, `Some(false)` for a file and
/// `None` for a broken link. Names that are not Unicode are left out.
pub(crate) fn names(directory: &Path) -> io::Result<BTreeMap<String, Option<bool>>> {
    let local = match find(directory)? {
        PathTarget::Directory(path) if is_remote(&path) => {
            let names = remote::names(&path)?;
            return Ok(names.into_iter().map(|(name, kind)| (name, Some(kind))).collect());
        }
        PathTarget::Directory(path) => path,
        PathTarget::Local(..) | PathTarget::Remote(_) => {
            return Err(io::ErrorKind::NotADirectory.into());
        }
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

/// Returns the size of a file in bytes.
pub(crate) fn size(path: &Path) -> io::Result<u64> {
    match find(path)? {
        PathTarget::Local(_, metadata) => Ok(metadata.len()),
        PathTarget::Remote(file) => Ok(file.size()),
        PathTarget::Directory(_) => Err(io::ErrorKind::IsADirectory.into()),
    }
}

/// A reader of a file.
pub(crate) trait FileReader: Read + Seek {}

impl<R: Read + Seek> FileReader for R {}

/// Opens a file for reading from its start.
pub(crate) fn open(path: &Path) -> io::Result<Box<dyn FileReader>> {
    match find(path)? {
        PathTarget::Local(path, _) => Ok(Box::new(File::open(path)?)),
        PathTarget::Remote(file) => Ok(Box::new(RemoteReader { file, at: 0 })),
        PathTarget::Directory(_) => Err(io::ErrorKind::IsADirectory.into()),
    }
}

/// Reads a remote file.
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

impl Seek for RemoteReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.file.size().checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Reads a whole file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    match find(path)? {
        PathTarget::Local(path, _) => std::fs::read(path),
        PathTarget::Remote(file) => {
            let mut bytes = vec![0; usize::try_from(file.size()).map_err(io::Error::other)?];
            file.read_exact(&mut bytes, 0)?;
            Ok(bytes)
        }
        PathTarget::Directory(_) => Err(io::ErrorKind::IsADirectory.into()),
    }
}
