//! The members of a ZIP archive as ranges of its file: what PyTorch and NumPy wrap their
//! data in.

use crate::checkpoint::error::{CheckpointError, Problem, Result};
use crate::checkpoint::io::source::{Handle, Source};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use zip::{CompressionMethod, ZipArchive};

/// The first bytes of an archive that is not empty.
pub(crate) const MAGIC: [u8; 4] = *b"PK\x03\x04";

const COUNT_LIMIT: usize = 1 << 20;

/// A file in the archive.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    pub name: String,
    /// Its bytes in the archive's file, as they are or deflated.
    pub range: Range<u64>,
    /// Bytes after inflating.
    pub size: u64,
    pub deflated: bool,
}

/// Every member, in the archive's order.
pub(crate) fn members(source: &Source) -> Result<Vec<Member>> {
    let path = source.path();
    let bad = |why: String| CheckpointError::new(path, Problem::Malformed { format: "ZIP", why });
    let reader = BufReader::new(Whole { source, handle: source.open()?, at: 0 });
    let mut archive = ZipArchive::new(reader).map_err(|e| bad(e.to_string()))?;
    if archive.len() > COUNT_LIMIT {
        return Err(bad(format!("it has {} members, more than {COUNT_LIMIT}", archive.len())));
    }
    let mut members = Vec::with_capacity(archive.len());
    for number in 0..archive.len() {
        let member = archive.by_index_raw(number).map_err(|e| bad(e.to_string()))?;
        let name = member.name().map_err(|e| bad(e.to_string()))?.into_owned();
        let fail = |why: &str| bad(format!("its member '{}' {why}", name.escape_debug()));
        let start = member.data_start().ok_or_else(|| fail("has no data"))?;
        let end = start.checked_add(member.compressed_size()).filter(|&end| end <= source.size());
        let range = start..end.ok_or_else(|| fail("ends past the file, which is cut off"))?;
        let deflated = match member.compression() {
            _ if member.encrypted() => return Err(fail("is encrypted")),
            CompressionMethod::Stored if member.size() == member.compressed_size() => false,
            CompressionMethod::Stored => return Err(fail("is stored with two sizes")),
            CompressionMethod::Deflated => true,
            other => return Err(fail(&format!("is compressed by {other}, expected deflate"))),
        };
        members.push(Member { name: name.clone(), range, size: member.size(), deflated });
    }
    Ok(members)
}

/// A whole source as a stream.
struct Whole<'s> {
    source: &'s Source,
    handle: Handle,
    at: u64,
}

impl Read for Whole<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.source.size().saturating_sub(self.at);
        let count = left.min(out.len() as u64) as usize;
        let out = out.get_mut(..count).unwrap_or_default();
        self.source.read_exact(&self.handle, out, self.at).map_err(io::Error::other)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Whole<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(offset) => self.source.size().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
