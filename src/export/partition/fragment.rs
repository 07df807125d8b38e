//! The result of one worker in `OUT.partial`: a directory with its part of the output's files, and
//! descriptions of their origin and content. Those that every worker reads are small.
//!
//! A fragment gets its name only when it is complete, verified and written to the disk.

use crate::checkpoint::io::remote::BucketDirectory;
use crate::checkpoint::io::remote_path::is_remote;
use crate::export::disk::{sync_directory, sync_tree};
use crate::export::error::SaveError;
use crate::export::partition::Partition;
use crate::export::partition::disk_bytes::bytes_below;
use crate::export::receipt::OutputComparison;
use crate::path_error::IoContext;
use crate::quantization::ErrorSums;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Name of the description of a fragment's origin, in its directory.
const ORIGIN: &str = "fragment.json";

/// Name of the description of its content.
const CONTENT: &str = "content.json";

/// Name of the request that it was made for. It has the names of all tensors of the output.
const REQUEST: &str = "request.json";

/// Name of the directory of a fragment's files, next to its description.
const DATA: &str = "files";

/// Prefix of the name of an unfinished fragment.
const UNFINISHED: &str = ".unfinished-";

/// Ending of the name of the directory of fragments.
const PARTIAL: &str = ".partial";

/// Maximum size of a description in bytes. For 100,000 tensors it is about 50 MB.
const SIZE_LIMIT: u64 = 1 << 30;

/// The origin of a fragment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FragmentOrigin {
    /// The version of the program that made it.
    pub quantscope: String,
    /// `I/N`.
    pub partition: String,
    /// The identity shared by all fragments of an output.
    pub identity: Identity,
    /// The subcommand and its options without `--partition`, for messages.
    pub command: String,
}

/// The content of a fragment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FragmentContent {
    /// The parts of output files that it holds.
    pub files: Vec<FragmentFile>,
    /// The results for its tensors, measured from the fragment's files.
    pub tensors: Vec<FragmentTensor>,
}

/// The descriptions of a fragment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fragment {
    pub origin: FragmentOrigin,
    pub content: FragmentContent,
}

impl FragmentOrigin {
    /// The origin of a fragment that this version of the program makes.
    pub(crate) fn new(partition: Partition, identity: Identity, command: String) -> Self {
        let quantscope = env!("CARGO_PKG_VERSION").to_owned();
        FragmentOrigin { quantscope, partition: partition.to_string(), identity, command }
    }
}

/// The identity shared by all fragments of one output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// Digest of the source's headers, sizes and modification times.
    pub source: String,
    /// Digest of the output plan.
    pub plan: String,
    /// Digest of the recorded inputs for which rounding is compensated, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<String>,
}

/// A request as `join` needs it. The path of the output is that of the fragments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FragmentRequest {
    /// The path of the source, absolute if it is a file.
    pub model: String,
    /// The plan as a recipe; `None` if nothing is quantized.
    pub recipe: Option<String>,
    /// For an analysis, the arguments of the subcommand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub analysis: Vec<String>,
    /// The orientation of the weights, where the format has one.
    pub layout: Option<String>,
    /// The float type to dequantize to; `None` for the original types.
    pub to: Option<String>,
    /// Whether the optimizer state is saved too.
    pub training_state: bool,
    /// The files of recorded inputs, absolute.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub activations: Vec<String>,
    /// Patterns of files that are copied although they hold other weights.
    pub copy: Vec<String>,
}

/// The part of an output file that a fragment holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FragmentFile {
    /// The name of the output file; empty if the output is one file.
    pub name: String,
    /// Length of the whole output file in bytes.
    pub bytes: u64,
    /// The pieces that it holds, in order.
    pub pieces: Vec<FragmentPiece>,
}

/// A range of bytes, at the same offsets in the fragment's file and in the output's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FragmentPiece {
    /// Offset of the first byte.
    pub start: u64,
    /// Number of bytes.
    pub bytes: u64,
    /// Digest of the bytes (XXH3, 128 bits), in hexadecimal.
    pub digest: String,
}

