//! Writes an output atomically: to a temporary file or directory next to OUT, locked while it is
//! written, which is then renamed to OUT.
//!
//! The temporary name is derived from OUT, so the next save to the same OUT finds what an
//! interrupted save left. A journal next to it records which parts are finished: if the next save
//! makes the same output from the same source, it continues from there.

use crate::checkpoint::io::files;
use crate::checkpoint::io::remote_path::is_remote;
use crate::checkpoint::{Checkpoint, has_model};
use crate::export::error::SaveError;
use crate::export::journal::{self, EarlierSave, Journal, JournalIdentity};
use crate::export::output_plan::{OutFile, OutputPlan};
use crate::export::request::Request;
use crate::failpoints::{Failpoint, reach};
use crate::text::figures;
use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};

/// Suffix of temporary files and directories.
pub(super) const SUFFIX: &str = ".quantscope-tmp";

/// Buffer size for copying files.
const COPY_BYTES: usize = 1 << 20;

/// Minimum number of finished bytes for keeping an output from local files after a failure. Data
/// from a server is always kept.
const MIN_KEPT_BYTES: u64 = 64 << 20;

/// An output under construction. If it is dropped before [`AtomicOutput::commit`], it is removed,
/// or kept for the next save to the same path.
#[derive(Debug)]
pub struct AtomicOutput {
    out: PathBuf,
    path: PathBuf,
    directory: bool,
    /// What to do when the output is dropped.
    on_drop: OnDrop,
    journal: Option<Journal>,
    /// The reason why the journal of an earlier save was not used.
    unfit: Option<&'static str>,
    /// Holds the lock until the output is dropped.
    lock: File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnDrop {
    Remove,
    /// Keep the output if at least this many bytes are finished.
    KeepFrom(u64),
    Nothing,
}

/// An unfinished output that was kept for the next save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptOutput {
    /// Its temporary path.
    pub path: PathBuf,
    /// Number of finished bytes.
    pub bytes: u64,
}

impl fmt::Display for KeptOutput {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (bytes, path) = (figures::bytes(self.bytes), self.path.display());
        write!(
            f,
            "{bytes} are finished, and the same save resumes from there; to start over, delete {path}"
        )
    }
}

/// Checks the preconditions for writing an output of `needed` bytes.
pub fn check(checkpoint: &Checkpoint, request: &Request, needed: u64) -> Result<(), SaveError> {
    let out = &request.out;
    let parent = may_be_written(checkpoint, out)?;
    let fail = |source| SaveError::Io { path: out.clone(), source };
    put_back(&parent.join(aside_name(out)), out).map_err(fail)?;
    if out.symlink_metadata().is_ok() {
        if !request.force {
            return Err(SaveError::Exists(out.clone()));
        }
        may_be_replaced(request)?;
    }
    let unfinished = allocated_bytes(&parent.join(temporary_name(out)));
    let free = free_bytes(&parent).map_err(|source| SaveError::Io { path: parent, source })?;
    match free.map(|free| free.saturating_add(unfinished)) {
        Some(free) if free < needed => Err(SaveError::NoSpace { out: out.clone(), needed, free }),
        _ => Ok(()),
    }
}

/// Returns the directory of an output, if it may be written there.
pub(super) fn may_be_written(checkpoint: &Checkpoint, out: &Path) -> Result<PathBuf, SaveError> {
    let parent = parent_of(out)?;
    if is_part_of_source(checkpoint, out) {
        return Err(SaveError::IsSource(out.to_owned()));
    }
    if is_hub_cache(&parent) {
        let why = "is in a Hugging Face cache, which is never written; choose another path";
        return Err(SaveError::Unfit { path: out.to_owned(), why: why.to_owned() });
    }
    Ok(parent)
}

/// Checks that an existing OUT may be replaced. A directory must be that of a model, because all
/// its content is deleted.
fn may_be_replaced(request: &Request) -> Result<(), SaveError> {
    let out = &request.out;
    let unfit = |why: &str| Err(SaveError::Unfit { path: out.clone(), why: why.to_owned() });
    let wants_file = crate::export::request::is_single_file(out);
    let Ok(metadata) = fs::metadata(out) else { return Ok(()) };
    match (metadata.is_dir(), wants_file) {
        (true, true) => unfit("is a directory, but the output is a file; choose another path"),
        (false, false) => unfit(
            "is a file, but the output is a directory; choose another path, or one that ends in .safetensors",
        ),
        (false, true) => Ok(()),
        (true, false) => {
            let empty = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
            match empty || has_model(out) {
                true => Ok(()),
                false => unfit(
                    "is a directory that holds no model, and replacing it would delete everything in it; choose another path",
                ),
            }
        }
    }
}

