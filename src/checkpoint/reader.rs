//! Reading ranges of tensors on demand, into buffers that are used again.

use crate::checkpoint::error::{CheckpointError, Problem, Result};
use crate::checkpoint::io::inflate::Inflater;
use crate::checkpoint::io::source::{Handle, InPlace, Source};
use crate::checkpoint::{Access, Checkpoint, Content, Stored, StoredId, View};
use crate::tensor::{FloatType, TensorId};
use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

/// Files a reader keeps open: the parts of one tensor may lie in several.
const OPEN_FILES: usize = 4;

/// Panels a reader keeps: a transposed layout has one for each of its parts.
const PANELS: usize = 4;

/// Bytes of a panel, unless a single chunk needs more.
const PANEL_BYTES: u64 = 2 << 20;

/// One thread's view of a checkpoint: the files it read last stay open, and the buffers
/// grow to the largest range asked for, which callers keep to a few MiB.
pub struct Reader<'c> {
    checkpoint: &'c Checkpoint,
    /// The one used last, and of which shard it is.
    open: Option<(u32, Handle)>,
    /// Those used before it, the last of them the last.
    open_before: Vec<(u32, Handle)>,
    inflating: Option<(StoredId, Inflater)>,
    buffer: Vec<u8>,
    panels: VecDeque<Arc<Panel>>,
}

/// Some columns of some rows of a stored tensor, in bytes: what a layout that stores its
/// tensor transposed needs for a chunk of it.
#[derive(Debug)]
pub struct Panel {
    of: StoredId,
    rows: Range<u64>,
    columns: Range<u64>,
    bytes: Vec<u8>,
}

impl Panel {
    /// The bytes `columns` of `row`, both counted as in the stored tensor; empty where the
    /// panel does not reach.
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

impl<'c> Reader<'c> {
    pub(crate) fn new(checkpoint: &'c Checkpoint) -> Self {
        Reader {
            checkpoint,
            open: None,
            open_before: Vec::new(),
            inflating: None,
            buffer: Vec::new(),
            panels: VecDeque::new(),
        }
    }

    pub fn checkpoint(&self) -> &'c Checkpoint {
        self.checkpoint
    }