/// A tensor that a worker wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FragmentTensor {
    /// Name in the source.
    pub name: String,
    /// How it was changed.
    pub outcome: Outcome,
    /// The scheme, if it was quantized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The signal to quantization noise ratio in dB, for readers of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqnr_db: Option<f64>,
    /// The exact sums that all figures are derived from: postcard in hexadecimal, which preserves
    /// every bit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sums: Option<String>,
    /// The error of the layer's outputs, if the rounding was compensated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputComparison>,
}

/// How a tensor was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// Copied byte for byte.
    Unchanged,
    /// Quantized, or fake-quantized.
    Quantized,
    /// Dequantized.
    Dequantized,
}

impl FragmentTensor {
    /// Parses the sums; `None` if there are none or they are damaged.
    pub(crate) fn error_sums(&self) -> Option<ErrorSums> {
        let text = self.sums.as_ref()?;
        let digits = text.as_bytes().chunks(2);
        let bytes: Option<Vec<u8>> = digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        postcard::from_bytes(&bytes?).ok()
    }
}

/// Formats the sums of an error as text.
pub(crate) fn sums_text(sums: &ErrorSums) -> Option<String> {
    let bytes = postcard::to_stdvec(sums).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The directory of an output's fragments: OUT with `.partial` appended. In a bucket, the origin of
/// a fragment is the object `I-of-N.json`, which is written last; its other descriptions and its
/// pieces are objects below `I-of-N/`.
#[derive(Clone, Debug)]
pub(crate) struct PartialDirectory {
    path: PathBuf,
    /// The same directory, if it is in a bucket.
    bucket: Option<Arc<BucketDirectory>>,
}

impl PartialDirectory {
    /// The directory for the output `out`. It need not exist.
    ///
    /// # Errors
    /// If `out` does not name a file or directory of a file system or of a bucket.
    pub(crate) fn of(out: &Path) -> Result<PartialDirectory, SaveError> {
        let is_remote = is_remote(out);
        // The name after `s3://` is that of the bucket.
        let is_named = !is_remote || out.components().count() > 2;
        let Some(name) = out.file_name().filter(|_| is_named) else {
            let why = "does not name a file or directory to be written".to_owned();
            return Err(SaveError::Unfit { path: out.to_owned(), why });
        };
        let mut name: OsString = name.to_owned();
        name.push(PARTIAL);
        let path = out.with_file_name(name);
        let bucket = is_remote.then(|| BucketDirectory::new(&path)).transpose().context(out)?;
        Ok(PartialDirectory { path, bucket: bucket.map(Arc::new) })
    }

    /// The directory of fragments at a path; `None` if its name is not that of one.
    pub(crate) fn at(path: &Path) -> Option<PartialDirectory> {
        let name = path.file_name()?.to_str()?;
        let is_one = name.len() > PARTIAL.len() && name.ends_with(PARTIAL) && path.is_dir();
        is_one.then(|| PartialDirectory { path: path.to_owned(), bucket: None })
    }

    /// The output that the fragments are parts of.
    pub(crate) fn out(&self) -> PathBuf {
        self.path.with_extension("")
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the fragments are in a bucket.
    pub(crate) fn is_in_bucket(&self) -> bool {
        self.bucket.is_some()
    }

    /// Path of a worker's finished fragment.
    pub(crate) fn path_of(&self, partition: Partition) -> PathBuf {
        self.path.join(fragment_name(partition))
    }

    /// Path of the parts of the output files, or of the results of an analysis, in a fragment's
    /// directory.
    pub(crate) fn data(fragment: &Path) -> PathBuf {
        fragment.join(DATA)
    }

    /// Creates an empty directory for a new fragment, after removing those left by killed workers
    /// of the same partition. Several workers may make the same fragment at the same time, each
    /// in its own directory.
    pub(crate) fn begin(&self, partition: Partition) -> Result<Unfinished, SaveError> {
        if self.bucket.is_some() {
            let made = tempfile::Builder::new().prefix("quantscope-").tempdir();
            return Unfinished::in_directory(made.context(std::env::temp_dir())?);
        }
        fs::create_dir_all(&self.path).context(&self.path)?;
        let prefix = format!("{UNFINISHED}{}-of-{}.", partition.index(), partition.count());
        for entry in fs::read_dir(&self.path).context(&self.path)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix)
                && is_abandoned(&entry.path())
            {
                // Another worker may remove it at the same time.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.path);
        Unfinished::in_directory(made.context(&self.path)?)
    }

    /// The partitions that are finished, in order.
    pub(crate) fn finished(&self) -> Result<Vec<Partition>, SaveError> {
        let mut found = match &self.bucket {
            Some(bucket) => {
                let (objects, _) = bucket.names("").context(&self.path)?;
                let names = objects.iter().filter_map(|name| name.strip_suffix(".json"));
                names.filter_map(parse_name).collect()
            }
            None => self.finished_here()?,
        };
        found.sort_by_key(|partition| (partition.count(), partition.index()));
        Ok(found)
    }

    fn finished_here(&self) -> Result<Vec<Partition>, SaveError> {
        let entries = match fs::read_dir(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context(&self.path)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            found.extend(partition_of(&entry.context(&self.path)?.path()));
        }
        Ok(found)
    }

    /// Reads the descriptions of a finished fragment.
    pub(crate) fn describe(&self, partition: Partition) -> Result<Fragment, SaveError> {
        let origin = self.origin(partition)?;
        Ok(Fragment { origin, content: self.read(partition, CONTENT)? })
    }

    /// Reads the origin of the first finished fragment and the request that it was made for;
    /// `None` if there is none.
    pub(crate) fn first(&self) -> Result<Option<(FragmentOrigin, FragmentRequest)>, SaveError> {
        let first = self.finished()?.into_iter().next();
        let read_first = |partition| Ok((self.origin(partition)?, self.read(partition, REQUEST)?));
        first.map(read_first).transpose()
    }

    /// Reads the origins of all finished fragments, in order.
    pub(crate) fn origins(&self) -> Result<Vec<(Partition, FragmentOrigin)>, SaveError> {
        let finished = self.finished()?.into_iter();
        finished.map(|partition| Ok((partition, self.origin(partition)?))).collect()
    }

    fn origin(&self, partition: Partition) -> Result<FragmentOrigin, SaveError> {
        let path = self.path_of(partition);
        let origin: FragmentOrigin = self.read(partition, ORIGIN)?;
        if origin.partition == partition.to_string() {
            return Ok(origin);
        }
        let why = format!("it describes {}", origin.partition.escape_debug());
        Err(damaged(&path, ORIGIN, &why))
    }

    /// Reads a description of a fragment.
    fn read<T: DeserializeOwned>(&self, partition: Partition, name: &str) -> Result<T, SaveError> {
        let fragment = self.path_of(partition);
        let file = fragment.join(name);
        let text = match &self.bucket {
            Some(bucket) => bucket.read(&object(partition, name), SIZE_LIMIT).context(&file)?,
            None => {
                let length = fs::metadata(&file).context(&file)?.len();
                if length > SIZE_LIMIT {
                    return Err(damaged(&fragment, name, &format!("it has {length} bytes")));
                }
                fs::read(&file).context(&file)?
            }
        };
        serde_json::from_slice(&text).map_err(|e| damaged(&fragment, name, &e.to_string()))
    }

    /// Reads a piece of a fragment in a bucket.
    pub(crate) fn piece(
        &self,
        partition: Partition,
        file: &str,
        piece: &FragmentPiece,
    ) -> Result<Vec<u8>, SaveError> {
        let name = piece_object(partition, file, piece.start);
        let path = self.path.join(&name);
        let unfit = |why| SaveError::Unfit { path: path.clone(), why };
        let bucket = self.bucket.as_ref().ok_or_else(|| unfit("is not in a bucket".to_owned()))?;
        Ok(bucket.read(&name, piece.bytes).context(&path)?)
    }

    /// Returns a local directory of a fragment's files, of which there are no pieces. Those in a
    /// bucket are copied to a new directory in `scratch`.
    pub(crate) fn local_data(
        &self,
        partition: Partition,
        scratch: &Path,
    ) -> Result<PathBuf, SaveError> {
        let Some(bucket) = &self.bucket else {
            return Ok(PartialDirectory::data(&self.path_of(partition)));
        };
        let to = scratch.join(fragment_name(partition));
        fs::create_dir_all(&to).context(&to)?;
        let below = format!("{}/", object(partition, DATA));
        for name in bucket.names(&below).context(&self.path)?.0 {
            let from = format!("{below}{name}");
            let bytes = bucket.read(&from, SIZE_LIMIT).context(self.path.join(&from))?;
            let path = to.join(name);
            fs::write(&path, bytes).context(&path)?;
        }
        Ok(to)
    }

    /// Removes all fragments.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match &self.bucket {
            Some(bucket) => bucket.remove_all(),
            None => fs::remove_dir_all(&self.path),
        }
    }

    /// Returns the workers that are making fragments now, according to the locks.
    pub(crate) fn running(&self) -> Vec<Partition> {
        self.unfinished(|path| !is_abandoned(path))
    }

    /// The same, for a reader that asks repeatedly while workers start. It leaves new locks alone:
    /// testing a lock would keep its worker from taking it.
    pub(crate) fn running_now(&self) -> Vec<Partition> {
        self.unfinished(|path| has_new_lock(path) || !is_abandoned(path))
    }

    /// Returns the partitions that have an unfinished fragment.
    pub(crate) fn begun(&self) -> Vec<Partition> {
        self.unfinished(|_| true)
    }

    fn unfinished(&self, is_wanted: impl Fn(&Path) -> bool) -> Vec<Partition> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let mut found: Vec<Partition> = entries
            .filter(|entry| is_wanted(&entry.path()))
            .filter_map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                parse_name(name.strip_prefix(UNFINISHED)?.split_once('.')?.0)
            })
            .collect();
        found.sort();
        found.dedup();
        found
    }

    /// Number of bytes written of a partition's unfinished fragment; the largest number if there
    /// are several.
    pub(crate) fn written(&self, partition: Partition) -> u64 {
        let prefix = format!("{UNFINISHED}{}-of-{}.", partition.index(), partition.count());
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let bytes = entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(|entry| bytes_below(&PartialDirectory::data(&entry.path()), true));
        bytes.max().unwrap_or(0)
    }

    /// Reads the fragments of an output, one per partition.
    ///
    /// # Errors
    /// Some are missing, or do not belong to the output.
    pub(crate) fn complete(
        &self,
        identity: &Identity,
    ) -> Result<Vec<(Partition, Fragment)>, SaveError> {
        let unfit = |path: &Path, why: String| SaveError::Unfit { path: path.to_owned(), why };
        let found = self.origins()?;
        let Some((first, example)) = found.first() else {
            let why = "holds no finished share; workers make shares with --partition";
            return Err(unfit(&self.path, why.to_owned()));
        };
        for (partition, origin) in &found {
            let path = self.path_of(*partition);
            if let Some(why) = difference(origin, identity) {
                return Err(unfit(&path, format!("{why}; remove it and make it again")));
            }
            if partition.count() != first.count() {
                let (a, b) = (first.count(), partition.count());
                let why = format!(
                    "belongs to a division into {b} shares, other fragments to one into {a}; remove the fragments of one of them"
                );
                return Err(unfit(&path, why));
            }
        }
        let has = |partition: &Partition| found.iter().any(|(found, _)| found == partition);
        let missing: Vec<Partition> = first.all().filter(|partition| !has(partition)).collect();
        let Some(next) = missing.first() else {
            let finished = found.into_iter();
            let complete = finished.map(|(partition, origin)| {
                let content = self.read(partition, CONTENT)?;
                Ok((partition, Fragment { origin, content }))
            });
            return complete.collect();
        };
        let indices = |partitions: &[Partition]| {
            let indices: Vec<_> = partitions.iter().map(|p| p.index().to_string()).collect();
            indices.join(", ")
        };
        let what = match missing.as_slice() {
            [one] => format!("partition {} of {} is missing", one.index(), first.count()),
            _ => {
                let (n, all) = (missing.len(), first.count());
                format!("{n} of {all} partitions are missing: {}", indices(&missing))
            }
        };
        let mut running = self.running();
        running.retain(|partition| missing.contains(partition));
        let running = match running.as_slice() {
            [] => String::new(),
            running => format!(" (being made now: {})", indices(running)),
        };
        let command = &example.command;
        let why = format!("{what}{running}; make it with: quantscope {command} --partition {next}");
        Err(unfit(&self.path, why))
    }

    /// Checks that there is no fragment of another run: with other options, another version, another
    /// source, or another number of workers.
    pub(crate) fn check_others(
        &self,
        found: &[(Partition, FragmentOrigin)],
        partition: Partition,
        identity: &Identity,
    ) -> Result<(), SaveError> {
        for (other, origin) in found {
            let why = match difference(origin, identity) {
                Some(why) => why,
                None if other.count() != partition.count() => format!(
                    "is one of {} partitions, and this is one of {}",
                    other.count(),
                    partition.count()
                ),
                None => continue,
            };
            let why = format!(
                "{why}; give the same options, or remove {} to begin again",
                self.path.display()
            );
            return Err(SaveError::Unfit { path: self.path_of(*other), why });
        }
        Ok(())
    }
}

