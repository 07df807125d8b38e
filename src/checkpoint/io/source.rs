//! Random-access reads from a local file (which may change meanwhile), a file on a server, or
//! memory.

use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::io::files::{self, PathTarget};
use crate::checkpoint::io::mapped_read::{LeasedBytes, MappedFile};
use crate::checkpoint::io::remote::RemoteFile;
use crate::path_error::IoContext;
use rayon::prelude::*;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// A file of the checkpoint, or bytes in memory that stand for one.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    len: u64,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    /// Opened by each reader, so that ten thousand shards do not need ten thousand descriptors.
    Disk {
        /// The path to open; for a remote file this may be a copy in the local cache.
        file: PathBuf,
        modified: Option<SystemTime>,
    },
    Remote(Arc<RemoteFile>),
    Memory(&'static [u8]),
}

/// A source opened for reading.
pub enum SourceHandle {
    /// An open local file.
    Disk(MappedFile),
    /// A remote file, read by requests.
    Remote {
        /// Whether only the requested bytes are fetched.
        is_direct: bool,
    },
    /// Bytes in memory.
    Memory(&'static [u8]),
}

impl SourceHandle {
    /// Fetches only the requested bytes from now on.
    pub(crate) fn direct(self) -> SourceHandle {
        match self {
            SourceHandle::Remote { .. } => SourceHandle::Remote { is_direct: true },
            other => other,
        }
    }

    /// Releases the mapped memory until the next read.
    pub fn release_mapping(&mut self) {
        if let SourceHandle::Disk(file) = self {
            file.unmap();
        }
    }
}

/// Bytes of a source that can be read without a copy.
pub struct BorrowedBytes<'h> {
    source: &'h Source,
    tensor: &'h str,
    bytes: Range<u64>,
    storage: BorrowedFrom<'h>,
}

enum BorrowedFrom<'h> {
    Mapped(LeasedBytes<'h>),
    Memory(&'h [u8]),
}

impl BorrowedBytes<'_> {
    /// Calls `read` with the bytes.
    ///
    /// # Errors
    ///
    /// The bytes could not be read, or the file changed meanwhile.
    pub fn with_bytes<T>(self, read: impl FnOnce(&[u8]) -> T) -> Result<T> {
        match self.storage {
            BorrowedFrom::Memory(bytes) => Ok(read(bytes)),
            BorrowedFrom::Mapped(leased) => leased
                .with_bytes(read)
                .ok_or_else(|| self.source.loss_error(self.bytes).about(self.tensor)),
        }
    }
}

