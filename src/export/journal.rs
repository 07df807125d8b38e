//! The journal of an output under construction: the finished pieces and their digests. It is stored
//! next to the temporary output, so that the next save can continue after an interruption.
//!
//! A journal starts with the identity of its output: the version of quantscope, the output plan and
//! the source. Each record has its own frame and checksum; the journal ends at the first damaged
//! record. A record may reach the disk before the bytes that it describes, so a save that continues
//! compares the digests first and retracts wrong records.
//!
//! Records do not depend on the process that wrote them: pieces are identified by their position in
//! the output plan, which is the same for the same source and options.

use crate::checkpoint::Checkpoint;
use crate::export::output_plan::{Entry, OutFile, OutputPlan, TextFile};
use crate::quantization::ErrorSums;
use crate::tensor::{Shape, TensorId};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;
use twox_hash::{XxHash3_64, XxHash3_128};

const MAGIC: &[u8] = b"quantscope journal\n";

/// Incremented when the layout or the meaning of records changes.
const VERSION: u32 = 1;

/// Maximum size of a record in bytes: the scales of a tensor whose groups are longer than a chunk.
const RECORD_LIMIT: u32 = 64 << 20;

/// Size of a frame in bytes: the length of the record and its checksum.
const FRAME_BYTES: usize = 12;

const OTHER_VERSION: &str = "by another version of quantscope";

/// The output that a journal belongs to. It consists of digests, so that a journal contains no
/// path, URL or signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JournalIdentity {
    version: String,
    plan: u128,
    source: u128,
}

impl JournalIdentity {
    /// Returns the identity of an output; `None` if versions of the source cannot be
    /// distinguished.
    pub(crate) fn new(checkpoint: &Checkpoint, output_plan: &OutputPlan) -> Option<Self> {
        Some(JournalIdentity {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            plan: plan_digest(output_plan),
            source: source_digest(checkpoint)?,
        })
    }

    /// Returns why records of `other` do not apply to this output; `None` if they do.
    fn obstacle(&self, other: &JournalIdentity) -> Option<&'static str> {
        if self == other {
            None
        } else if self.version != other.version {
            Some(OTHER_VERSION)
        } else if self.source != other.source {
            Some("from another source, or from another version of this one")
        } else {
            Some("with other options")
        }
    }
}

/// Number of bytes collected before they are hashed: formatting writes a few at a time.
const HASH_BYTES: usize = 1 << 14;

/// Hashes text as it is formatted.
#[derive(Default)]
pub(crate) struct TextHasher {
    hasher: XxHash3_128,
    /// Bytes that are not hashed yet.
    pending: Vec<u8>,
}

impl TextHasher {
    /// Adds bytes.
    fn add(&mut self, bytes: &[u8]) {
        if self.pending.len() + bytes.len() > HASH_BYTES {
            self.hasher.write(&self.pending);
            self.pending.clear();
        }
        if bytes.len() > HASH_BYTES {
            self.hasher.write(bytes);
        } else {
            self.pending.extend_from_slice(bytes);
        }
    }

    /// Adds a text with its length, which separates it from what follows.
    pub(crate) fn add_text(&mut self, text: &str) {
        self.add(&(text.len() as u64).to_le_bytes());
        self.add(text.as_bytes());
    }

    /// Adds a shape and the axes of its output channels.
    pub(crate) fn add_shape(&mut self, shape: &Shape) {
        self.add_numbers(shape.dims());
        // Hashing cannot fail.
        let _ = write!(self, "{:?} ", shape.channel_axes());
    }

    /// Adds numbers and how many they are.
    pub(crate) fn add_numbers(&mut self, numbers: &[u64]) {
        self.add(&(numbers.len() as u64).to_le_bytes());
        numbers.iter().for_each(|number| self.add(&number.to_le_bytes()));
    }

