//! The on-disk cache of analyses: a model of 500 GB that was measured once shows its table
//! immediately when it is opened again.
//!
//! There is one file per checkpoint and [`AnalysisSpec`], in the user's cache directory. It
//! begins with its key: the spec, every file of the checkpoint with its size and modification
//! time, and a hash of what the headers list. If the key differs, the file is ignored and the
//! next scan replaces it. Each record has its own frame and checksum; a damaged record and all
//! that follow it are measured again. Records are read and written one at a time, so memory
//! use does not grow with them. The size of each file and of all files together is bounded.
//! The cache is optional: if anything goes wrong with it, the tensors are measured.

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
use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MAGIC: &[u8] = b"quantscope findings\n";

/// Increased whenever records change their layout or their meaning.
const VERSION: u32 = 8;

const SUFFIX: &str = "findings";
const PARTIAL: &str = ".partial";

/// The largest size of one file in bytes.
const FILE_LIMIT: u64 = 256 << 20;

/// The largest size of all files together in bytes.
const TOTAL_LIMIT: u64 = 512 << 20;

/// The largest size of one record in bytes; a histogram of 65,536 counts fits.
const RECORD_LIMIT: u32 = 1 << 20;

/// The most bytes of histograms in one file; further records are kept without theirs.
const HISTOGRAMS_LIMIT: u64 = 64 << 20;

/// The age after which an unfinished file counts as left behind by a killed process.
const MAX_UNFINISHED_AGE: Duration = Duration::from_secs(3600);

/// A file modified more recently than this may change again within the resolution of its
/// modification time.
const MIN_FILE_AGE: Duration = Duration::from_secs(2);

/// A cache directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// A cache in `directory`, which is created when it is first written to.
    pub fn at(directory: PathBuf) -> Cache {
        Cache { directory }
    }

    /// The user's cache directory; `None` if the system has none.
    pub fn of_user() -> Option<Cache> {
        Some(Cache { directory: directories::of(directories::DirectoryKind::Cache)? })
    }

    /// Adds what the caches in `others` hold of a checkpoint, which workers measured.
    pub(crate) fn merge(&self, checkpoint: &Checkpoint, spec: &AnalysisSpec, others: &[PathBuf]) {
        let Some(into) = self.entry(checkpoint, spec) else { return };
        let mut known = HashSet::new();
        into.read_all(|id, _| _ = known.insert(id));
        for directory in others {
            let Some(from) = Cache::at(directory.clone()).entry(checkpoint, spec) else { continue };
            from.read_all(|id, analysis| {
                if known.insert(id) {
                    into.add(id, &analysis);
                }
            });
        }
        into.close();
    }

    /// The cache file of a checkpoint. `None` if nothing can be cached: the model is not in
    /// files, they may still be changing, or the results would be as large as the tensors.
    pub(super) fn entry<'c>(
        &self,
        checkpoint: &'c Checkpoint,
        spec: &'c AnalysisSpec,
    ) -> Option<CacheEntry<'c>> {
        if spec.keep_scales || spec.channels == ChannelDetail::All {
            return None;
        }
        let key = key(checkpoint, spec)?;
        let path = self.directory.join(file_name(checkpoint, spec)?);
        let directory = self.directory.clone();
        Some(CacheEntry { checkpoint, spec, directory, path, key, state: Mutex::default() })
    }
}

