//! Byte regions in a file, in a deflated archive member or in memory, and a sequential reader for
//! them.

use crate::checkpoint::access::Data;
use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::io::cursor::Cursor;
use crate::checkpoint::io::inflate::Inflater;
use crate::checkpoint::io::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// The origin of a [`Region`]'s positions.
#[derive(Clone, Debug)]
pub(crate) enum RegionBase {
    /// The start of the file.
    File,
    /// The first byte of the inflated content of this file range.
    Deflated(Range<u64>),
    /// The start of this buffer.
    Memory(Arc<[u8]>),
}

/// A contiguous range of bytes.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    pub base: RegionBase,
    pub start: u64,
    pub length: u64,
}

impl Region {
    pub(crate) fn file(range: Range<u64>) -> Region {
        let length = range.end.saturating_sub(range.start);
        Region { base: RegionBase::File, start: range.start, length }
    }

    pub(crate) fn memory(bytes: impl Into<Arc<[u8]>>) -> Region {
        let bytes = bytes.into();
        Region { start: 0, length: bytes.len() as u64, base: RegionBase::Memory(bytes) }
    }

    /// Returns `length` bytes from byte `offset` of the region; `None` if it is shorter.
    pub(crate) fn slice(&self, offset: u64, length: u64) -> Option<Region> {
        let end = offset.checked_add(length)?;
        let start = self.start.checked_add(offset)?;
        (end <= self.length).then(|| Region { base: self.base.clone(), start, length })
    }

    /// Returns the file range and the data in it, in the form that a stored tensor has.
    pub(crate) fn placed(&self) -> (Range<u64>, Data) {
        match &self.base {
            RegionBase::File => (self.start..self.start.saturating_add(self.length), Data::File),
            RegionBase::Deflated(range) => {
                (range.clone(), Data::Deflated { skip: self.start, size: self.length })
            }
            RegionBase::Memory(bytes) => {
                (0..0, Data::Memory { bytes: bytes.clone(), start: self.start })
            }
        }
    }

    /// Reads all bytes.
    ///
    /// # Errors
    ///
    /// The region has more than `limit` bytes or cannot be read.
    pub(crate) fn read(&self, source: &Source, limit: u64) -> Result<Vec<u8>> {
        if self.length > limit {
            let problem = Problem::HeaderLimit { claimed: self.length, limit };
            return Err(ReadError::new(source.path(), problem));
        }
        let mut bytes = vec![0; self.length as usize];
        match &self.base {
            RegionBase::File => source.read_exact(&source.open()?, &mut bytes, self.start)?,
            RegionBase::Memory(all) => {
                let start = self.start as usize;
                if let Some(held) = all.get(start..start.saturating_add(bytes.len())) {
                    bytes.copy_from_slice(held);
                }
            }
            RegionBase::Deflated(range) => {
                let handle = source.open()?;
                let mut inflater = Inflater::new(source.path(), range.clone());
                let mut read = |at: u64, out: &mut [u8]| source.read_exact(&handle, out, at);
                inflater.read(self.start, &mut bytes, &mut read)?;
            }
        }
        Ok(bytes)
    }
}

/// Reads a region sequentially.
pub(crate) struct ByteReader<'s> {
    source: &'s Source,
    place: ReaderState<'s>,
}

enum ReaderState<'s> {
    File(Cursor<'s>),
    Memory { bytes: Arc<[u8]>, at: usize },
}

impl<'s> ByteReader<'s> {
    /// Starts at the first byte of a region. A deflated region is inflated into memory first, up to
    /// `limit` bytes.
    pub(crate) fn new(source: &'s Source, region: &Region, limit: u64) -> Result<ByteReader<'s>> {
        let place = match &region.base {
            RegionBase::File => {
                let end = region.start.saturating_add(region.length);
                ReaderState::File(Cursor::within(source, region.start..end)?)
            }
            RegionBase::Memory(bytes) if region.length == bytes.len() as u64 => {
                ReaderState::Memory { bytes: bytes.clone(), at: 0 }
            }
            RegionBase::Memory(_) | RegionBase::Deflated(_) => {
                ReaderState::Memory { bytes: region.read(source, limit)?.into(), at: 0 }
            }
        };
        Ok(ByteReader { source, place })
    }

    /// Returns the origin of the positions.
    pub(crate) fn base(&self) -> RegionBase {
        match &self.place {
            ReaderState::File(_) => RegionBase::File,
            ReaderState::Memory { bytes, .. } => RegionBase::Memory(bytes.clone()),
        }
    }

    pub(crate) fn position(&self) -> u64 {
        match &self.place {
            ReaderState::File(cursor) => cursor.position(),
            ReaderState::Memory { at, .. } => *at as u64,
        }
    }

    pub(crate) fn remaining(&self) -> u64 {
        match &self.place {
            ReaderState::File(cursor) => cursor.remaining(),
            ReaderState::Memory { bytes, at } => bytes.len().saturating_sub(*at) as u64,
        }
    }

    pub(crate) fn skip(&mut self, n: u64) -> Result<()> {
        match &mut self.place {
            ReaderState::File(cursor) => cursor.skip(n),
            ReaderState::Memory { bytes, at } => {
                take(self.source, bytes, at, n)?;
                Ok(())
            }
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match &mut self.place {
            ReaderState::File(cursor) => cursor.array(),
            ReaderState::Memory { bytes, at } => {
                let taken = take(self.source, bytes, at, N as u64)?;
                let mut out = [0; N];
                if taken.len() == N {
                    out.copy_from_slice(taken);
                }
                Ok(out)
            }
        }
    }

    /// Reads the next `n` bytes.
    pub(crate) fn bytes(&mut self, n: u64) -> Result<Vec<u8>> {
        match &mut self.place {
            ReaderState::File(cursor) => cursor.bytes(n),
            ReaderState::Memory { bytes, at } => {
                take(self.source, bytes, at, n).map(<[u8]>::to_vec)
            }
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

fn take<'b>(source: &Source, bytes: &'b [u8], at: &mut usize, n: u64) -> Result<&'b [u8]> {
    let left = bytes.get(*at..).unwrap_or_default();
    match usize::try_from(n).ok().and_then(|n| left.get(..n)) {
        Some(taken) => {
            *at += taken.len();
            Ok(taken)
        }
        None => {
            let missing = n.saturating_sub(left.len() as u64);
            let problem = Problem::HeaderCutOff { at: *at as u64, missing };
            Err(ReadError::new(source.path(), problem))
        }
    }
}