    /// The digest of all text.
    pub(crate) fn digest(mut self) -> u128 {
        self.hasher.write(&self.pending);
        self.hasher.finish_128()
    }
}

impl fmt::Write for TextHasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add(text.as_bytes());
        Ok(())
    }
}

/// The digest of everything that decides the bytes of an output, given its source.
pub(crate) fn plan_digest(output_plan: &OutputPlan) -> u128 {
    let OutputPlan { rounding, importance, directory, files, texts, .. } = output_plan;
    let OutputPlan { sidecar_files, scaled_together, .. } = output_plan;
    let mut hasher = TextHasher::default();
    // Hashing cannot fail.
    let _ = writeln!(hasher, "{rounding:?} {importance:?} {directory} {scaled_together:?}");
    for TextFile { name, text } in texts {
        hasher.add_text(name);
        hasher.add_text(text);
    }
    let of_files: Vec<u128> = files.par_iter().map(file_digest).collect();
    of_files.into_iter().for_each(|digest| hasher.add(&digest.to_le_bytes()));
    for sidecar in sidecar_files {
        let _ = writeln!(hasher, "{:?} {}", sidecar.name, sidecar.bytes);
    }
    hasher.digest()
}

fn file_digest(file: &OutFile) -> u128 {
    let mut hasher = TextHasher::default();
    hasher.add(&file.head);
    hasher.add_text(&file.name);
    hasher.add_numbers(&file.offsets);
    for Entry { name, dtype, shape, bytes, made_from } in &file.entries {
        hasher.add_text(name);
        hasher.add_text(dtype.name());
        hasher.add_shape(shape);
        // Hashing cannot fail.
        let _ = writeln!(hasher, "{bytes} {made_from:?}");
    }
    let mut transposed: Vec<TensorId> = file.transposed.iter().copied().collect();
    transposed.sort_unstable();
    let _ = writeln!(hasher, "{transposed:?} {}", file.size());
    hasher.digest()
}

fn source_digest(checkpoint: &Checkpoint) -> Option<u128> {
    let mut hasher = TextHasher::default();
    for shard in checkpoint.shards() {
        let source = &shard.source;
        let _ = write!(hasher, "{} ", source.size());
        if source.is_remote() {
            let _ = writeln!(hasher, "{:?}", source.remote_identity()?);
        } else if !source.is_memory() {
            let changed = source.modified()?.duration_since(UNIX_EPOCH).ok()?;
            let path = fs::canonicalize(source.path()).ok()?;
            let _ = writeln!(hasher, "{path:?} {changed:?}");
        }
    }
    Some(hasher.digest())
}

/// A byte range of an output file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WrittenRange {
    /// Offset of the first byte.
    pub start: u64,
    /// Number of bytes.
    pub length: u64,
}

/// A finished piece: one chunk of an entry of the output plan, with its scales.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FinishedPiece {
    /// Index of the file in the output plan.
    pub file: u32,
    /// Index of the entry in the file.
    pub entry: u32,
    /// Index of the chunk in the entry.
    pub chunk: u64,
    /// The byte ranges of the piece, in the order of hashing.
    pub ranges: Vec<WrittenRange>,
    /// Digest of the bytes (XXH3, 128 bits).
    pub digest: u128,
    /// For a quantized tensor: the error relative to the source; `None` if it was not measured.
    pub error: Option<ErrorSums>,
}

/// A record of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Record {
    Piece(FinishedPiece),
    /// The scales of a tensor, computed in an earlier pass.
    Scales {
        tensor: u32,
        scales: Vec<f32>,
    },
    /// The piece recorded at this offset of the journal is wrong.
    Retracted {
        at: u64,
    },
}

/// Hashes a piece while it is written.
pub(crate) struct PieceDigest {
    hasher: XxHash3_128,
    ranges: Vec<WrittenRange>,
}

impl Default for PieceDigest {
    fn default() -> Self {
        PieceDigest { hasher: XxHash3_128::new(), ranges: Vec::new() }
    }
}