fn parent_of(out: &Path) -> Result<PathBuf, SaveError> {
    if is_remote(out) {
        let why = "is an address; outputs are written to this machine, choose a path".to_owned();
        return Err(SaveError::Unfit { path: out.to_owned(), why });
    }
    let named = matches!(out.components().next_back(), Some(Component::Normal(_)));
    if !named {
        let why = "does not name a file or directory to be written".to_owned();
        return Err(SaveError::Unfit { path: out.to_owned(), why });
    }
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    match parent.is_dir() {
        true => Ok(parent),
        false => Err(SaveError::NoParent { out: out.to_owned(), parent }),
    }
}

/// Returns whether `out` is one of the checkpoint's files or a directory that contains them.
fn is_part_of_source(checkpoint: &Checkpoint, out: &Path) -> bool {
    let Ok(out) = out.canonicalize() else { return false };
    let sources = checkpoint.shards().iter().map(|s| s.source.path());
    sources
        .chain(checkpoint.directory())
        .filter_map(|path| Some((path.canonicalize().ok()?, std::path::absolute(path).ok()?)))
        .any(|(real, named)| real.starts_with(&out) || named.starts_with(&out))
}

/// Returns whether a directory belongs to a Hugging Face cache.
fn is_hub_cache(path: &Path) -> bool {
    let Ok(real) = path.canonicalize() else { return false };
    let names: Vec<_> = real.components().map(|c| c.as_os_str().to_string_lossy()).collect();
    names.windows(2).any(|pair| {
        pair[0].starts_with("models--") && ["snapshots", "blobs", "refs"].contains(&&*pair[1])
    })
}

/// Returns the free bytes in the file system of `path`; `None` on systems without this information.
fn free_bytes(path: &Path) -> io::Result<Option<u64>> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        Ok(None)
    }
}

/// Returns the disk space in bytes of an unfinished output, which the next save reuses or frees.
fn allocated_bytes(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    if metadata.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        return entries.map(|entry| allocated_bytes(&entry.path())).fold(0, u64::saturating_add);
    }
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::blocks(&metadata).saturating_mul(512);
    #[cfg(not(unix))]
    metadata.len()
}

impl AtomicOutput {
    /// Creates the temporary output, with every planned file at its full length and its header
    /// written. Finished parts of an earlier, identical save are kept.
    pub fn create(
        checkpoint: &Checkpoint,
        request: &Request,
        output_plan: &OutputPlan,
    ) -> Result<AtomicOutput, SaveError> {
        let mut staging = AtomicOutput::begin(&request.out, output_plan.directory)?;
        let is_continued = staging.open_journal(checkpoint, output_plan)?;
        staging.fill(output_plan, is_continued, &[])?;
        Ok(staging)
    }

    /// Like [`AtomicOutput::create`], without a journal. Files of a directory with a path in
    /// `links` become hard links to it if the file system supports them. Also returns which
    /// files did.
    pub fn create_with_links(
        request: &Request,
        output_plan: &OutputPlan,
        links: &[Option<PathBuf>],
    ) -> Result<(AtomicOutput, Vec<bool>), SaveError> {
        let output = AtomicOutput::begin(&request.out, output_plan.directory)?;
        let linked = output.fill(output_plan, false, links)?;
        Ok((output, linked))
    }

    /// Opens the journal. Returns whether the existing temporary output belongs to this save.
    fn open_journal(
        &mut self,
        checkpoint: &Checkpoint,
        output_plan: &OutputPlan,
    ) -> Result<bool, SaveError> {
        let path = self.journal_path();
        let fail = |source| SaveError::Io { path: path.clone(), source };
        reach(Failpoint::Disk).and_then(|()| refuse_link(&path)).map_err(fail)?;
        let Some(identity) = JournalIdentity::new(checkpoint, output_plan) else {
            remove(&path).map_err(fail)?;
            return Ok(false);
        };
        let file = journal::open_file(unfollowed(&mut OpenOptions::new()), &path);
        let opened = file.and_then(|file| Journal::open(&path, &identity, file));
        let (journal, earlier) = opened.map_err(fail)?;
        self.journal = Some(journal);
        self.on_drop = OnDrop::KeepFrom(if checkpoint.is_remote() { 1 } else { MIN_KEPT_BYTES });
        if let EarlierSave::Unfit(why) = earlier {
            self.unfit = Some(why);
        }
        Ok(earlier == EarlierSave::Continued)
    }