/// Everything that the results depend on, as text.
fn key(checkpoint: &Checkpoint, spec: &AnalysisSpec) -> Option<Vec<u8>> {
    let mut key = format!("{} {spec:?}\n", env!("CARGO_PKG_VERSION"));
    let youngest = SystemTime::now().checked_sub(MIN_FILE_AGE)?;
    for shard in checkpoint.shards() {
        if let Some(identity) = shard.source.remote_identity() {
            key += &format!("{identity:?} {}\n", shard.source.size());
            continue;
        }
        let changed = shard.source.modified().filter(|&changed| changed < youngest)?;
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

/// The name of the cache file, a hash of path and spec, so that an outdated file is replaced.
fn file_name(checkpoint: &Checkpoint, spec: &AnalysisSpec) -> Option<String> {
    let mut hasher = DefaultHasher::new();
    if checkpoint.is_remote() {
        checkpoint.path().hash(&mut hasher)
    } else {
        fs::canonicalize(checkpoint.path()).ok()?.hash(&mut hasher)
    }
    format!("{spec:?}").hash(&mut hasher);
    Some(format!("{:016x}.{SUFFIX}", hasher.finish()))
}

/// The cache file of one checkpoint: what it holds, and what is added to it.
pub(super) struct CacheEntry<'c> {
    checkpoint: &'c Checkpoint,
    spec: &'c AnalysisSpec,
    directory: PathBuf,
    path: PathBuf,
    key: Vec<u8>,
    state: Mutex<EntryState>,
}

#[derive(Default)]
struct EntryState {
    /// Length of the intact beginning of the file in bytes, its key included.
    intact: u64,
    /// The replacement of the file and its length, once there is something new to write.
    file: Option<(BufWriter<File>, u64)>,
    histogram_bytes: u64,
    /// Whether the file is full or could not be written.
    closed: bool,
}

/// One tensor's analysis as it is stored; the quantizers are in the key.
#[derive(Serialize, Deserialize)]
struct Record<'a> {
    tensor: u32,
    range: Range,
    statistics: Option<Statistics>,
    results: Vec<Result<StoredOutcome<'a>, Cow<'a, NotQuantizable>>>,
    histogram: Option<Cow<'a, ValueHistogram>>,
}

#[derive(Serialize, Deserialize)]
struct StoredOutcome<'a> {
    scales: Cow<'a, Scales>,
    error: Option<ErrorSums>,
    loss: Option<Loss>,
    weighted: Option<Loss>,
    channels: Option<Cow<'a, ChannelLosses>>,
}