impl PieceDigest {
    /// Adds bytes that are written at an offset of the file.
    pub(crate) fn add(&mut self, start: u64, bytes: &[u8]) {
        self.hasher.write(bytes);
        self.ranges.push(WrittenRange { start, length: bytes.len() as u64 });
    }

    /// Returns the ranges and the digest of their bytes.
    pub(crate) fn finish(self) -> (Vec<WrittenRange>, u128) {
        let digest = self.hasher.finish_128();
        (self.ranges, digest)
    }
}

/// Hashes a file while it is copied.
#[derive(Default)]
pub(crate) struct CopyDigest(XxHash3_128);

impl CopyDigest {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    pub(crate) fn finish(self) -> u128 {
        self.0.finish_128()
    }
}

/// The usability of an earlier save's journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EarlierSave {
    /// There is no journal.
    None,
    /// Its pieces can be used if their digests are correct.
    Continued,
    /// It belongs to another output; the text says what differs.
    Unfit(&'static str),
}

/// The journal of an output under construction.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// Offset of the first record.
    start: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// Where the next record is written.
    end: u64,
    retracted: HashSet<u64>,
    /// Number of bytes in finished pieces.
    finished: u64,
    /// Whether writing a record failed. The save then continues without a journal.
    is_broken: bool,
}

impl Journal {
    /// Opens the journal at a path, keeping its records if they belong to `identity`. The caller
    /// must hold the lock of the output.
    pub(crate) fn open(
        path: &Path,
        identity: &JournalIdentity,
        file: File,
    ) -> io::Result<(Journal, EarlierSave)> {
        let head = head(identity)?;
        let earlier = read_head(&file, identity);
        let start = head.len() as u64;
        let state =
            State { file, end: start, retracted: HashSet::new(), finished: 0, is_broken: false };
        let journal = Journal { path: path.to_owned(), start, state: Mutex::new(state) };
        if earlier == EarlierSave::Continued {
            journal.find_end()?;
        } else {
            let mut state = journal.lock();
            state.file.seek(SeekFrom::Start(0))?;
            state.file.set_len(0)?;
            state.file.write_all(&head)?;
        }
        {
            // Drop everything after the last intact record.
            let state = journal.lock();
            state.file.set_len(state.end)?;
        }
        Ok((journal, earlier))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the end of the intact records, and the retracted ones.
    fn find_end(&self) -> io::Result<()> {
        let mut reader = self.reader(u64::MAX)?;
        let (mut finished, mut retracted) = (0u64, HashSet::new());
        while let Some((_, record)) = reader.next()? {
            match record {
                Record::Piece(piece) => finished = finished.saturating_add(piece.bytes()),
                Record::Retracted { at } => _ = retracted.insert(at),
                Record::Scales { .. } => {}
            }
        }
        let mut state = self.lock();
        (state.end, state.finished, state.retracted) = (reader.at, finished, retracted);
        Ok(())
    }

    fn reader(&self, end: u64) -> io::Result<RecordReader> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.start))?;
        Ok(RecordReader { file: BufReader::with_capacity(1 << 16, file), at: self.start, end })
    }

    /// Appends a record. If writing fails, the save succeeds but cannot be continued.
    pub(crate) fn append(&self, record: &Record) {
        let mut state = self.lock();
        if state.is_broken {
            return;
        }
        let written = framed(record).and_then(|frame| {
            crate::failpoints::reach(crate::failpoints::Failpoint::Disk)?;
            let end = state.end;
            state.file.seek(SeekFrom::Start(end))?;
            state.file.write_all(&frame)?;
            Ok(frame.len() as u64)
        });
        match written {
            Ok(length) => {
                state.end += length;
                match record {
                    Record::Piece(piece) => state.finished += piece.bytes(),
                    Record::Retracted { at } => _ = state.retracted.insert(*at),
                    Record::Scales { .. } => {}
                }
            }
            Err(_) => state.is_broken = true,
        }
    }

    /// Number of bytes in finished pieces.
    pub(crate) fn finished_bytes(&self) -> u64 {
        self.lock().finished
    }

    /// Returns whether every record was written.
    pub(crate) fn is_intact(&self) -> bool {
        !self.lock().is_broken
    }

    /// Returns the current records with their offsets, without retracted ones.
    pub(crate) fn records(&self) -> io::Result<Records> {
        let (end, retracted) = {
            let state = self.lock();
            (state.end, state.retracted.clone())
        };
        Ok(Records { reader: self.reader(end)?, retracted })
    }
}