    fn journal_path(&self) -> PathBuf {
        self.path.with_file_name(journal_name(&self.out))
    }

    /// The journal of finished parts; `None` if the output cannot be continued.
    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// The reason why the output of an earlier save was not continued.
    pub(crate) fn unfit(&self) -> Option<&'static str> {
        self.unfit
    }

    /// Ends a failed output. `is_sound` says whether the finished parts are correct, so that
    /// another save may continue. Returns what was kept.
    pub(crate) fn abandon(mut self, is_sound: bool) -> Option<KeptOutput> {
        if !is_sound {
            self.on_drop = OnDrop::Remove;
        }
        self.kept()
    }

    /// Returns what will be kept when the output is dropped.
    fn kept(&self) -> Option<KeptOutput> {
        let OnDrop::KeepFrom(least) = self.on_drop else { return None };
        let bytes = self.journal.as_ref()?.finished_bytes();
        (bytes >= least).then(|| KeptOutput { path: self.path.clone(), bytes })
    }

    /// Opens the temporary output and locks it. It is empty, or left by an interrupted save.
    pub(super) fn begin(out: &Path, directory: bool) -> Result<AtomicOutput, SaveError> {
        let out = out.to_owned();
        let path = parent_of(&out)?.join(temporary_name(&out));
        let fail = |source| SaveError::Io { path: path.clone(), source };
        let lock = loop {
            // An earlier save left a file where a directory is needed, or the reverse.
            if path.symlink_metadata().is_ok_and(|found| found.is_dir() != directory) {
                refuse_link(&path).and_then(|()| remove(&path)).map_err(fail)?;
            }
            let lock = open_temporary(&path, directory).map_err(fail)?;
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let why = "another save to this path is running".to_owned();
                    return Err(SaveError::Unfit { path: out, why });
                }
                Err(TryLockError::Error(e)) if e.kind() != io::ErrorKind::Unsupported => {
                    return Err(fail(e));
                }
                // Another save may have renamed it between opening and locking.
                _ if is_still_at(&lock, &path) => break lock,
                _ => {}
            }
        };
        let (on_drop, journal, unfit) = (OnDrop::Remove, None, None);
        Ok(AtomicOutput { out, path, directory, on_drop, journal, unfit, lock })
    }

    /// Writes the whole output, if it is a file.
    pub(super) fn write(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        reach(Failpoint::Disk)?;
        self.lock.set_len(0)?;
        let mut out = BufWriter::new(&self.lock);
        write(&mut out)?;
        out.flush()
    }

    /// Creates the planned files. `is_continued` says whether existing ones may be kept. Returns
    /// which files became links.
    fn fill(
        &self,
        output_plan: &OutputPlan,
        is_continued: bool,
        links: &[Option<PathBuf>],
    ) -> Result<Vec<bool>, SaveError> {
        let fail = |path: &Path, source| SaveError::Io { path: path.to_owned(), source };
        let sizes: HashMap<PathBuf, u64> =
            output_plan.files.iter().map(|file| (self.path_of(file), file.size())).collect();
        let is_kept = |path: &Path, metadata: &fs::Metadata| {
            is_continued && metadata.is_file() && sizes.get(path) == Some(&metadata.len())
        };
        if self.directory {
            self.clear(&self.path, &is_kept)?;
        }
        let mut linked = vec![false; output_plan.files.len()];
        for (number, (file, linked)) in output_plan.files.iter().zip(&mut linked).enumerate() {
            let path = self.path_of(file);
            if let Some(parent) = path.parent().filter(|_| self.directory) {
                fs::create_dir_all(parent).map_err(|e| fail(parent, e))?;
            }
            let link = links.get(number).and_then(Option::as_ref).filter(|_| self.directory);
            if link.is_some_and(|from| fs::hard_link(from, &path).is_ok()) {
                *linked = true;
                continue;
            }
            let is_kept = path.symlink_metadata().is_ok_and(|found| is_kept(&path, &found));
            let mut options = OpenOptions::new();
            options.create(true).truncate(!is_kept).write(true);
            let created = reach(Failpoint::Disk).and_then(|()| {
                let mut handle = unfollowed(&mut options).open(&path)?;
                reserve(&handle, file.size())?;
                reach(Failpoint::Disk)?;
                handle.write_all(&file.head)
            });
            created.map_err(|e| fail(&path, e))?;
        }
        Ok(linked)
    }

    /// Removes what an interrupted save left in a directory, except files to keep.
    fn clear(
        &self,
        directory: &Path,
        is_kept: &dyn Fn(&Path, &fs::Metadata) -> bool,
    ) -> Result<(), SaveError> {
        let fail = |path: &Path, source| SaveError::Io { path: path.to_owned(), source };
        for entry in fs::read_dir(directory).map_err(|e| fail(directory, e))? {
            let found = entry.map_err(|e| fail(directory, e))?.path();
            let metadata = found.symlink_metadata().map_err(|e| fail(&found, e))?;
            if metadata.is_dir() {
                self.clear(&found, is_kept)?;
                // Directories with kept files are not empty, so removing them fails.
                let _ = fs::remove_dir(&found);
            } else if !is_kept(&found, &metadata) {
                reach(Failpoint::Disk)
                    .and_then(|()| remove(&found))
                    .map_err(|e| fail(&found, e))?;
            }
        }
        Ok(())
    }

    /// Temporary path of an output file.
    pub fn path_of(&self, file: &OutFile) -> PathBuf {
        if self.directory { self.path.join(&file.name) } else { self.path.clone() }
    }

    /// Temporary path of the output.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a small file into an output directory.
    pub fn write_text(&self, name: &str, text: &str) -> Result<(), SaveError> {
        let path = self.path.join(name);
        reach(Failpoint::Disk)
            .and_then(|()| fs::write(&path, text))
            .map_err(|source| SaveError::Io { path, source })
    }

    /// Copies a file into an output directory. `copied` is called with every piece and can stop the
    /// copy.
    pub fn copy<E: From<SaveError>>(
        &self,
        source: &Path,
        name: &Path,
        mut copied: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let to = self.path.join(name);
        let from_source = |e| SaveError::Io { path: source.to_owned(), source: e };
        let to_copy = |e| SaveError::Io { path: to.clone(), source: e };
        let mut from = files::open(source).map_err(from_source)?;
        // Create a new file, so that the copy does not get the mode of a file in a cache.
        let created = to.parent().map_or(Ok(()), fs::create_dir_all);
        let created =
            created.and_then(|()| reach(Failpoint::Disk)).and_then(|()| File::create(&to));
        let mut file = created.map_err(to_copy)?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(from_source(e).into()),
            };
            let piece = buffer.get(..n).unwrap_or_default();
            reach(Failpoint::Disk).and_then(|()| file.write_all(piece)).map_err(to_copy)?;
            copied(piece)?;
        }
    }

    /// Writes all data to the storage device.
    pub fn sync(&self) -> Result<(), SaveError> {
        let fail = |source| SaveError::Io { path: self.path.clone(), source };
        sync_tree(&self.path).map_err(fail)
    }

    /// Replaces OUT by the output atomically.
    pub fn commit(mut self, force: bool) -> Result<(), SaveError> {
        let fail = |source| SaveError::Io { path: self.out.clone(), source };
        let parent = parent_of(&self.out)?;
        let exists = self.out.symlink_metadata().is_ok();
        if exists && !force {
            return Err(SaveError::Exists(self.out.clone()));
        }
        let replaces = exists && self.directory;
        if replaces {
            let aside = parent.join(aside_name(&self.out));
            exchange(&self.path, &self.out, &aside).map_err(fail)?;
        } else {
            reach(Failpoint::Disk)
                .and_then(|()| fs::rename(&self.path, &self.out))
                .map_err(fail)?;
        }
        self.on_drop = OnDrop::Nothing;
        sync_directory(&parent).map_err(fail)?;
        // A journal that cannot be removed is replaced by the next save.
        let _ = reach(Failpoint::Disk).and_then(|()| remove(&self.journal_path()));
        if replaces {
            // The temporary name now refers to the old output. If removing it fails, the next save
            // does.
            let _ = reach(Failpoint::Disk).and_then(|()| remove(&self.path));
        }
        Ok(())
    }
}

