//! Bytes at an offset: of a file that may change under us, of a file on a server, or of memory.

use crate::checkpoint::error::{CheckpointError, Problem, Result};
use crate::checkpoint::io::files::{self, Found};
use crate::checkpoint::io::mapped_read::{Mapped, Ready};
use crate::checkpoint::io::remote::RemoteFile;
use rayon::prelude::*;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// A file of the checkpoint, or one that lies in memory.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    len: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Opened by each reader: ten thousand shards need no ten thousand descriptors.
    Disk {
        /// Where the file is; a remote file may be in the local cache.
        file: PathBuf,
        modified: Option<SystemTime>,
    },
    Remote(Arc<RemoteFile>),
    Memory(&'static [u8]),
}

/// A source being read.
pub enum Handle {
    Disk(Mapped),
    Remote,
    Memory(&'static [u8]),
}

impl Handle {
    /// Keeps no more than it takes to be read again.
    pub fn rest(&mut self) {
        if let Handle::Disk(file) = self {
            file.unmap();
        }
    }
}

/// Bytes of a source that can be looked at without a copy.
pub struct InPlace<'h> {
    source: &'h Source,
    tensor: &'h str,
    bytes: Range<u64>,
    place: BytesIn<'h>,
}

enum BytesIn<'h> {
    Mapped(Ready<'h>),
    Memory(&'h [u8]),
}

impl InPlace<'_> {
    /// Gives the bytes to `look`; an error if they were lost under its eyes.
    pub fn look<T>(self, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        match self.place {
            BytesIn::Memory(bytes) => Ok(look(bytes)),
            BytesIn::Mapped(ready) => {
                ready.look(look).ok_or_else(|| self.source.why_lost(self.bytes).about(self.tensor))
            }
        }
    }
}