impl FinishedPiece {
    fn bytes(&self) -> u64 {
        self.ranges.iter().fold(0, |sum, range| sum.saturating_add(range.length))
    }

    /// Returns whether a file contains the piece.
    pub(crate) fn is_in(&self, file: &mut File, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let mut hasher = XxHash3_128::new();
        for range in &self.ranges {
            file.seek(SeekFrom::Start(range.start))?;
            buffer.clear();
            if file.take(range.length).read_to_end(buffer)? as u64 != range.length {
                return Ok(false);
            }
            hasher.write(buffer);
        }
        Ok(hasher.finish_128() == self.digest)
    }
}

/// The records of a journal, in order.
pub(crate) struct Records {
    reader: RecordReader,
    retracted: HashSet<u64>,
}

impl Iterator for Records {
    type Item = (u64, Record);

    fn next(&mut self) -> Option<(u64, Record)> {
        // Records before an error are valid.
        while let Some((at, record)) = self.reader.next().ok().flatten() {
            if !self.retracted.contains(&at) && !matches!(record, Record::Retracted { .. }) {
                return Some((at, record));
            }
        }
        None
    }
}

struct RecordReader {
    file: BufReader<File>,
    /// The offset of the next record.
    at: u64,
    end: u64,
}

impl RecordReader {
    /// Reads the next record and its offset; `None` at the end and at a damaged record.
    fn next(&mut self) -> io::Result<Option<(u64, Record)>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let mut frame = [0; FRAME_BYTES];
        let mut length = [0; 4];
        if !read_all(&mut self.file, &mut frame)? {
            return Ok(None);
        }
        let (first, sum) = frame.split_at(4);
        length.copy_from_slice(first);
        let length = u32::from_le_bytes(length);
        if length > RECORD_LIMIT {
            return Ok(None);
        }
        let mut bytes = vec![0; length as usize];
        if !read_all(&mut self.file, &mut bytes)?
            || XxHash3_64::oneshot(&bytes).to_le_bytes() != sum
        {
            return Ok(None);
        }
        let Ok(record) = postcard::from_bytes(&bytes) else { return Ok(None) };
        let at = self.at;
        self.at += FRAME_BYTES as u64 + u64::from(length);
        Ok(Some((at, record)))
    }
}

/// Fills `buffer`; returns false if the file ends before.
fn read_all(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}

fn framed(record: &Record) -> io::Result<Vec<u8>> {
    let bytes = postcard::to_stdvec(record).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).ok().filter(|&length| length <= RECORD_LIMIT);
    let length = length.ok_or_else(|| io::Error::other("a record is too long"))?;
    Ok([&length.to_le_bytes()[..], &XxHash3_64::oneshot(&bytes).to_le_bytes(), &bytes].concat())
}

fn head(identity: &JournalIdentity) -> io::Result<Vec<u8>> {
    let identity = postcard::to_stdvec(identity).map_err(io::Error::other)?;
    let length = identity.len() as u32;
    Ok([MAGIC, &VERSION.to_le_bytes(), &length.to_le_bytes(), &identity].concat())
}

