//! Reads ranges of stored tensors on demand.

use crate::checkpoint::error::{CheckpointError, Problem, Result};
use crate::checkpoint::io::inflate::Inflater;
use crate::checkpoint::io::source::{Handle, InPlace, Source};
use crate::checkpoint::stored::{Access, Shard, Stored, StoredId};
use crate::checkpoint::strided::View;
use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

/// Files a reader keeps open: the parts of one tensor may be in several.
const OPEN_FILES: usize = 4;

/// Panels a reader keeps: a transposed packed format needs one for each of its parts.
const PANELS: usize = 4;

/// Bytes of a panel, unless a single chunk needs more.
const PANEL_BYTES: u64 = 2 << 20;

/// Reads bytes of stored tensors. The files used last stay open between calls.
pub struct StoredReader<'c> {
    shards: &'c [Shard],
    stored: &'c [Stored],
    /// The handle used last, and the shard it belongs to.
    open: Option<(u32, Handle)>,
    /// Previously used handles, most recent last.
    open_before: Vec<(u32, Handle)>,
    inflating: Option<(StoredId, Inflater)>,
    panels: VecDeque<Arc<Panel>>,
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
    /// The bytes `columns` of `row`, both counted from the start of the stored tensor; empty
    /// outside the panel.
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
            panels: VecDeque::new(),
        }
    }

    /// # Panics
    /// If `id` belongs to another checkpoint.
    pub fn get(&self, id: StoredId) -> &'c Stored {
        &self.stored[id.index()]
    }

    /// An error about a stored tensor, with the path of its file.
    pub fn error(&self, id: StoredId, why: String) -> CheckpointError {
        let stored = self.get(id);
        let path = self.source(stored).path();
        CheckpointError::of_tensor(path, &stored.name, Problem::Layout(why))
    }

    fn source(&self, stored: &Stored) -> &'c Source {
        &self.shards[stored.shard as usize].source
    }

    /// The bytes `range` of a stored tensor without a copy; `None` if they have to be read.
    pub(crate) fn in_place(
        &mut self,
        id: StoredId,
        range: Range<u64>,
    ) -> Result<Option<InPlace<'_>>> {
        let stored = self.get(id);
        let Access::Direct = stored.access else { return Ok(None) };
        let start = stored.range.start;
        let (source, handle) = self.handle(stored)?;
        source.in_place(handle, &stored.name, start + range.start..start + range.end)
    }

    /// Replaces `out` by the bytes `range` of the transpose of a stored tensor.
    pub fn transposed_into(
        &mut self,
        id: StoredId,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let stored = self.get(id);
        match stored.transposed() {
            Ok(view) => self.view_into(stored, &view, range, out),
            Err(why) => Err(self.error(id, why)),
        }
    }

    /// Replaces `out` by the bytes `range` of a stored tensor's elements.
    pub fn stored_into(
        &mut self,
        id: StoredId,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let stored = self.get(id);
        match &stored.access {
            Access::View(view) => self.view_into(stored, view, range, out),
            Access::Direct => {
                out.resize(range.end.saturating_sub(range.start) as usize, 0);
                self.file(stored, |read| read(range.start, out))
            }
            Access::Deflated { skip, .. } => {
                out.resize(range.end.saturating_sub(range.start) as usize, 0);
                self.inflate_into(id, stored, skip.saturating_add(range.start), out)
            }
        }
    }

    /// Fills `out` from byte `at` of a tensor's inflated data. Continues from the last range
    /// read where possible, so that reading a tensor in order inflates it once.
    fn inflate_into(
        &mut self,
        id: StoredId,
        stored: &Stored,
        at: u64,
        out: &mut [u8],
    ) -> Result<()> {
        let mut inflater = match self.inflating.take() {
            Some((last, inflater)) if last == id && inflater.can_reach(at) => inflater,
            _ => {
                let path = self.source(stored).path();
                Inflater::new(path, 0..stored.range.end - stored.range.start)
            }
        };
        self.file(stored, |read| inflater.read(at, out, read))?;
        self.inflating = Some((id, inflater));
        Ok(())
    }

    /// Replaces `out` by the bytes `range` of a view of a stored tensor.
    fn view_into(
        &mut self,
        stored: &Stored,
        view: &View,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.file(stored, |read| view.gather(range, out, read))
    }

    /// Calls `work` with the file that holds a stored tensor's elements contiguously, and the
    /// offset of the first. `None` if there is no such file.
    pub fn in_file<T>(
        &mut self,
        id: StoredId,
        work: impl FnOnce(&File, u64) -> T,
    ) -> Result<Option<T>> {
        let stored = self.get(id);
        self.open(stored, |_, handle| match (handle, &stored.access) {
            (Handle::Disk(file), Access::Direct) => Ok(Some(work(file.file(), stored.range.start))),
            _ => Ok(None),
        })
    }

    /// Calls `work` with a function that reads from an offset in the tensor's range.
    fn file(
        &mut self,
        stored: &Stored,
        work: impl FnOnce(&mut dyn FnMut(u64, &mut [u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        self.open(stored, |source, handle| {
            work(&mut |at, out| source.read_exact(handle, out, stored.range.start + at))
        })
    }

    /// Calls `work` with the file that holds a stored tensor.
    fn open<T>(
        &mut self,
        stored: &Stored,
        work: impl FnOnce(&Source, &Handle) -> Result<T>,
    ) -> Result<T> {
        let (source, handle) = self.handle(stored)?;
        work(source, handle).map_err(|e| e.about(&stored.name))
    }

    /// The file that holds a stored tensor, opened if it is not open yet.
    fn handle(&mut self, stored: &Stored) -> Result<(&'c Source, &mut Handle)> {
        let source = self.source(stored);
        let handle = match self.open.take() {
            Some((shard, handle)) if shard == stored.shard => handle,
            another => {
                if let Some((shard, mut handle)) = another {
                    handle.rest();
                    self.open_before.push((shard, handle));
                }
                let place = self.open_before.iter().position(|(shard, _)| *shard == stored.shard);
                let handle = match place {
                    Some(place) => self.open_before.remove(place).1,
                    None => source.open().map_err(|e| e.about(&stored.name))?,
                };
                if self.open_before.len() >= OPEN_FILES {
                    self.open_before.remove(0);
                }
                handle
            }
        };
        let (_, handle) = self.open.insert((stored.shard, handle));
        Ok((source, handle))
    }

    /// The bytes `columns`, and more where it pays, of the `rows` of a stored tensor with
    /// `row_bytes` bytes per row. Columns to the right are read ahead because the following
    /// chunks need them, so decoding a tensor in order reads each panel once.
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
        if self.panels.len() >= PANELS {
            self.panels.pop_front();
        }
        let panel = Arc::new(Panel { stored: id, rows, columns, bytes });
        self.panels.push_back(panel.clone());
        Ok(panel)
    }
}
