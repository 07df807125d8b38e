//! Reads a header sequentially with bounded memory.

use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::io::source::{Source, SourceHandle};
use std::ops::Range;

const WINDOW_BYTES: u64 = 1 << 16;

/// A position in a source that moves forward. It never reads past the end of the file or past
/// `limit`, and never allocates more than the file holds.
pub(crate) struct Cursor<'s> {
    source: &'s Source,
    handle: SourceHandle,
    at: u64,
    end: u64,
    limit: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl<'s> Cursor<'s> {
    /// Starts at byte `at`. Reading past byte `limit` is an error.
    pub(crate) fn new(source: &'s Source, at: u64, limit: u64) -> Result<Cursor<'s>> {
        let handle = source.open()?;
        let end = source.size();
        Ok(Cursor { source, handle, at, end, limit, window: Vec::new(), window_start: 0 })
    }

    /// Restricts reading to a range of the file.
    pub(crate) fn within(source: &'s Source, range: Range<u64>) -> Result<Cursor<'s>> {
        let end = range.end.min(source.size());
        Ok(Cursor { end, ..Cursor::new(source, range.start, end)? })
    }

    /// Offset from the start of the file in bytes.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// Bytes left until the end.
    pub(crate) fn remaining(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    fn check(&self, n: u64) -> Result<()> {
        let fail = |problem| Err(ReadError::new(self.source.path(), problem));
        if n > self.remaining() {
            return fail(Problem::HeaderCutOff { at: self.at, missing: n - self.remaining() });
        }
        match self.at.saturating_add(n) {
            end if end > self.limit => {
                fail(Problem::HeaderLimit { claimed: end, limit: self.limit })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn skip(&mut self, n: u64) -> Result<()> {
        self.check(n)?;
        self.at += n;
        Ok(())
    }

    /// Reads the next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.check(N as u64)?;
        let start = self.at.checked_sub(self.window_start).map_or(usize::MAX, |n| n as usize);
        let held = start.checked_add(N).and_then(|end| self.window.get(start..end));
        let mut out = [0; N];
        match held {
            Some(held) => out.copy_from_slice(held),
            None => {
                let length = self.remaining().min(WINDOW_BYTES);
                self.window.resize(length as usize, 0);
                self.window_start = self.at;
                self.source.read_exact(&self.handle, &mut self.window, self.at)?;
                if let Some(head) = self.window.get(..N) {
                    out.copy_from_slice(head);
                }
            }
        }
        self.at += N as u64;
        Ok(out)
    }

    /// Reads the next `n` bytes.
    pub(crate) fn bytes(&mut self, n: u64) -> Result<Vec<u8>> {
        self.check(n)?;
        let mut out = vec![0; n as usize];
        let start = self.at.checked_sub(self.window_start).map_or(usize::MAX, |n| n as usize);
        match start.checked_add(out.len()).and_then(|end| self.window.get(start..end)) {
            Some(held) => out.copy_from_slice(held),
            None => self.source.read_exact(&self.handle, &mut out, self.at)?,
        }
        self.at += n;
        Ok(out)
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
