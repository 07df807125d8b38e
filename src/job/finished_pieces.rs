//! Compares the pieces listed in the journal of an output with its files, on all cores.

use super::entry_chunks::EntryChunks;
use super::ordered_fold::OrderedFold;
use super::{JobError, Progress, lock, on_all_cores};
use crate::export::journal::{FinishedPiece, Journal, Record};
use crate::export::{AtomicOutput, KnownScales, OutputPlan, SaveError};
use crate::path_error::IoContext;
use crate::quantization::ErrorSums;
use crate::tensor::TensorId;
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// An output, and the chunks in which it is written.
pub(super) struct Pieces<'p> {
    pub output: &'p AtomicOutput,
    pub output_plan: &'p OutputPlan,
    /// In the order of the plan.
    pub entries: &'p [EntryChunks],
}

/// The set of finished pieces.
#[derive(Debug, Default)]
pub(super) struct FinishedPieces {
    /// One flag for each chunk of each entry.
    flags: Vec<Vec<bool>>,
    /// Total size of the finished pieces in bytes.
    pub bytes: u64,
}

impl FinishedPieces {
    fn none(pieces: &Pieces) -> FinishedPieces {
        let flags = |entry: &EntryChunks| vec![false; entry.chunks.count() as usize];
        FinishedPieces { flags: pieces.entries.iter().map(flags).collect(), bytes: 0 }
    }

    /// Whether a chunk of entry `number` is finished.
    pub(super) fn contains(&self, number: usize, chunk: u64) -> bool {
        let flags = self.flags.get(number);
        flags.and_then(|flags| flags.get(chunk as usize)).copied().unwrap_or(false)
    }

    fn insert(&mut self, number: usize, piece: &FinishedPiece) {
        let flags = self.flags.get_mut(number);
        if let Some(flag) = flags.and_then(|flags| flags.get_mut(piece.chunk as usize)) {
            self.bytes += if *flag { 0 } else { bytes(piece) };
            *flag = true;
        }
    }

    fn is_complete(&self) -> bool {
        self.flags.iter().flatten().all(|&flag| flag)
    }
}

fn bytes(piece: &FinishedPiece) -> u64 {
    piece.ranges.iter().map(|range| range.length).sum()
}

