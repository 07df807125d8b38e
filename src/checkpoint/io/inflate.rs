//! Reads ranges of deflated data. Reading forward continues where the last range ended; reading
//! backward starts a new pass.

use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::strided::Read;
use flate2::{Decompress, FlushDecompress, Status};
use std::ops::Range;
use std::path::{Path, PathBuf};

const INPUT_BYTES: u64 = 1 << 16;
const SKIP_BYTES: usize = 1 << 16;

/// One forward pass through a deflated byte range of a file.
pub(crate) struct Inflater {
    path: PathBuf,
    range: Range<u64>,
    /// File offset of the next input.
    next: u64,
    /// Number of bytes inflated so far.
    at: u64,
    input: Vec<u8>,
    used: usize,
    inflate: Decompress,
}

impl Inflater {
    /// Starts a pass through `range` of the file at `path`.
    pub(crate) fn new(path: &Path, range: Range<u64>) -> Inflater {
        Inflater {
            path: path.to_owned(),
            next: range.start,
            range,
            at: 0,
            input: Vec::new(),
            used: 0,
            inflate: Decompress::new(false),
        }
    }

    /// Returns whether inflated byte `at` is still ahead.
    pub(crate) fn can_reach(&self, at: u64) -> bool {
        self.at <= at
    }

    /// Fills `out` with the inflated bytes from `at`, which must be ahead. `read` reads from the
    /// file.
    pub(crate) fn read(&mut self, at: u64, out: &mut [u8], read: &mut Read) -> Result<()> {
        let mut scratch = Vec::new();
        while self.at < at {
            let length = (at - self.at).min(SKIP_BYTES as u64) as usize;
            scratch.resize(length, 0);
            self.fill(&mut scratch, read)?;
        }
        self.fill(out, read)
    }

    fn fill(&mut self, mut out: &mut [u8], read: &mut Read) -> Result<()> {
        while !out.is_empty() {
            if self.used == self.input.len() && self.next < self.range.end {
                let length = (self.range.end - self.next).min(INPUT_BYTES);
                self.input.resize(length as usize, 0);
                read(self.next, &mut self.input)?;
                self.next += length;
                self.used = 0;
            }
            let input = self.input.get(self.used..).unwrap_or_default();
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(input, out, FlushDecompress::None);
            let taken = (self.inflate.total_in() - before_in) as usize;
            let made = (self.inflate.total_out() - before_out) as usize;
            self.used += taken;
            self.at += made as u64;
            out = out.get_mut(made..).unwrap_or_default();
            let stuck = taken == 0 && made == 0;
            match status {
                Ok(Status::StreamEnd) if !out.is_empty() => return Err(self.broken()),
                Ok(_) if !stuck => {}
                Ok(_) if self.next < self.range.end && self.used == self.input.len() => {}
                _ if out.is_empty() => {}
                _ => return Err(self.broken()),
            }
        }
        Ok(())
    }

    fn broken(&self) -> ReadError {
        let why = format!("its compressed data is damaged or cut off after {} bytes", self.at);
        ReadError::new(&self.path, Problem::Layout(why))
    }
}
