//! Reads ranges of stored tensors on demand.

use crate::checkpoint::access::{Access, Data, Indirect};
use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::io::inflate::Inflater;
use crate::checkpoint::io::source::{BorrowedBytes, Source, SourceHandle};
use crate::checkpoint::stored::{Shard, Stored, StoredId};
use crate::checkpoint::strided::Read;
use crate::checkpoint::tensor_parts::TensorParts;
use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

/// Maximum number of open files: the parts of one tensor may be in several.
const MAX_OPEN_FILES: usize = 4;

/// Maximum number of panels: a transposed packed format needs one per part.
const MAX_PANELS: usize = 4;

/// Size of a panel in bytes, unless a single chunk needs more.
const PANEL_BYTES: u64 = 2 << 20;

/// A deflated tensor up to this size is inflated completely to be read through a strided view.
const INFLATED_BYTES: u64 = 16 << 20;

/// Reads bytes of stored tensors. Recently used files stay open.
pub struct StoredReader<'c> {
    shards: &'c [Shard],
    stored: &'c [Stored],
    /// The most recently used handle and the shard it belongs to.
    open: Option<(u32, SourceHandle)>,
    /// Previously used handles, most recent last.
    open_before: Vec<(u32, SourceHandle)>,
    inflating: Option<(StoredId, Inflater)>,
    /// The last small deflated tensor that was read through a strided view.
    inflated: Option<(StoredId, Arc<[u8]>)>,
    panels: VecDeque<Arc<Panel>>,
    /// Whether only the requested bytes are fetched from servers.
    is_direct: bool,
}

/// The bytes of a range of columns of a range of rows of a stored tensor. Packed formats
/// that store their tensor transposed decode a chunk from it.
#[derive(Debug)]
pub struct Panel {
    stored: StoredId,
    rows: Range<u64>,
    columns: Range<u64>,
    bytes: Vec<u8>,
}

impl Panel {
    /// Returns bytes `columns` of `row`, both relative to the stored tensor; empty outside the
    /// panel.
    pub fn get(&self, row: u64, columns: Range<u64>) -> &[u8] {
        let width = self.columns.end - self.columns.start;
        let offset = |column: u64| {
            let row = row.checked_sub(self.rows.start)?;
            let column = column.checked_sub(self.columns.start).filter(|&c| c <= width)?;
            Some((row * width + column) as usize)
        };
        match (offset(columns.start), offset(columns.end)) {
            (Some(start), Some(end)) => self.bytes.get(start..end).unwrap_or_default(),
            _ => &[],
        }
    }
}

impl<'c> StoredReader<'c> {
    pub(crate) fn new(shards: &'c [Shard], stored: &'c [Stored]) -> Self {
        StoredReader {
            shards,
            stored,
            open: None,
            open_before: Vec::new(),
            inflating: None,
            inflated: None,
            panels: VecDeque::new(),
            is_direct: false,
        }
    }

    /// Makes the reader fetch only the requested bytes from servers.
    pub(crate) fn read_directly(&mut self) {
        self.is_direct = true;
    }