impl Drop for AtomicOutput {
    fn drop(&mut self) {
        if self.on_drop != OnDrop::Nothing && self.kept().is_none() {
            // A failure cannot be handled here; the next save tries again.
            let _ = reach(Failpoint::Disk).and_then(|()| remove(&self.path));
            if self.journal.is_some() {
                let _ = reach(Failpoint::Disk).and_then(|()| remove(&self.journal_path()));
            }
        }
    }
}

/// Returns the temporary name of an output.
fn temporary_name(out: &Path) -> String {
    format!(".{}{SUFFIX}", out.file_name().unwrap_or_default().to_string_lossy())
}

/// Returns the name of an output's journal.
fn journal_name(out: &Path) -> String {
    format!(".{}.journal{SUFFIX}", out.file_name().unwrap_or_default().to_string_lossy())
}

/// Returns the name of the old directory while the new one takes its place, on systems that cannot
/// swap the two.
fn aside_name(out: &Path) -> String {
    format!(".{}.old{SUFFIX}", out.file_name().unwrap_or_default().to_string_lossy())
}

/// Recovers from a save that was killed while replacing OUT in two steps: puts the old OUT back, or
/// removes it if the new one is in place.
fn put_back(aside: &Path, out: &Path) -> io::Result<()> {
    match (aside.symlink_metadata(), out.symlink_metadata()) {
        (Err(_), _) => Ok(()),
        (Ok(_), Err(e)) if e.kind() == io::ErrorKind::NotFound => fs::rename(aside, out),
        (Ok(_), _) => remove(aside),
    }
}