impl Source {
    /// The file at a path, on this machine or on a server.
    pub fn file(path: &Path) -> Result<Source> {
        let found = files::find(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => CheckpointError::new(path, Problem::NotFound),
            _ => CheckpointError::new(path, e),
        })?;
        let (len, place) = match found {
            Found::Local(file, metadata) => {
                let modified = metadata.modified().ok();
                (metadata.len(), Place::Disk { file, modified })
            }
            Found::Remote(file) => (file.size(), Place::Remote(file)),
            Found::Directory(_) => {
                let why = io::Error::other("is not a regular file");
                return Err(CheckpointError::new(path, why));
            }
        };
        Ok(Source { path: path.to_owned(), len, place })
    }

    pub fn memory(name: &str, bytes: &'static [u8]) -> Source {
        Source { path: name.into(), len: bytes.len() as u64, place: Place::Memory(bytes) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in it.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// A text that differs between versions of a remote file, where its server tells them apart.
    /// `None` for other sources.
    pub(crate) fn remote_identity(&self) -> Option<String> {
        match &self.place {
            Place::Remote(file) => file.identity(),
            Place::Disk { .. } | Place::Memory(_) => None,
        }
    }

    pub fn modified(&self) -> Option<SystemTime> {
        match self.place {
            Place::Disk { modified, .. } => modified,
            Place::Remote(_) | Place::Memory(_) => None,
        }
    }

    /// Whether the source is a file that can be copied from.
    pub fn is_file(&self) -> bool {
        matches!(self.place, Place::Disk { .. })
    }

    /// Whether it is read from a server.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.place, Place::Remote(_))
    }

    /// Whether it is in memory from the start.
    pub(crate) fn is_memory(&self) -> bool {
        matches!(self.place, Place::Memory(_))
    }

    /// Opens it for reading; an error if it is no longer what it was when first seen.
    pub fn open(&self) -> Result<Handle> {
        let file = match &self.place {
            Place::Memory(bytes) => return Ok(Handle::Memory(bytes)),
            Place::Remote(_) => return Ok(Handle::Remote),
            Place::Disk { file, .. } => file,
        };
        let file = File::open(file).map_err(|e| CheckpointError::new(&self.path, e))?;
        self.check(&file)?;
        Ok(Handle::Disk(Mapped::new(file)))
    }

    /// An error if the file is no longer what it was when first seen.
    fn check(&self, file: &File) -> Result<()> {
        let now = file.metadata().map_err(|e| CheckpointError::new(&self.path, e))?;
        match now.len() == self.len && now.modified().ok() == self.modified() {
            true => Ok(()),
            false => Err(CheckpointError::new(&self.path, Problem::Changed)),
        }
    }

    /// The bytes of a range, to be looked at without a copy. `None` if they have to be read.
    /// `tensor`: whose they are.
    pub fn in_place<'h>(
        &'h self,
        handle: &'h mut Handle,
        tensor: &'h str,
        bytes: Range<u64>,
    ) -> Result<Option<InPlace<'h>>> {
        let place = match handle {
            Handle::Memory(all) => within(all, &bytes).map(BytesIn::Memory),
            Handle::Remote => None,
            Handle::Disk(_) if bytes.end > self.len => None,
            Handle::Disk(file) => {
                let check = |file: &File| self.check(file).map_err(|e| e.about(tensor));
                file.ready(bytes.clone(), check)?.map(BytesIn::Mapped)
            }
        };
        Ok(place.map(|place| InPlace { source: self, tensor, bytes, place }))
    }

    /// What has happened to bytes that could be looked at before: reading them tells.
    fn why_lost(&self, bytes: Range<u64>) -> CheckpointError {
        let mut again = vec![0; bytes.end.saturating_sub(bytes.start) as usize];
        let mut read = || self.read_exact(&self.open()?, &mut again, bytes.start);
        read().err().unwrap_or_else(|| CheckpointError::new(&self.path, Problem::Changed))
    }

    /// Fills `buffer` from `offset`.
    pub fn read_exact(&self, handle: &Handle, buffer: &mut [u8], offset: u64) -> Result<()> {
        let short = |missing| CheckpointError::new(&self.path, Problem::Shrunk { missing });
        match handle {
            Handle::Remote => {
                let Place::Remote(file) = &self.place else { return Err(short(0)) };
                let end = offset.saturating_add(buffer.len() as u64);
                if end > self.len {
                    return Err(short(end - self.len));
                }
                let read = file.read_exact(buffer, offset);
                read.map_err(|e| CheckpointError::new(&self.path, e))
            }
            Handle::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let found = bytes.get(start..).unwrap_or_default();
                match found.get(..buffer.len()) {
                    Some(found) => buffer.copy_from_slice(found),
                    None => return Err(short((buffer.len() - found.len()) as u64)),
                }
                Ok(())
            }
            Handle::Disk(file) => read_large_at(file.file(), buffer, offset).map_err(|e| match e {
                ReadError::Short(missing) => short(missing),
                ReadError::Io(e) => CheckpointError::new(&self.path, e),
            }),
        }
    }
}

fn within<'b>(all: &'b [u8], bytes: &Range<u64>) -> Option<&'b [u8]> {
    let place = |at: u64| usize::try_from(at).ok();
    all.get(place(bytes.start)?..place(bytes.end)?)
}

enum ReadError {
    Short(u64),
    Io(io::Error),
}

/// What is read at once by one thread of something large.
const PIECE: usize = 1 << 20;

/// A header of many megabytes is read on all cores: most of the time goes into giving its
/// buffer memory.
fn read_large_at(file: &File, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
    if buffer.len() > 4 * PIECE {
        let pieces = buffer.par_chunks_mut(PIECE).enumerate();
        let read = pieces
            .try_for_each(|(i, piece)| read_exact_at(file, piece, offset + (i * PIECE) as u64));
        if read.is_ok() {
            return Ok(());
        }
    }
    // One that fails does so with what it says of the whole.
    read_exact_at(file, buffer, offset)
}

fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> Result<(), ReadError> {
    while !buffer.is_empty() {
        match read_at(file, buffer, offset) {
            Ok(0) => return Err(ReadError::Short(buffer.len() as u64)),
            Ok(n) => {
                buffer = buffer.get_mut(n..).unwrap_or_default();
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(ReadError::Io(e)),
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