impl CacheEntry<'_> {
    /// Calls `give` for every tensor in the file.
    pub(super) fn read_all(&self, mut give: impl FnMut(TensorId, Analysis)) {
        // Records before an error are valid.
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
        lock(&self.state).intact = expected.len() as u64;
        let mut bytes = Vec::new();
        loop {
            let mut frame = [0; 12];
            file.read_exact(&mut frame)?;
            let ([length, ..], sum) = (frame.as_chunks::<4>().0, &frame[4..]) else { break };
            let length = u32::from_le_bytes(*length);
            if length > RECORD_LIMIT {
                break;
            }
            bytes.resize(length as usize, 0);
            file.read_exact(&mut bytes)?;
            if checksum(&bytes) != sum {
                break;
            }
            let Ok(record) = postcard::from_bytes::<Record>(&bytes) else { break };
            let histogram = record.histogram.is_some();
            let Some((id, analysis)) = self.analysis(record) else { break };
            {
                let mut state = lock(&self.state);
                state.intact += 12 + u64::from(length);
                state.histogram_bytes += if histogram { u64::from(length) } else { 0 };
            }
            give(id, analysis);
        }
        Ok(())
    }

    /// A record as the analysis of its tensor; `None` if it does not fit the spec.
    fn analysis(&self, record: Record) -> Option<(TensorId, Analysis)> {
        let id = TensorId(record.tensor);
        let tensor = self.checkpoint.tensors().get(id.index())?;
        let dtype = self.checkpoint.float_type(id)?;
        let AnalysisSpec { quantizers, errors, .. } = self.spec;
        let histogram = record.histogram.map(Cow::into_owned);
        let fits = |found: &ValueHistogram| found.fits(dtype, tensor.parameters());
        let sound = record.range.count == tensor.parameters()
            && record.range.nan.checked_add(record.range.inf)? <= record.range.count
            && record.statistics.is_some() == (*errors != ErrorDetail::None)
            && record.results.len() == quantizers.len()
            && histogram.as_ref().is_none_or(fits);
        if !sound {
            return None;
        }
        let outcomes = quantizers.iter().zip(record.results).map(|(&quantizer, result)| {
            let result = match result {
                Ok(StoredOutcome { scales, error, loss, weighted, channels }) => {
                    let (scales, channels) = (scales.into_owned(), channels.map(Cow::into_owned));
                    let complete = error.is_some() == (*errors == ErrorDetail::Full)
                        && loss.is_some() == (*errors == ErrorDetail::Loss);
                    if scales.all.is_some() || !complete {
                        return None;
                    }
                    Ok(Quantized { scales, error, loss, weighted, channels })
                }
                Err(why) => Err(why.into_owned()),
            };
            Some(Outcome { quantizer: effective_quantizer(self.checkpoint, id, quantizer), result })
        });
        let outcomes = outcomes.collect::<Option<_>>()?;
        let Record { range, statistics, .. } = record;
        Some((id, Analysis { range, statistics, outcomes, histogram }))
    }

    /// Adds an analysis to the file.
    pub(super) fn add(&self, id: TensorId, found: &Analysis) {
        let mut state = lock(&self.state);
        if !state.closed && self.append(&mut state, id, found).is_err() {
            state.closed = true;
        }
    }

    fn append(&self, state: &mut EntryState, id: TensorId, found: &Analysis) -> io::Result<()> {
        let spare = state.histogram_bytes < HISTOGRAMS_LIMIT;
        let results = found.outcomes.iter().map(|outcome| match &outcome.result {
            Ok(Quantized { scales, error, loss, weighted, channels }) => Ok(StoredOutcome {
                scales: Cow::Borrowed(scales),
                error: *error,
                loss: *loss,
                weighted: *weighted,
                channels: channels.as_ref().map(Cow::Borrowed),
            }),
            Err(why) => Err(Cow::Borrowed(why)),
        });
        let record = Record {
            tensor: id.0,
            range: found.range,
            statistics: found.statistics,
            results: results.collect(),
            histogram: found.histogram.as_ref().filter(|_| spare).map(Cow::Borrowed),
        };
        let bytes = postcard::to_stdvec(&record).map_err(io::Error::other)?;
        if bytes.len() as u64 > u64::from(RECORD_LIMIT) {
            return Ok(());
        }
        if record.histogram.is_some() {
            state.histogram_bytes += bytes.len() as u64;
        }
        let (file, length) = match &mut state.file {
            Some(file) => file,
            none => none.insert(self.begin(state.intact)?),
        };
        *length += 12 + bytes.len() as u64;
        if *length > FILE_LIMIT {
            // Keep the records written so far.
            state.closed = true;
            return Ok(());
        }
        file.write_all(&(bytes.len() as u32).to_le_bytes())?;
        file.write_all(&checksum(&bytes))?;
        file.write_all(&bytes)?;
        if self.checkpoint.is_remote() {
            // Written immediately, so that it need not be fetched again after a kill.
            file.flush()?;
        }
        Ok(())
    }

    /// Replaces the file with a new one that begins with the intact part of the old one, and appends
    /// to it in place. If a record at its end is damaged, its tensor is measured again.
    fn begin(&self, intact: u64) -> io::Result<(BufWriter<File>, u64)> {
        create_private(&self.directory)?;
        let file = tempfile::Builder::new().suffix(PARTIAL).tempfile_in(&self.directory)?;
        let mut file = BufWriter::with_capacity(1 << 16, file);
        let length = match intact {
            0 => {
                let head = self.head();
                file.write_all(&head)?;
                head.len() as u64
            }
            _ => io::copy(&mut File::open(&self.path)?.take(intact), &mut file)?,
        };
        let file = file.into_inner().map_err(|error| error.into_error())?;
        Ok((BufWriter::with_capacity(1 << 16, file.persist(&self.path)?), length))
    }

    fn head(&self) -> Vec<u8> {
        let length = self.key.len() as u32;
        [MAGIC, &VERSION.to_le_bytes(), &length.to_le_bytes(), &self.key].concat()
    }

    /// Completes the file.
    pub(super) fn close(self) {
        let state = self.state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        match state.file {
            // No sync: after a crash the checksums reveal missing data.
            Some((mut file, _)) => {
                let written = file.flush().and_then(|()| prune(&self.directory));
                // The cache is optional.
                let _ = written;
            }
            // The modification time records when the file was last used.
            None if state.intact > 0 => {
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

/// Removes the least recently used files until all together fit [`TOTAL_LIMIT`], and what
/// killed processes left behind.
fn prune(directory: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    let now = SystemTime::now();
    for entry in fs::read_dir(directory)?.flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        let Ok(used) = metadata.modified() else { continue };
        let name = entry.file_name().to_string_lossy().into_owned();
        let age = now.duration_since(used).unwrap_or_default();
        if name.ends_with(PARTIAL) && age > MAX_UNFINISHED_AGE {
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