/// Opens the temporary file or directory, creating it if necessary.
fn open_temporary(path: &Path, directory: bool) -> io::Result<File> {
    reach(Failpoint::Disk)?;
    if directory {
        match fs::create_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => refuse_link(path)?,
        }
        return unfollowed(OpenOptions::new().read(true)).open(path);
    }
    refuse_link(path)?;
    unfollowed(OpenOptions::new().create(true).truncate(false).write(true)).open(path)
}

/// Refuses to write through a link at the temporary name.
fn refuse_link(path: &Path) -> io::Result<()> {
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    #[cfg(unix)]
    let shared = metadata.is_file() && std::os::unix::fs::MetadataExt::nlink(&metadata) > 1;
    #[cfg(not(unix))]
    let shared = false;
    match metadata.is_symlink() || shared {
        true => Err(io::Error::other("is a link at the path of a temporary file; remove it")),
        false => Ok(()),
    }
}

/// Sets options that refuse to follow links, even if one was created after the check.
fn unfollowed(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    }
    options
}

/// Returns whether a path still refers to an open file.
fn is_still_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let (Ok(file), Ok(found)) = (file.metadata(), path.symlink_metadata()) else {
            return false;
        };
        (file.dev(), file.ino()) == (found.dev(), found.ino())
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Extends a file to its full length and allocates its blocks if the file system can, so that a
/// full disk is detected before the work.
fn reserve(file: &File, length: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if length > 0 {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        match fallocate(file, FallocateFlags::empty(), 0, length) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(e) => return Err(e.into()),
        }
    }
    file.set_len(length)
}

/// Swaps two directories atomically. On systems that cannot, moves the old one to `aside` first.
fn exchange(new: &Path, old: &Path, aside: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match swap(new, old) {
        Err(e) if e.kind() == io::ErrorKind::InvalidInput || is_unsupported(&e) => {}
        done => return done,
    }
    reach(Failpoint::Disk)?;
    fs::rename(old, aside)?;
    match reach(Failpoint::Disk).and_then(|()| fs::rename(new, old)) {
        Ok(()) => fs::rename(aside, new),
        Err(e) => {
            fs::rename(aside, old)?;
            Err(e)
        }
    }
}

#[cfg(target_os = "linux")]
fn swap(new: &Path, old: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    reach(Failpoint::Disk)?;
    Ok(renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE)?)
}

#[cfg(target_os = "linux")]
fn is_unsupported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::NOSYS, Errno::OPNOTSUPP].iter().any(|e| Some(e.raw_os_error()) == error.raw_os_error())
}

pub(super) fn sync_tree(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            sync_tree(&entry?.path())?;
        }
        return sync_directory(path);
    }
    reach(Failpoint::Disk)?;
    File::open(path)?.sync_all()
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    reach(Failpoint::Disk)?;
    #[cfg(unix)]
    File::open(path)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}