/// Returns why a fragment does not belong to an output; `None` if it does.
fn difference(fragment: &FragmentOrigin, identity: &Identity) -> Option<String> {
    let version = env!("CARGO_PKG_VERSION");
    if fragment.quantscope != version {
        let found = fragment.quantscope.escape_debug();
        return Some(format!("was made by quantscope {found}, and this is {version}"));
    }
    if fragment.identity.source != identity.source {
        return Some("was made from another source, or the source has changed since".to_owned());
    }
    if fragment.identity.inputs != identity.inputs {
        return Some("was made with other recorded inputs".to_owned());
    }
    let command = fragment.command.escape_debug();
    (fragment.identity.plan != identity.plan)
        .then(|| format!("was made with other options: {command}"))
}

/// A fragment under construction. It is removed if it is dropped before [`Unfinished::commit`].
#[derive(Debug)]
pub(crate) struct Unfinished {
    directory: tempfile::TempDir,
    /// Holds the lock until the fragment is finished.
    _lock: fs::File,
}

impl Unfinished {
    fn in_directory(directory: tempfile::TempDir) -> Result<Unfinished, SaveError> {
        let lock_path = directory.path().join("lock");
        let lock = fs::File::create(&lock_path).context(&lock_path)?;
        // Without locks, `join` removes directories that were left.
        let _ = lock.try_lock();
        let data = directory.path().join(DATA);
        fs::create_dir(&data).context(&data)?;
        Ok(Unfinished { directory, _lock: lock })
    }