/// Reads the head of a journal and compares it with `identity`.
fn read_head(file: &File, identity: &JournalIdentity) -> EarlierSave {
    /// Maximum size of a head.
    const HEAD_LIMIT: u64 = 1 << 12;
    let mut bytes = Vec::new();
    if file.take(HEAD_LIMIT).read_to_end(&mut bytes).is_err() || bytes.is_empty() {
        return EarlierSave::None;
    }
    let found = || -> Option<JournalIdentity> {
        let rest = bytes.strip_prefix(MAGIC)?.strip_prefix(&VERSION.to_le_bytes())?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        postcard::from_bytes(rest.get(..u32::from_le_bytes(*length) as usize)?).ok()
    };
    let obstacle = found().map_or(Some(OTHER_VERSION), |found| identity.obstacle(&found));
    obstacle.map_or(EarlierSave::Continued, EarlierSave::Unfit)
}

/// Opens a journal file without following links.
pub(crate) fn open_file(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.read(true).write(true).create(true).truncate(false).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(plan: u128) -> JournalIdentity {
        JournalIdentity { version: "1".to_owned(), plan, source: 7 }
    }

    fn open(path: &Path, plan: u128) -> (Journal, EarlierSave) {
        let file = open_file(&mut OpenOptions::new(), path).expect("opens");
        Journal::open(path, &identity(plan), file).expect("opens")
    }

    fn piece(chunk: u64) -> Record {
        let ranges = vec![WrittenRange { start: 10 * chunk, length: 10 }];
        Record::Piece(FinishedPiece { file: 0, entry: 3, chunk, ranges, digest: 1, error: None })
    }

    fn records(journal: &Journal) -> Vec<Record> {
        journal.records().expect("reads").map(|(_, record)| record).collect()
    }

    #[test]
    fn records_are_found_again_up_to_the_first_damaged_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal");
        let scales = Record::Scales { tensor: 2, scales: vec![0.5] };
        let (journal, earlier) = open(&path, 1);
        assert_eq!(earlier, EarlierSave::None);
        for record in [&piece(0), &scales, &piece(1)] {
            journal.append(record);
        }
        drop(journal);
        let whole = fs::read(&path).expect("reads");
        for missing in 0..20 {
            fs::write(&path, &whole[..whole.len() - missing]).expect("writes");
            let (journal, earlier) = open(&path, 1);
            assert_eq!(earlier, EarlierSave::Continued);
            let expected = [piece(0), scales.clone(), piece(1)];
            assert_eq!(records(&journal), expected[..3 - usize::from(missing > 0)]);
            journal.append(&piece(2));
            assert_eq!(records(&journal).last(), Some(&piece(2)));
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().expect("some") ^= 1;
        fs::write(&path, flipped).expect("writes");
        assert_eq!(records(&open(&path, 1).0).len(), 2);
    }

    #[test]
    fn retracted_records_stay_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal");
        let (journal, _) = open(&path, 1);
        journal.append(&piece(0));
        journal.append(&piece(1));
        let (at, _) = journal.records().expect("reads").next().expect("one");
        journal.append(&Record::Retracted { at });
        assert_eq!(records(&journal), [piece(1)]);
        drop(journal);
        let (journal, _) = open(&path, 1);
        journal.append(&piece(0));
        assert_eq!(records(&journal), [piece(1), piece(0)]);
    }

    #[test]
    fn another_plan_source_or_version_starts_an_empty_journal() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal");
        open(&path, 1).0.append(&piece(0));
        let (journal, earlier) = open(&path, 2);
        assert_eq!(earlier, EarlierSave::Unfit("with other options"));
        assert_eq!(records(&journal), []);
        for damaged in [&b"something else"[..], b"quantscope journal\n\x09\0\0\0"] {
            fs::write(&path, damaged).expect("writes");
            let (journal, earlier) = open(&path, 2);
            assert!(matches!(earlier, EarlierSave::Unfit(_)));
            journal.append(&piece(4));
            assert_eq!(records(&journal), [piece(4)]);
        }
    }
}