    /// Returns the stored tensor with this id.
    ///
    /// # Panics
    /// If `id` belongs to another checkpoint.
    pub fn get(&self, id: StoredId) -> &'c Stored {
        &self.stored[id.index()]
    }

    /// Creates an error about a stored tensor, with the path of its file.
    pub fn error(&self, id: StoredId, why: String) -> ReadError {
        let stored = self.get(id);
        let path = self.source(stored).path();
        ReadError::of_tensor(path, &stored.name, Problem::Layout(why))
    }

    fn source(&self, stored: &Stored) -> &'c Source {
        &self.shards[stored.shard as usize].source
    }

    /// The bytes `range` of a stored tensor without a copy; `None` if they have to be read.
    pub(crate) fn borrow_bytes(
        &mut self,
        id: StoredId,
        range: Range<u64>,
    ) -> Result<Option<BorrowedBytes<'_>>> {
        let stored = self.get(id);
        let Access::Direct = stored.access else { return Ok(None) };
        let start = stored.range.start;
        let (source, handle) = self.handle(stored.shard, &stored.name)?;
        source.borrow_bytes(handle, &stored.name, start + range.start..start + range.end)
    }

    /// Replaces the content of `out` by bytes `range` of the transpose of a stored tensor.
    pub fn transposed_into(
        &mut self,
        id: StoredId,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let order: Vec<usize> = (0..self.get(id).shape.rank()).rev().collect();
        self.permuted_into(id, &order, range, out)
    }

    /// Replaces `out` by the bytes `range` of a stored tensor with its dimensions in another
    /// order.
    pub(crate) fn permuted_into(
        &mut self,
        id: StoredId,
        order: &[usize],
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let stored = self.get(id);
        match stored.permuted(order) {
            Ok(indirect) => self.indirect_into(id, stored, &indirect, range, out),
            Err(why) => Err(self.error(id, why)),
        }
    }

    /// Replaces the content of `out` by bytes `range` of a stored tensor's elements.
    pub fn stored_into(
        &mut self,
        id: StoredId,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let stored = self.get(id);
        match &stored.access {
            Access::Indirect(indirect) => self.indirect_into(id, stored, indirect, range, out),
            Access::Direct => {
                out.resize(range.end.saturating_sub(range.start) as usize, 0);
                self.open(stored, |source, handle| {
                    source.read_exact(handle, out, stored.range.start + range.start)
                })
            }
            Access::Unreadable(why) => Err(self.error(id, format!("it cannot be read: {why}"))),
        }
    }

    /// Replaces the content of `out` by bytes `range` of elements that are gathered, inflated or
    /// converted.
    fn indirect_into(
        &mut self,
        id: StoredId,
        stored: &Stored,
        indirect: &Indirect,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let Some(conversion) = indirect.conversion else {
            return self.gather_into(id, stored, indirect, range, out);
        };
        // Only whole elements can be converted.
        let size = conversion.element.max(1);
        let whole = range.start / size * size..range.end.next_multiple_of(size);
        self.gather_into(id, stored, indirect, whole.clone(), out)?;
        conversion.apply(out);
        out.drain(..(range.start - whole.start) as usize);
        out.truncate(range.end.saturating_sub(range.start) as usize);
        Ok(())
    }

    /// Like [`StoredReader::indirect_into`], before the conversion.
    fn gather_into(
        &mut self,
        id: StoredId,
        stored: &Stored,
        indirect: &Indirect,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut fill = |read: &mut Read| match &indirect.view {
            Some(view) => view.gather(range.clone(), out, read),
            None => {
                out.resize(range.end.saturating_sub(range.start) as usize, 0);
                read(range.start, out)
            }
        };
        match &indirect.data {
            Data::File => self.open(stored, |source, handle| {
                fill(&mut |at, out| source.read_exact(handle, out, stored.range.start + at))
            }),
            Data::Parts(chunks) => fill(&mut |at, out| self.parts_into(stored, chunks, at, out)),
            Data::Memory { bytes, start } => fill(&mut |at, out| {
                let from = usize::try_from(start.saturating_add(at)).unwrap_or(usize::MAX);
                match bytes.get(from..from.saturating_add(out.len())) {
                    Some(bytes) => out.copy_from_slice(bytes),
                    None => return Err(self.error(id, "it ends past its bytes".to_owned())),
                }
                Ok(())
            }),
            &Data::Deflated { skip, size } if indirect.view.is_some() && size <= INFLATED_BYTES => {
                let inflated = self.inflated(id, stored, skip, size)?;
                fill(&mut |at, out| {
                    let from = usize::try_from(at).unwrap_or(usize::MAX);
                    match inflated.get(from..from.saturating_add(out.len())) {
                        Some(bytes) => out.copy_from_slice(bytes),
                        None => return Err(self.error(id, "it ends past its bytes".to_owned())),
                    }
                    Ok(())
                })
            }
            &Data::Deflated { skip, .. } => {
                self.with_inflater(id, stored, |inflater, restart, read| {
                    fill(&mut |at, out| {
                        let at = skip.saturating_add(at);
                        // Earlier bytes require a new pass from the start.
                        if !inflater.can_reach(at) {
                            *inflater = restart();
                        }
                        inflater.read(at, out, read)
                    })
                })
            }
        }
    }

    /// Fills `out` from byte `at` of a tensor that is stored in parts.
    fn parts_into(
        &mut self,
        stored: &Stored,
        chunks: &TensorParts,
        at: u64,
        out: &mut [u8],
    ) -> Result<()> {
        let mut gathered = Vec::new();
        for part in chunks.parts() {
            for overlap in chunks.overlaps(part, at..at + out.len() as u64) {
                let to = (overlap.to - at) as usize;
                let out = out.get_mut(to..to + overlap.length as usize).unwrap_or_default();
                let (source, handle) = self.handle(part.shard, &stored.name)?;
                let start = part.range.start;
                let read = match &part.view {
                    None => source.read_exact(handle, out, start + overlap.from),
                    Some(view) => {
                        let bytes = overlap.from..overlap.from + overlap.length;
                        let mut read =
                            |at: u64, out: &mut [u8]| source.read_exact(handle, out, start + at);
                        let read = view.gather(bytes, &mut gathered, &mut read);
                        if gathered.len() == out.len() {
                            out.copy_from_slice(&gathered);
                        }
                        read
                    }
                };
                read.map_err(|e| e.about(&stored.name))?;
            }
        }
        Ok(())
    }

    /// Returns all elements of a small deflated tensor, which a strided view reads in any order.
    fn inflated(
        &mut self,
        id: StoredId,
        stored: &Stored,
        skip: u64,
        size: u64,
    ) -> Result<Arc<[u8]>> {
        if let Some((held, bytes)) = &self.inflated
            && *held == id
        {
            return Ok(bytes.clone());
        }
        let mut bytes = vec![0; size as usize];
        self.with_inflater(id, stored, |inflater, restart, read| {
            *inflater = restart();
            inflater.read(skip, &mut bytes, read)
        })?;
        let bytes: Arc<[u8]> = bytes.into();
        self.inflated = Some((id, bytes.clone()));
        Ok(bytes)
    }

    /// Calls `work` with the last pass through a deflated range and two functions: one starts a
    /// new pass, one reads from an offset in the range. Reading a tensor in order continues the
    /// pass, so it is inflated once.
    fn with_inflater(
        &mut self,
        id: StoredId,
        stored: &Stored,
        work: impl FnOnce(&mut Inflater, &dyn Fn() -> Inflater, &mut Read) -> Result<()>,
    ) -> Result<()> {
        let path = self.source(stored).path();
        let restart = || Inflater::new(path, 0..stored.range.end - stored.range.start);
        let mut inflater = match self.inflating.take() {
            Some((held, inflater)) if held == id => inflater,
            _ => restart(),
        };
        self.open(stored, |source, handle| {
            let mut read =
                |at: u64, out: &mut [u8]| source.read_exact(handle, out, stored.range.start + at);
            work(&mut inflater, &restart, &mut read)
        })?;
        self.inflating = Some((id, inflater));
        Ok(())
    }

    /// Calls `work` with the file that holds a stored tensor contiguously, and the offset of the
    /// first element. `None` if there is no such file.
    pub fn in_file<T>(
        &mut self,
        id: StoredId,
        work: impl FnOnce(&File, u64) -> T,
    ) -> Result<Option<T>> {
        let stored = self.get(id);
        self.open(stored, |_, handle| match (handle, &stored.access) {
            (SourceHandle::Disk(file), Access::Direct) => {
                Ok(Some(work(file.file(), stored.range.start)))
            }
            _ => Ok(None),
        })
    }

    /// Calls `work` with the file that holds a stored tensor.
    fn open<T>(
        &mut self,
        stored: &Stored,
        work: impl FnOnce(&Source, &SourceHandle) -> Result<T>,
    ) -> Result<T> {
        let (source, handle) = self.handle(stored.shard, &stored.name)?;
        work(source, handle).map_err(|e| e.about(&stored.name))
    }

    /// Returns the file of a shard, opening it if necessary. Errors name `tensor`.
    fn handle(&mut self, shard: u32, tensor: &str) -> Result<(&'c Source, &mut SourceHandle)> {
        let source = &self.shards[shard as usize].source;
        let handle = match self.open.take() {
            Some((open, handle)) if open == shard => handle,
            another => {
                if let Some((open, mut handle)) = another {
                    handle.release_mapping();
                    self.open_before.push((open, handle));
                }
                let place = self.open_before.iter().position(|(open, _)| *open == shard);
                let handle = match place {
                    Some(place) => self.open_before.remove(place).1,
                    None => {
                        let handle = source.open().map_err(|e| e.about(tensor))?;
                        if self.is_direct { handle.direct() } else { handle }
                    }
                };
                if self.open_before.len() >= MAX_OPEN_FILES {
                    self.open_before.remove(0);
                }
                handle
            }
        };
        let (_, handle) = self.open.insert((shard, handle));
        Ok((source, handle))
    }

    /// Reads a panel with at least bytes `columns` of `rows`, of a stored tensor with `row_bytes`
    /// bytes per row. Reads more columns to the right, which the following chunks need, so that
    /// decoding a tensor in order reads each panel once.
    pub fn panel(
        &mut self,
        id: StoredId,
        row_bytes: u64,
        rows: Range<u64>,
        columns: Range<u64>,
    ) -> Result<Arc<Panel>> {
        let holds = |panel: &Arc<Panel>| {
            let inside = |outer: &Range<u64>, inner: &Range<u64>| {
                outer.start <= inner.start && inner.end <= outer.end
            };
            panel.stored == id && panel.rows == rows && inside(&panel.columns, &columns)
        };
        if let Some(panel) = self.panels.iter().find(|panel| holds(panel)) {
            return Ok(panel.clone());
        }
        let count = rows.end.saturating_sub(rows.start);
        let width = (PANEL_BYTES / count.max(1)).max(columns.end.saturating_sub(columns.start));
        let start = columns.start.min(row_bytes);
        let columns = start..start.saturating_add(width).min(row_bytes);
        let width = (columns.end - columns.start) as usize;
        let mut bytes = Vec::with_capacity(width.saturating_mul(count as usize));
        if width as u64 == row_bytes {
            self.stored_into(id, rows.start * row_bytes..rows.end * row_bytes, &mut bytes)?;
        } else {
            let mut row_bytes_read = Vec::new();
            for row in rows.clone() {
                let at = row * row_bytes;
                let here = at + columns.start..at + columns.end;
                self.stored_into(id, here, &mut row_bytes_read)?;
                bytes.extend_from_slice(&row_bytes_read);
            }
        }
        if self.panels.len() >= MAX_PANELS {
            self.panels.pop_front();
        }
        let panel = Arc::new(Panel { stored: id, rows, columns, bytes });
        self.panels.push_back(panel.clone());
        Ok(panel)
    }
}