    /// The directory of the output's files.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join(DATA)
    }

    /// Adds the descriptions, writes everything to the storage device, and gives the fragment its
    /// name. Returns false if another worker finished the same fragment first.
    pub(crate) fn commit(
        self,
        directory: &PartialDirectory,
        partition: Partition,
        fragment: &Fragment,
        request: &FragmentRequest,
    ) -> Result<bool, SaveError> {
        let descriptions = [
            (CONTENT, serde_json::to_vec_pretty(&fragment.content)),
            (REQUEST, serde_json::to_vec_pretty(request)),
            // The last one completes a fragment in a bucket.
            (ORIGIN, serde_json::to_vec_pretty(&fragment.origin)),
        ];
        if let Some(bucket) = &directory.bucket {
            let path = directory.path_of(partition);
            let ranges = self.ranges(directory, partition, &fragment.content)?;
            bucket.write_ranges(&ranges).context(&path)?;
            for (name, text) in descriptions {
                let text = text.map_err(io::Error::other).context(&path)?;
                bucket.write(&object(partition, name), &text).context(&path)?;
            }
            return Ok(true);
        }
        for (name, text) in descriptions {
            let path = self.directory.path().join(name);
            fs::write(&path, text.map_err(io::Error::other).context(&path)?).context(&path)?;
        }
        sync_tree(self.directory.path()).context(self.directory.path())?;
        let lock = self.directory.path().join("lock");
        fs::remove_file(&lock).context(&lock)?;
        let to = directory.path_of(partition);
        match fs::rename(self.directory.path(), &to) {
            Ok(()) => {
                // The directory was renamed, so there is nothing to remove.
                let _ = self.directory.keep();
                sync_directory(&directory.path).context(&directory.path)?;
                Ok(true)
            }
            Err(_) if to.join(ORIGIN).is_file() => Ok(false),
            Err(source) => Err(SaveError::Io { path: to, source }),
        }
    }

    /// The objects of a fragment in a bucket: its pieces, or the files of an analysis. Each is a
    /// range of a file.
    fn ranges(
        &self,
        directory: &PartialDirectory,
        partition: Partition,
        content: &FragmentContent,
    ) -> Result<Vec<(String, PathBuf, Range<u64>)>, SaveError> {
        let data = self.data();
        let out = directory.out();
        let single = out.file_name().unwrap_or_default();
        let mut ranges = Vec::new();
        for file in &content.files {
            let path = if file.name.is_empty() { data.join(single) } else { data.join(&file.name) };
            ranges.extend(file.pieces.iter().map(|piece| {
                let name = piece_object(partition, &file.name, piece.start);
                (name, path.clone(), piece.start..piece.start + piece.bytes)
            }));
        }
        if content.files.is_empty() {
            for entry in fs::read_dir(&data).context(&data)? {
                let entry = entry.context(&data)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let length = entry.metadata().context(entry.path())?.len();
                ranges.push((
                    format!("{}/{name}", object(partition, DATA)),
                    entry.path(),
                    0..length,
                ));
            }
        }
        Ok(ranges)
    }
}