impl Source {
    /// Finds the file at a local or remote path.
    ///
    /// # Errors
    ///
    /// There is no regular file at the path, or it cannot be accessed.
    pub fn file(path: &Path) -> Result<Source> {
        let found = files::find(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => ReadError::new(path, Problem::NotFound),
            _ => ReadError::new(path, e),
        })?;
        let (len, storage) = match found {
            PathTarget::Local(file, metadata) => {
                let modified = metadata.modified().ok();
                (metadata.len(), Storage::Disk { file, modified })
            }
            PathTarget::Remote(file) => (file.size(), Storage::Remote(file)),
            PathTarget::Directory(_) => {
                let why = io::Error::other("is not a regular file");
                return Err(ReadError::new(path, why));
            }
        };
        Ok(Source { path: path.to_owned(), len, storage })
    }

    /// Creates a source from bytes in memory.
    pub fn memory(name: &str, bytes: &'static [u8]) -> Source {
        Source { path: name.into(), len: bytes.len() as u64, storage: Storage::Memory(bytes) }
    }

    /// The path, or the name of a source in memory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Returns a text that identifies this version of a remote file, if its server supports that.
    /// `None` for other sources.
    pub(crate) fn remote_identity(&self) -> Option<String> {
        match &self.storage {
            Storage::Remote(file) => file.identity(),
            Storage::Disk { .. } | Storage::Memory(_) => None,
        }
    }

    /// The modification time of a local file when the source was created.
    pub fn modified(&self) -> Option<SystemTime> {
        match self.storage {
            Storage::Disk { modified, .. } => modified,
            Storage::Remote(_) | Storage::Memory(_) => None,
        }
    }

    /// Returns whether the source is a local file, which can be cloned or copied by the system.
    pub fn is_file(&self) -> bool {
        matches!(self.storage, Storage::Disk { .. })
    }

    /// Returns whether the source is read from a server.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.storage, Storage::Remote(_))
    }

    /// Returns whether the source is in memory.
    pub(crate) fn is_memory(&self) -> bool {
        matches!(self.storage, Storage::Memory(_))
    }

    /// Opens the source for reading.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, or it changed since the source was created.
    pub fn open(&self) -> Result<SourceHandle> {
        let file = match &self.storage {
            Storage::Memory(bytes) => return Ok(SourceHandle::Memory(bytes)),
            Storage::Remote(_) => return Ok(SourceHandle::Remote { is_direct: false }),
            Storage::Disk { file, .. } => file,
        };
        let file = File::open(file).context(&self.path)?;
        self.check(&file)?;
        Ok(SourceHandle::Disk(MappedFile::new(file)))
    }

    /// Fails if the file's length or modification time changed since the source was created.
    fn check(&self, file: &File) -> Result<()> {
        let now = file.metadata().context(&self.path)?;
        if now.len() == self.len && now.modified().ok() == self.modified() {
            Ok(())
        } else {
            Err(ReadError::new(&self.path, Problem::Changed))
        }
    }

    /// Returns the bytes of a range without copying them, or `None` if they have to be read with
    /// [`Source::read_exact`]. `tensor` is the name used in error messages.
    pub fn borrow_bytes<'h>(
        &'h self,
        handle: &'h mut SourceHandle,
        tensor: &'h str,
        bytes: Range<u64>,
    ) -> Result<Option<BorrowedBytes<'h>>> {
        let storage = match handle {
            SourceHandle::Memory(all) => within(all, &bytes).map(BorrowedFrom::Memory),
            SourceHandle::Remote { .. } => None,
            SourceHandle::Disk(_) if bytes.end > self.len => None,
            SourceHandle::Disk(file) => {
                let check = |file: &File| self.check(file).map_err(|e| e.about(tensor));
                file.lease_bytes(bytes.clone(), check)?.map(BorrowedFrom::Mapped)
            }
        };
        Ok(storage.map(|storage| BorrowedBytes { source: self, tensor, bytes, storage }))
    }

    /// Finds out why bytes were lost while they were lent, by reading them again.
    fn loss_error(&self, bytes: Range<u64>) -> ReadError {
        let mut again = vec![0; bytes.end.saturating_sub(bytes.start) as usize];
        let mut read = || self.read_exact(&self.open()?, &mut again, bytes.start);
        read().err().unwrap_or_else(|| ReadError::new(&self.path, Problem::Changed))
    }

    /// Fills `buffer` with the bytes from `offset`.
    pub fn read_exact(&self, handle: &SourceHandle, buffer: &mut [u8], offset: u64) -> Result<()> {
        let short = |missing| ReadError::new(&self.path, Problem::Shrunk { missing });
        match handle {
            SourceHandle::Remote { is_direct } => {
                let Storage::Remote(file) = &self.storage else { return Err(short(0)) };
                let end = offset.saturating_add(buffer.len() as u64);
                if end > self.len {
                    return Err(short(end - self.len));
                }
                let read = if *is_direct {
                    file.read_direct(buffer, offset)
                } else {
                    file.read_exact(buffer, offset)
                };
                Ok(read.context(&self.path)?)
            }
            SourceHandle::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let found = bytes.get(start..).unwrap_or_default();
                match found.get(..buffer.len()) {
                    Some(found) => buffer.copy_from_slice(found),
                    None => return Err(short((buffer.len() - found.len()) as u64)),
                }
                Ok(())
            }
            SourceHandle::Disk(file) => {
                read_large_at(file.file(), buffer, offset).map_err(|e| match e {
                    FileReadError::Short(missing) => short(missing),
                    FileReadError::Io(e) => ReadError::new(&self.path, e),
                })
            }
        }
    }
}

fn within<'b>(all: &'b [u8], bytes: &Range<u64>) -> Option<&'b [u8]> {
    let index = |at: u64| usize::try_from(at).ok();
    all.get(index(bytes.start)?..index(bytes.end)?)
}

enum FileReadError {
    Short(u64),
    Io(io::Error),
}

/// Piece size of parallel reads.
const PIECE_BYTES: usize = 1 << 20;

/// Reads at an offset. Large buffers (a header of many megabytes) are filled on all cores: most of
/// the time goes into the page faults of the new buffer.
fn read_large_at(file: &File, buffer: &mut [u8], offset: u64) -> Result<(), FileReadError> {
    if buffer.len() > 4 * PIECE_BYTES {
        let pieces = buffer.par_chunks_mut(PIECE_BYTES).enumerate();
        let read = pieces.try_for_each(|(i, piece)| {
            read_exact_at(file, piece, offset + (i * PIECE_BYTES) as u64)
        });
        if read.is_ok() {
            return Ok(());
        }
    }
    // After an error read sequentially, so that the error describes the whole range.
    read_exact_at(file, buffer, offset)
}

fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> Result<(), FileReadError> {
    while !buffer.is_empty() {
        match read_at(file, buffer, offset) {
            Ok(0) => return Err(FileReadError::Short(buffer.len() as u64)),
            Ok(n) => {
                buffer = buffer.get_mut(n..).unwrap_or_default();
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(FileReadError::Io(e)),
        }
    }
    Ok(())
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}
