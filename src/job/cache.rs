//! What was found out about a checkpoint before: a model of 500 GB that was calibrated once
//! shows its table at once when it is opened again.
//!
//! One file for each checkpoint and set of questions, in the user's cache directory. It
//! opens with its key: the questions, every file of the checkpoint with its size and time of
//! change, and a hash of what their headers list. One whose key differs is of no use, and
//! the next scan replaces it. Each finding lies in a frame of its own with a checksum:
//! what follows a damaged one is found out anew. Findings are read and written one at a
//! time, so memory does not grow with them; files, and all of them together, are bounded.
//! A cache is never needed: whatever goes wrong with it, the tensors are measured.

use super::lock;
use crate::checkpoint::{Checkpoint, Content};
use crate::directories;
use crate::plan::effective_quantizer;
use crate::quantization::{
    Analysis, AnalysisSpec, ChannelDetail, ChannelLosses, ErrorDetail, ErrorSums, Loss,
    NotQuantizable, Outcome, Quantized, Range, Scales, Statistics, ValueHistogram,
};
use crate::tensor::TensorId;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::NamedTempFile;

const MAGIC: &[u8] = b"quantscope findings\n";

/// Raised when findings change their form or their meaning.
const VERSION: u32 = 5;

const SUFFIX: &str = "findings";
const PARTIAL: &str = ".partial";

/// Bytes of one file, and of all.
const FILE_LIMIT: u64 = 256 << 20;
const TOTAL_LIMIT: u64 = 512 << 20;

/// Bytes of one finding: more than the counts of 65,536 values take.
const FINDING_LIMIT: u32 = 1 << 20;

/// Bytes of distributions in one file; findings beyond are kept without theirs.
const DISTRIBUTIONS_LIMIT: u64 = 64 << 20;

/// How long after its last byte a file under construction has been left by its process.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A file that changed so short a time ago may change again without its time telling.
const SETTLED: Duration = Duration::from_secs(2);

/// A directory of findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    pub fn at(directory: PathBuf) -> Cache {
        Cache { directory }
    }

    /// The user's, where the system has a place for it.
    pub fn of_user() -> Option<Cache> {
        Some(Cache { directory: directories::of(directories::Kind::Cache)? })
    }

    /// What is known of a checkpoint; `None` where nothing can be kept: its files may still
    /// be changing or are none, or the answers are as long as the tensors.
    pub(super) fn memory<'c>(
        &self,
        checkpoint: &'c Checkpoint,
        questions: &'c AnalysisSpec,
    ) -> Option<Memory<'c>> {
        if questions.keep_scales || questions.channels == ChannelDetail::All {
            return None;
        }
        let key = key(checkpoint, questions)?;
        let path = self.directory.join(file_name(checkpoint, questions)?);
        let directory = self.directory.clone();
        Some(Memory { checkpoint, questions, directory, path, key, notes: Mutex::default() })
    }
}

/// Everything that findings depend on, as text.
fn key(checkpoint: &Checkpoint, questions: &AnalysisSpec) -> Option<Vec<u8>> {
    let mut key = format!("{} {questions:?}\n", env!("CARGO_PKG_VERSION"));
    let settled = SystemTime::now().checked_sub(SETTLED)?;
    for shard in checkpoint.shards() {
        if let Some(identity) = shard.source.remote_identity() {
            key += &format!("{identity:?} {}\n", shard.source.size());
            continue;
        }
        let changed = shard.source.modified().filter(|&changed| changed < settled)?;
        let changed = changed.duration_since(UNIX_EPOCH).ok()?;
        let path = fs::canonicalize(shard.source.path()).ok()?;
        key += &format!("{path:?} {} {changed:?}\n", shard.source.size());
    }
    let mut hasher = DefaultHasher::new();
    for (_, stored) in checkpoint.all_stored() {
        (&stored.name, &stored.dtype, &stored.shape, stored.shard, &stored.range).hash(&mut hasher);
    }
    let mut quantized = false;
    for id in checkpoint.ids() {
        if let Content::Packed(layout) = checkpoint.content(id) {
            (id, layout.name(), &checkpoint.tensor(id).shape).hash(&mut hasher);
            quantized = true;
        }
    }
    if quantized && let Some(config) = checkpoint.config() {
        config.ok()?.hash(&mut hasher);
    }
    key += &format!("{:016x}\n", hasher.finish());
    Some(key.into_bytes())
}