impl Pieces<'_> {
    /// The index of a piece's entry.
    fn number_of(&self, piece: &FinishedPiece) -> Option<usize> {
        let place = (piece.file as usize, piece.entry as usize);
        self.entries.binary_search_by_key(&place, |entry| (entry.file, entry.entry)).ok()
    }

    /// Finds the pieces that an earlier save has finished, and adds its scales to `known`. Pieces that
    /// do not match the files are retracted from the journal.
    pub(super) fn find_finished(
        &self,
        journal: &Journal,
        known: &mut KnownScales,
        threads: Option<usize>,
        progress: &Progress,
    ) -> Result<FinishedPieces, JobError> {
        let found = Mutex::new((FinishedPieces::none(self), known));
        self.each_piece(journal, threads, progress, &|at, record, holds| {
            let mut found = lock(&found);
            let (finished, known) = &mut *found;
            match record {
                Record::Scales { tensor, scales } => {
                    known.entry(TensorId(tensor)).or_insert(scales);
                }
                Record::Piece(piece) => match self.number_of(&piece).filter(|_| holds) {
                    Some(number) => {
                        finished.insert(number, &piece);
                        progress.advance(bytes(&piece));
                    }
                    None => journal.append(&Record::Retracted { at }),
                },
                Record::Retracted { .. } => {}
            }
            Ok(())
        })?;
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Compares the files with the digests computed while writing. Returns the errors of the quantized
    /// tensors, or `None` if the journal does not list every piece.
    pub(super) fn verify(
        &self,
        journal: &Journal,
        threads: Option<usize>,
        progress: &Progress,
    ) -> Result<Option<HashMap<TensorId, ErrorSums>>, JobError> {
        let sums = self.entries.iter().map(|_| OrderedFold::new(ErrorSums::default()));
        let sums: Vec<_> = sums.map(Mutex::new).collect();
        let found = Mutex::new((FinishedPieces::none(self), HashMap::new()));
        self.each_piece(journal, threads, progress, &|_, record, holds| {
            let Record::Piece(piece) = record else { return Ok(()) };
            if !holds {
                return Err(self.differs(&piece));
            }
            progress.advance(bytes(&piece));
            let Some(number) = self.number_of(&piece) else { return Ok(()) };
            let quantized = self.quantized(number);
            if quantized.is_some() && piece.error.is_none() {
                return Ok(());
            }
            lock(&found).0.insert(number, &piece);
            let (Some(tensor), Some(error), Some(sums), Some(entry)) =
                (quantized, piece.error, sums.get(number), self.entries.get(number))
            else {
                return Ok(());
            };
            let count = entry.chunks.count();
            let whole = lock(sums).add(piece.chunk, error, count, |sum, next| sum.merge(&next));
            whole.map(|whole| lock(&found).1.insert(tensor, whole));
            Ok(())
        })?;
        let (finished, errors) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok((journal.is_intact() && finished.is_complete()).then_some(errors))
    }

    /// The tensor that is quantized for an entry.
    fn quantized(&self, number: usize) -> Option<TensorId> {
        let place = self.entries.get(number)?;
        let entry = self.output_plan.files.get(place.file)?.entries.get(place.entry)?;
        entry.quantizer().map(|(tensor, _)| tensor)
    }

    fn differs(&self, piece: &FinishedPiece) -> JobError {
        let file = self.output_plan.files.get(piece.file as usize);
        let path = file.map_or(PathBuf::new(), |file| self.output.path_of(file));
        let start = piece.ranges.first().map_or(0, |range| range.start);
        let why = format!("the bytes from offset {start} on differ from those that were written");
        SaveError::FileDiffers { path, why }.into()
    }

    /// Calls `visit` for every record of the journal, with its offset and whether it matches the
    /// files. The first error ends the work.
    fn each_piece(
        &self,
        journal: &Journal,
        threads: Option<usize>,
        progress: &Progress,
        visit: &(dyn Fn(u64, Record, bool) -> Result<(), JobError> + Sync),
    ) -> Result<(), JobError> {
        let failed: Mutex<Option<JobError>> = Mutex::new(None);
        let records = Mutex::new(journal.records().context(self.output.path())?);
        on_all_cores(threads, || {
            let mut reader = PieceReader { pieces: self, open: None, buffer: Vec::new() };
            while !progress.is_cancelled() && lock(&failed).is_none() {
                let Some((at, record)) = lock(&records).next() else { return };
                let visited = reader.holds(&record).and_then(|holds| visit(at, record, holds));
                if let Err(error) = visited {
                    lock(&failed).get_or_insert(error);
                }
            }
        })?;
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(progress.check()?),
        }
    }
}

/// Reads pieces. Each thread has one reader.
struct PieceReader<'p> {
    pieces: &'p Pieces<'p>,
    /// The last file that was read, with its index.
    open: Option<(u32, File)>,
    buffer: Vec<u8>,
}

impl PieceReader<'_> {
    /// Whether the piece of a record matches the files. True for other records.
    fn holds(&mut self, record: &Record) -> Result<bool, JobError> {
        let Record::Piece(piece) = record else { return Ok(true) };
        let Some(file) = self.pieces.output_plan.files.get(piece.file as usize) else {
            return Ok(false);
        };
        let path = self.pieces.output.path_of(file);
        if self.open.as_ref().is_none_or(|(number, _)| *number != piece.file) {
            self.open = Some((piece.file, File::open(&path).context(&path)?));
        }
        match &mut self.open {
            Some((_, file)) => Ok(piece.is_in(file, &mut self.buffer).context(&path)?),
            None => Ok(false),
        }
    }
}
