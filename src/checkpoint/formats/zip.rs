//! Lists the members of a ZIP archive as byte ranges of the file. PyTorch and NumPy store their
//! data in such archives.

use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::formats::region::{Region, RegionBase};
use crate::checkpoint::io::source::{Source, SourceHandle};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use zip::read::{ArchiveOffset, Config, ZipFile};
use zip::result::ZipResult;
use zip::{CompressionMethod, ZipArchive};

/// The first bytes of a non-empty archive and of an empty one.
pub(crate) const MAGIC: [u8; 4] = *b"PK\x03\x04";
pub(crate) const EMPTY_MAGIC: [u8; 4] = *b"PK\x05\x06";

const COUNT_LIMIT: usize = 1 << 20;

/// A file in the archive.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    pub name: String,
    /// Bytes in the archive, stored or deflated.
    pub range: Range<u64>,
    /// Size after inflating, in bytes.
    pub size: u64,
    pub packing: Packing,
}

impl Member {
    /// Returns the member's bytes, or the reason why they cannot be read.
    pub(crate) fn region(&self) -> Result<Region, String> {
        match &self.packing {
            Packing::Stored => Ok(Region::file(self.range.clone())),
            Packing::Deflated => {
                let base = RegionBase::Deflated(self.range.clone());
                Ok(Region { base, start: 0, length: self.size })
            }
            Packing::Unreadable(why) => {
                Err(format!("the archive's member '{}' {why}", self.name.escape_debug()))
            }
        }
    }
}

/// How a member's bytes are packed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Packing {
    Stored,
    Deflated,
    /// Cannot be read, with the reason.
    Unreadable(String),
}

/// Lists all members in the archive's order. One that cannot be read carries the reason.
pub(crate) fn members(source: &Source) -> Result<Vec<Member>> {
    members_within(source, 0..source.size())
}

/// Lists the members of an archive that is embedded in a file.
pub(crate) fn members_within(source: &Source, range: Range<u64>) -> Result<Vec<Member>> {
    let path = source.path();
    let bad = |why: String| ReadError::new(path, Problem::Malformed { format: "ZIP", why });
    let mut archive = open(source, &range)?.ok_or_else(|| {
        let why = "the list of members at its end is missing or damaged; the file is cut off or was not copied whole, download it again";
        bad(why.to_owned())
    })?;
    if archive.len() > COUNT_LIMIT {
        return Err(bad(format!("it has {} members, more than {COUNT_LIMIT}", archive.len())));
    }
    let mut members = Vec::with_capacity(archive.len());
    for number in 0..archive.len() {
        let listed = archive.name_for_index(number).and_then(|name| name.ok());
        let listed = listed.map_or_else(|| format!("member {number}"), |name| name.into_owned());
        members.push(member(&range, listed, archive.by_index_raw(number)));
    }
    Ok(members)
}

type Archive<'s> = ZipArchive<BufReader<SourceStream<'s>>>;

/// Returns `None` if the range is not an archive.
fn open<'s>(source: &'s Source, range: &Range<u64>) -> Result<Option<Archive<'s>>> {
    // Nearly every archive begins at the start of its file. The crate's detection of another start
    // fails for some of these (zip 9.8), so it is only the second attempt.
    for archive_offset in [ArchiveOffset::Known(0), ArchiveOffset::Detect] {
        let handle = source.open()?;
        let stream = SourceStream { source, handle, range: range.clone(), at: 0 };
        let opened = ZipArchive::with_config(Config { archive_offset }, BufReader::new(stream));
        if let Ok(archive) = opened {
            return Ok(Some(archive));
        }
    }
    Ok(None)
}

fn member<R: Read>(within: &Range<u64>, name: String, found: ZipResult<ZipFile<'_, R>>) -> Member {
    let unreadable = |name, why: String| Member {
        name,
        range: 0..0,
        size: 0,
        packing: Packing::Unreadable(why),
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => return unreadable(name, format!("cannot be found: {error}")),
    };
    let start = within.start.saturating_add(found.data_start().unwrap_or(u64::MAX));
    let end = start.checked_add(found.compressed_size()).filter(|&end| end <= within.end);
    let Some(end) = end else {
        let why = "ends past the file, which is cut off; download it again";
        return unreadable(name, why.to_owned());
    };
    let packing = match found.compression() {
        _ if found.encrypted() => Packing::Unreadable("is encrypted".to_owned()),
        CompressionMethod::Stored if found.size() == found.compressed_size() => Packing::Stored,
        CompressionMethod::Stored => Packing::Unreadable("is stored with two sizes".to_owned()),
        CompressionMethod::Deflated => Packing::Deflated,
        other => Packing::Unreadable(format!("is compressed by {other}, expected deflate")),
    };
    Member { name, range: start..end, size: found.size(), packing }
}

/// A range of a source as a stream.
struct SourceStream<'s> {
    source: &'s Source,
    handle: SourceHandle,
    range: Range<u64>,
    at: u64,
}

impl SourceStream<'_> {
    fn size(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }
}

impl Read for SourceStream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.size().saturating_sub(self.at);
        let count = left.min(out.len() as u64) as usize;
        let out = out.get_mut(..count).unwrap_or_default();
        let at = self.range.start.saturating_add(self.at);
        self.source.read_exact(&self.handle, out, at).map_err(io::Error::other)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for SourceStream<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(offset) => self.size().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