/// The same for the same path and questions, so that what is outdated is replaced.
fn file_name(checkpoint: &Checkpoint, questions: &AnalysisSpec) -> Option<String> {
    let mut hasher = DefaultHasher::new();
    let is_remote = checkpoint.shards().iter().any(|shard| shard.source.is_remote());
    match is_remote {
        true => checkpoint.path().hash(&mut hasher),
        false => fs::canonicalize(checkpoint.path()).ok()?.hash(&mut hasher),
    }
    format!("{questions:?}").hash(&mut hasher);
    Some(format!("{:016x}.{SUFFIX}", hasher.finish()))
}

/// What is known of one checkpoint, and what is added to that.
pub(super) struct Memory<'c> {
    checkpoint: &'c Checkpoint,
    questions: &'c AnalysisSpec,
    directory: PathBuf,
    path: PathBuf,
    key: Vec<u8>,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    /// Bytes of the file that are sound, its key included.
    sound: u64,
    /// What will replace the file, once there is something new, and its bytes.
    file: Option<(BufWriter<NamedTempFile>, u64)>,
    distributions: u64,
    /// The file is full, or could not be written.
    closed: bool,
}

/// A finding as it is kept; the quantizers are in the key.
#[derive(Serialize, Deserialize)]
struct Record<'a> {
    tensor: u32,
    range: Range,
    statistics: Option<Statistics>,
    results: Vec<Result<Answer<'a>, Cow<'a, NotQuantizable>>>,
    distribution: Option<Cow<'a, ValueHistogram>>,
}

#[derive(Serialize, Deserialize)]
struct Answer<'a> {
    scales: Cow<'a, Scales>,
    error: Option<ErrorSums>,
    loss: Option<Loss>,
    channels: Option<Cow<'a, ChannelLosses>>,
}