    /// The elements `range` of a tensor as little-endian bytes of the given float type.
    /// `None` for a tensor that has no float elements.
    pub fn elements(
        &mut self,
        id: TensorId,
        range: Range<u64>,
    ) -> Result<Option<(FloatType, &[u8])>> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.elements_into(id, range, &mut buffer);
        self.buffer = buffer;
        Ok(read?.map(|float| (float, self.buffer.as_slice())))
    }

    /// Gives the elements `range` of a tensor to `look` as little-endian bytes of the given
    /// float type: where they lie if that can be, and else a copy. `None` for a tensor that
    /// has no float elements.
    pub fn look<T>(
        &mut self,
        id: TensorId,
        range: Range<u64>,
        look: impl FnOnce(FloatType, &[u8]) -> T,
    ) -> Result<Option<T>> {
        let Some(float) = self.checkpoint.float_type(id) else { return Ok(None) };
        if let Some(place) = self.in_place(id, range.clone())? {
            return place.look(|bytes| look(float, bytes)).map(Some);
        }
        let read = self.elements(id, range)?;
        Ok(read.map(|(float, bytes)| look(float, bytes)))
    }

    /// The same of a matrix by its columns: of its transpose. `None` for a tensor that is not
    /// stored as floats.
    pub fn look_transposed<T>(
        &mut self,
        id: TensorId,
        range: Range<u64>,
        look: impl FnOnce(FloatType, &[u8]) -> T,
    ) -> Result<Option<T>> {
        let Content::Plain(stored) = *self.checkpoint.content(id) else { return Ok(None) };
        let Some(float) = self.checkpoint.float_type(id) else { return Ok(None) };
        let size = float.size() as u64;
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.transposed_into(stored, range.start * size..range.end * size, &mut buffer);
        self.buffer = buffer;
        read?;
        Ok(Some(look(float, &self.buffer)))
    }

    /// The elements `range` of a tensor, to be looked at without a copy. `None` if they have
    /// to be read.
    pub fn in_place(&mut self, id: TensorId, range: Range<u64>) -> Result<Option<InPlace<'_>>> {
        let Some(float) = self.checkpoint.float_type(id) else { return Ok(None) };
        let Content::Plain(stored) = *self.checkpoint.content(id) else { return Ok(None) };
        let stored = self.checkpoint.stored(stored);
        let Access::Direct = stored.access else { return Ok(None) };
        let size = float.size() as u64;
        let start = stored.range.start;
        let (source, handle) = self.handle(stored)?;
        let bytes = start + range.start * size..start + range.end * size;
        source.in_place(handle, &stored.name, bytes)
    }

    /// Replaces `out` by the same bytes.
    pub fn elements_into(
        &mut self,
        id: TensorId,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<Option<FloatType>> {
        let Some(float) = self.checkpoint.float_type(id) else { return Ok(None) };
        let size = float.size() as u64;
        match self.checkpoint.content(id) {
            Content::Plain(stored) => {
                self.stored_into(*stored, range.start * size..range.end * size, out)?;
            }
            Content::Quantized(layout) => layout.decode(self, range, out)?,
        }
        Ok(Some(float))
    }

    /// Replaces `out` by the bytes `range` of the transpose of a stored tensor.
    pub fn transposed_into(
        &mut self,
        id: StoredId,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let stored = self.checkpoint.stored(id);
        match stored.transposed() {
            Ok(view) => self.view_into(stored, &view, range, out),
            Err(why) => {
                let path = self.checkpoint.shards()[stored.shard as usize].source.path();
                Err(CheckpointError::of_tensor(path, &stored.name, Problem::Layout(why)))
            }
        }
    }

    /// The bytes `range` of a stored tensor.
    pub fn stored(&mut self, id: StoredId, range: Range<u64>) -> Result<&[u8]> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.stored_into(id, range, &mut buffer);
        self.buffer = buffer;
        read?;
        Ok(&self.buffer)
    }

    /// Replaces `out` by the bytes `range` of a stored tensor's elements.
    pub fn stored_into(
        &mut self,
        id: StoredId,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let stored = self.checkpoint.stored(id);
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

    /// Fills `out` with what a deflated range gives from byte `at` on: going on from the
    /// last range read if that is possible, so that reading a tensor in order inflates it
    /// once.
    fn inflate_into(
        &mut self,
        id: StoredId,
        stored: &Stored,
        at: u64,
        out: &mut [u8],
    ) -> Result<()> {
        let mut inflater = match self.inflating.take() {
            Some((of, inflater)) if of == id && inflater.can_reach(at) => inflater,
            _ => {
                let path = self.checkpoint.shards()[stored.shard as usize].source.path();
                Inflater::new(path, 0..stored.range.end - stored.range.start)
            }
        };
        self.file(stored, |read| inflater.read(at, out, read))?;
        self.inflating = Some((id, inflater));
        Ok(())
    }

    /// Replaces `out` by the bytes `range` of what a view shows of a stored tensor.
    fn view_into(
        &mut self,
        stored: &Stored,
        view: &View,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.file(stored, |read| view.gather(range, out, read))
    }

    /// Gives `work` the file in which a stored tensor's elements lie one after another, and
    /// where they begin. `None` where there is no such file.
    pub fn in_file<T>(
        &mut self,
        id: StoredId,
        work: impl FnOnce(&File, u64) -> T,
    ) -> Result<Option<T>> {
        let stored = self.checkpoint.stored(id);
        self.open(stored, |_, handle| match (handle, &stored.access) {
            (Handle::Disk(file), Access::Direct) => Ok(Some(work(file.file(), stored.range.start))),
            _ => Ok(None),
        })
    }

    /// Gives `work` a function that reads the file from an offset in the tensor's range.
    fn file(
        &mut self,
        stored: &Stored,
        work: impl FnOnce(&mut dyn FnMut(u64, &mut [u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        self.open(stored, |source, handle| {
            work(&mut |at, out| source.read_exact(handle, out, stored.range.start + at))
        })
    }

    /// Gives `work` the file that a stored tensor lies in.
    fn open<T>(
        &mut self,
        stored: &Stored,
        work: impl FnOnce(&Source, &Handle) -> Result<T>,
    ) -> Result<T> {
        let (source, handle) = self.handle(stored)?;
        work(source, handle).map_err(|e| e.about(&stored.name))
    }

    /// The file that a stored tensor lies in, which is opened if it is not.
    fn handle(&mut self, stored: &Stored) -> Result<(&'c Source, &mut Handle)> {
        let source = &self.checkpoint.shards()[stored.shard as usize].source;
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

    /// At least the bytes `columns` of the `rows` of a stored tensor whose rows have
    /// `row_bytes`. Only needed columns are read, and some to their right, which later
    /// chunks will ask for: a reader that goes through a tensor reads each panel once.
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
            panel.of == id && panel.rows == rows && inside(&panel.columns, &columns)
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
        let panel = Arc::new(Panel { of: id, rows, columns, bytes });
        self.panels.push_back(panel.clone());
        Ok(panel)
    }
}