fn damaged(fragment: &Path, name: &str, why: &str) -> SaveError {
    SaveError::Unfit {
        path: fragment.join(name),
        why: format!("is not the description of a fragment: {why}; remove {}", fragment.display()),
    }
}

fn fragment_name(partition: Partition) -> String {
    format!("{}-of-{}", partition.index(), partition.count())
}

/// The name of a fragment's object in a bucket.
fn object(partition: Partition, name: &str) -> String {
    let fragment = fragment_name(partition);
    if name == ORIGIN { format!("{fragment}.json") } else { format!("{fragment}/{name}") }
}

/// The name of the object with a piece of a file.
fn piece_object(partition: Partition, file: &str, start: u64) -> String {
    format!("{}/{file}.{start}", object(partition, DATA))
}

/// Returns the partition in the name of a finished fragment.
fn partition_of(path: &Path) -> Option<Partition> {
    parse_name(path.file_name()?.to_str()?)
}

fn parse_name(name: &str) -> Option<Partition> {
    let (index, count) = name.split_once("-of-")?;
    Partition::new(index.parse().ok()?, count.parse().ok()?).ok()
}

/// Age below which a worker may not have taken a lock that it created.
const NEW_LOCK: Duration = Duration::from_secs(2);

/// Returns whether the lock of an unfinished fragment was created just now.
fn has_new_lock(path: &Path) -> bool {
    let created = fs::metadata(path.join("lock")).and_then(|lock| lock.modified());
    created.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < NEW_LOCK))
}

/// Returns whether no worker holds the lock of an unfinished fragment.
fn is_abandoned(path: &Path) -> bool {
    match fs::File::open(path.join("lock")) {
        Ok(lock) => lock.try_lock().is_ok(),
        // The worker was killed before creating the lock, or is about to create it.
        Err(_) => false,
    }
}