impl Memory<'_> {
    /// Gives every finding that is known.
    pub(super) fn recall(&self, mut give: impl FnMut(TensorId, Analysis)) {
        // What ends early is as good as what it began with.
        let _ = self.read(&mut give);
    }

    fn read(&self, give: &mut dyn FnMut(TensorId, Analysis)) -> io::Result<()> {
        let metadata = fs::symlink_metadata(&self.path)?;
        if !metadata.is_file() || metadata.len() > FILE_LIMIT {
            return Ok(());
        }
        let mut file = BufReader::with_capacity(1 << 16, File::open(&self.path)?.take(FILE_LIMIT));
        let expected = self.head();
        let mut head = vec![0; expected.len()];
        file.read_exact(&mut head)?;
        if head != expected {
            return Ok(());
        }
        lock(&self.notes).sound = expected.len() as u64;
        let mut bytes = Vec::new();
        loop {
            let mut frame = [0; 12];
            file.read_exact(&mut frame)?;
            let ([length, ..], sum) = (frame.as_chunks::<4>().0, &frame[4..]) else { break };
            let length = u32::from_le_bytes(*length);
            if length > FINDING_LIMIT {
                break;
            }
            bytes.resize(length as usize, 0);
            file.read_exact(&mut bytes)?;
            if checksum(&bytes) != sum {
                break;
            }
            let Ok(record) = postcard::from_bytes::<Record>(&bytes) else { break };
            let distribution = record.distribution.is_some();
            let Some((id, analysis)) = self.finding(record) else { break };
            {
                let mut notes = lock(&self.notes);
                notes.sound += 12 + u64::from(length);
                notes.distributions += if distribution { u64::from(length) } else { 0 };
            }
            give(id, analysis);
        }
        Ok(())
    }

    /// A record as the answer to the questions; `None` if it is not one.
    fn finding(&self, record: Record) -> Option<(TensorId, Analysis)> {
        let id = TensorId(record.tensor);
        let tensor = self.checkpoint.tensors().get(id.index())?;
        let dtype = self.checkpoint.float_type(id)?;
        let AnalysisSpec { quantizers, errors, .. } = self.questions;
        let distribution = record.distribution.map(Cow::into_owned);
        let fits = |found: &ValueHistogram| found.fits(dtype, tensor.parameters());
        let sound = record.range.count == tensor.parameters()
            && record.range.nan.checked_add(record.range.inf)? <= record.range.count
            && record.statistics.is_some() == (*errors != ErrorDetail::None)
            && record.results.len() == quantizers.len()
            && distribution.as_ref().is_none_or(fits);
        if !sound {
            return None;
        }
        let outcomes = quantizers.iter().zip(record.results).map(|(&quantizer, result)| {
            let result = match result {
                Ok(Answer { scales, error, loss, channels }) => {
                    let (scales, channels) = (scales.into_owned(), channels.map(Cow::into_owned));
                    let complete = error.is_some() == (*errors == ErrorDetail::Full)
                        && loss.is_some() == (*errors == ErrorDetail::Loss);
                    if scales.all.is_some() || !complete {
                        return None;
                    }
                    Ok(Quantized { scales, error, loss, channels })
                }
                Err(why) => Err(why.into_owned()),
            };
            Some(Outcome { quantizer: effective_quantizer(self.checkpoint, id, quantizer), result })
        });
        let outcomes = outcomes.collect::<Option<_>>()?;
        let Record { range, statistics, .. } = record;
        Some((id, Analysis { range, statistics, outcomes, histogram: distribution }))
    }

    /// Keeps a finding.
    pub(super) fn keep(&self, id: TensorId, found: &Analysis) {
        let mut notes = lock(&self.notes);
        if !notes.closed && self.append(&mut notes, id, found).is_err() {
            notes.closed = true;
        }
    }

    fn append(&self, notes: &mut Notes, id: TensorId, found: &Analysis) -> io::Result<()> {
        let spare = notes.distributions < DISTRIBUTIONS_LIMIT;
        let results = found.outcomes.iter().map(|outcome| match &outcome.result {
            Ok(Quantized { scales, error, loss, channels }) => Ok(Answer {
                scales: Cow::Borrowed(scales),
                error: *error,
                loss: *loss,
                channels: channels.as_ref().map(Cow::Borrowed),
            }),
            Err(why) => Err(Cow::Borrowed(why)),
        });
        let record = Record {
            tensor: id.0,
            range: found.range,
            statistics: found.statistics,
            results: results.collect(),
            distribution: found.histogram.as_ref().filter(|_| spare).map(Cow::Borrowed),
        };
        let bytes = postcard::to_stdvec(&record).map_err(io::Error::other)?;
        if bytes.len() as u64 > u64::from(FINDING_LIMIT) {
            return Ok(());
        }
        if record.distribution.is_some() {
            notes.distributions += bytes.len() as u64;
        }
        let (file, length) = match &mut notes.file {
            Some(file) => file,
            none => none.insert(self.begin(notes.sound)?),
        };
        *length += 12 + bytes.len() as u64;
        if *length > FILE_LIMIT {
            // What is there is worth keeping.
            notes.closed = true;
            return Ok(());
        }
        file.write_all(&(bytes.len() as u32).to_le_bytes())?;
        file.write_all(&checksum(&bytes))?;
        file.write_all(&bytes)
    }

    /// A new file with what the old one holds that is sound.
    fn begin(&self, sound: u64) -> io::Result<(BufWriter<NamedTempFile>, u64)> {
        create_private(&self.directory)?;
        let file = tempfile::Builder::new().suffix(PARTIAL).tempfile_in(&self.directory)?;
        let mut file = BufWriter::with_capacity(1 << 16, file);
        let length = match sound {
            0 => {
                let head = self.head();
                file.write_all(&head)?;
                head.len() as u64
            }
            _ => io::copy(&mut File::open(&self.path)?.take(sound), &mut file)?,
        };
        Ok((file, length))
    }

    fn head(&self) -> Vec<u8> {
        let length = self.key.len() as u32;
        [MAGIC, &VERSION.to_le_bytes(), &length.to_le_bytes(), &self.key].concat()
    }

    /// Puts what was kept in place.
    pub(super) fn close(self) {
        let notes = self.notes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        match notes.file {
            Some((file, _)) => {
                let Ok(file) = file.into_inner() else { return };
                // No sync: after a crash, checksums tell what is not there.
                if file.persist(&self.path).is_ok() {
                    let _ = prune(&self.directory);
                }
            }
            // What is used stays longest.
            None if notes.sound > 0 => {
                let file = File::options().append(true).open(&self.path);
                let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
            }
            None => {}
        }
    }
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish().to_le_bytes()
}

fn create_private(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

/// Removes what was used longest ago where all together are too long, and what a killed
/// process left.
fn prune(directory: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    let now = SystemTime::now();
    for entry in fs::read_dir(directory)?.flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        let Ok(used) = metadata.modified() else { continue };
        let name = entry.file_name().to_string_lossy().into_owned();
        let age = now.duration_since(used).unwrap_or_default();
        if name.ends_with(PARTIAL) && age > ABANDONED {
            let _ = fs::remove_file(path);
        } else if name.ends_with(SUFFIX) && metadata.is_file() {
            files.push((used, metadata.len(), path));
        }
    }
    files.sort();
    let mut total = 0u64;
    for (_, length, path) in files.into_iter().rev() {
        total = total.saturating_add(length);
        if total > TOTAL_LIMIT {
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}
