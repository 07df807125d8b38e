//! The place where an output grows until it is whole: a temporary file or directory beside
//! OUT, locked while it is written, that becomes OUT by one rename.
//!
//! Its name is fixed by OUT's, so what a save left behind that was cut off is found by the next
//! save to the same OUT. A journal beside it tells what of it is whole: if the next save makes
//! the same output from the same source, it goes on from there.

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

/// What ends the name of a temporary file or directory.
pub(super) const SUFFIX: &str = ".quantscope-tmp";

/// Bytes of a copied file that are read and written at a time.
const COPY_BYTES: usize = 1 << 20;

/// Finished bytes of an output from local files that are worth keeping after a failure. What
/// was fetched from a server is kept in any case.
const KEPT_BYTES: u64 = 64 << 20;

/// An output under construction. Dropped before [`AtomicOutput::commit`], it leaves nothing, or
/// what the next save to the same path goes on from.
#[derive(Debug)]
pub struct AtomicOutput {
    out: PathBuf,
    path: PathBuf,
    directory: bool,
    /// What happens when the output is dropped.
    on_drop: OnDrop,
    journal: Option<Journal>,
    /// Why the journal of an earlier save was not used.
    unfit: Option<&'static str>,
    /// Holds the lock for as long as the output grows.
    lock: File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnDrop {
    Remove,
    /// Keep the output if this many bytes of it are finished.
    KeepFrom(u64),
    Nothing,
}

/// An unfinished output that was left in place, for the next save to go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptOutput {
    pub path: PathBuf,
    /// Bytes that are finished.
    pub bytes: u64,
}

impl fmt::Display for KeptOutput {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (bytes, path) = (figures::bytes(self.bytes), self.path.display());
        write!(
            f,
            "{bytes} are finished, and the same save goes on from there; to start over, delete {path}"
        )
    }
}

/// What must hold before anything is written.
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

/// Gives the directory that an output goes to, if it may be written there at all.
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

/// Replacing a file takes `force`; replacing a directory also takes that it is a model's,
/// for everything in it goes.
fn may_be_replaced(request: &Request) -> Result<(), SaveError> {
    let out = &request.out;
    let unfit = |why: &str| Err(SaveError::Unfit { path: out.clone(), why: why.to_owned() });
    let wants_file = crate::export::request::is_single_file(out);
    let Ok(metadata) = fs::metadata(out) else { return Ok(()) };
    match (metadata.is_dir(), wants_file) {
        (true, true) => {
            unfit("is a directory, and the output is to be a file; choose another path")
        }
        (false, false) => unfit(
            "is a file, and the output is to be a directory; choose another path, or one that ends in .safetensors",
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

/// Whether writing `out` would write one of the checkpoint's files, or a directory that
/// holds them.
fn is_part_of_source(checkpoint: &Checkpoint, out: &Path) -> bool {
    let Ok(out) = out.canonicalize() else { return false };
    let sources = checkpoint.shards().iter().map(|s| s.source.path());
    sources
        .chain(checkpoint.directory())
        .filter_map(|path| Some((path.canonicalize().ok()?, std::path::absolute(path).ok()?)))
        .any(|(real, named)| real.starts_with(&out) || named.starts_with(&out))
}

/// Whether a directory belongs to what Hugging Face's hub downloaded.
fn is_hub_cache(path: &Path) -> bool {
    let Ok(real) = path.canonicalize() else { return false };
    let names: Vec<_> = real.components().map(|c| c.as_os_str().to_string_lossy()).collect();
    names.windows(2).any(|pair| {
        pair[0].starts_with("models--") && ["snapshots", "blobs", "refs"].contains(&&*pair[1])
    })
}

/// Free bytes for the file system of `path`, where the system tells.
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

/// Bytes on the disk that an unfinished output takes, which the next save takes over or frees.
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
    /// Creates the temporary place, with every file of the output_plan at its full length
    /// and its opening bytes written. What an earlier save of the same output left is kept; see
    /// [`AtomicOutput::journal`].
    pub fn create(
        checkpoint: &Checkpoint,
        request: &Request,
        output_plan: &OutputPlan,
    ) -> Result<AtomicOutput, SaveError> {
        let mut staging = AtomicOutput::begin(&request.out, output_plan.directory)?;
        let is_continued = staging.open_journal(checkpoint, output_plan)?;
        staging.fill(output_plan, is_continued)?;
        Ok(staging)
    }

    /// Opens the journal. Returns whether what is in the temporary place belongs to this output.
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
        self.on_drop = OnDrop::KeepFrom(if checkpoint.is_remote() { 1 } else { KEPT_BYTES });
        if let EarlierSave::Unfit(why) = earlier {
            self.unfit = Some(why);
        }
        Ok(earlier == EarlierSave::Continued)
    }

    fn journal_path(&self) -> PathBuf {
        self.path.with_file_name(journal_name(&self.out))
    }

    /// The journal of what is finished; `None` if the output cannot be continued.
    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// Why what an earlier save left at the same place was not used.
    pub(crate) fn unfit(&self) -> Option<&'static str> {
        self.unfit
    }

    /// Ends an output that failed. `is_sound`: whether what is finished is right, so that another
    /// save may go on from it. Returns what was kept.
    pub(crate) fn abandon(mut self, is_sound: bool) -> Option<KeptOutput> {
        if !is_sound {
            self.on_drop = OnDrop::Remove;
        }
        self.kept()
    }

    /// What will be kept when the output is dropped.
    fn kept(&self) -> Option<KeptOutput> {
        let OnDrop::KeepFrom(least) = self.on_drop else { return None };
        let bytes = self.journal.as_ref()?.finished_bytes();
        (bytes >= least).then(|| KeptOutput { path: self.path.clone(), bytes })
    }

    /// Takes the temporary place, empty or with what a save that was killed left in it.
    pub(super) fn begin(out: &Path, directory: bool) -> Result<AtomicOutput, SaveError> {
        let out = out.to_owned();
        let path = parent_of(&out)?.join(temporary_name(&out));
        let fail = |source| SaveError::Io { path: path.clone(), source };
        let lock = loop {
            // What a save of the other kind left under this name.
            if path.symlink_metadata().is_ok_and(|found| found.is_dir() != directory) {
                refuse_link(&path).and_then(|()| remove(&path)).map_err(fail)?;
            }
            let lock = open_temporary(&path, directory).map_err(fail)?;
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let why = "another save to this path is under way".to_owned();
                    return Err(SaveError::Unfit { path: out, why });
                }
                Err(TryLockError::Error(e)) if e.kind() != io::ErrorKind::Unsupported => {
                    return Err(fail(e));
                }
                // Another save may have put it in place between opening and locking it.
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

    /// `is_continued`: whether the files of the plan that are there may be kept.
    fn fill(&self, output_plan: &OutputPlan, is_continued: bool) -> Result<(), SaveError> {
        let fail = |path: &Path, source| SaveError::Io { path: path.to_owned(), source };
        let sizes: HashMap<PathBuf, u64> =
            output_plan.files.iter().map(|file| (self.path_of(file), file.size())).collect();
        let is_kept = |path: &Path, metadata: &fs::Metadata| {
            is_continued && metadata.is_file() && sizes.get(path) == Some(&metadata.len())
        };
        if self.directory {
            self.clear(&self.path, &is_kept)?;
        }
        for file in &output_plan.files {
            let path = self.path_of(file);
            if let Some(parent) = path.parent().filter(|_| self.directory) {
                fs::create_dir_all(parent).map_err(|e| fail(parent, e))?;
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
        Ok(())
    }

    /// Removes what a save that was cut off has left in a directory, but for files that are kept.
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
                // Directories with kept files are not empty.
                let _ = fs::remove_dir(&found);
            } else if !is_kept(&found, &metadata) {
                reach(Failpoint::Disk)
                    .and_then(|()| remove(&found))
                    .map_err(|e| fail(&found, e))?;
            }
        }
        Ok(())
    }

    /// Where an output file grows.
    pub fn path_of(&self, file: &OutFile) -> PathBuf {
        if self.directory { self.path.join(&file.name) } else { self.path.clone() }
    }

    /// Where the whole output grows.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a small file of a directory.
    pub fn write_text(&self, name: &str, text: &str) -> Result<(), SaveError> {
        let path = self.path.join(name);
        reach(Failpoint::Disk)
            .and_then(|()| fs::write(&path, text))
            .map_err(|source| SaveError::Io { path, source })
    }

    /// Copies a file that goes along; `copied` is given every piece and can end it.
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
        // A plain create: the copy has the modes of a new file, not of a cache's.
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

    /// Puts everything on the disk itself.
    pub fn sync(&self) -> Result<(), SaveError> {
        let fail = |source| SaveError::Io { path: self.path.clone(), source };
        sync_tree(&self.path).map_err(fail)
    }

    /// Makes the output what OUT is, in one step.
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
        // One that stays is of no use to another save, and is replaced by it.
        let _ = reach(Failpoint::Disk).and_then(|()| remove(&self.journal_path()));
        if replaces {
            // What the temporary name holds now is the old output. The new one is in place:
            // what is left of the old one if this fails, the next save takes away.
            let _ = reach(Failpoint::Disk).and_then(|()| remove(&self.path));
        }
        Ok(())
    }
}

impl Drop for AtomicOutput {
    fn drop(&mut self) {
        if self.on_drop != OnDrop::Nothing && self.kept().is_none() {
            // Nothing more can be done about a failure here; the next save tries again.
            let _ = reach(Failpoint::Disk).and_then(|()| remove(&self.path));
            if self.journal.is_some() {
                let _ = reach(Failpoint::Disk).and_then(|()| remove(&self.journal_path()));
            }
        }
    }
}

/// The name under which an output grows.
fn temporary_name(out: &Path) -> String {
    format!(".{}{SUFFIX}", out.file_name().unwrap_or_default().to_string_lossy())
}

/// The name of the journal of an output that grows.
fn journal_name(out: &Path) -> String {
    format!(".{}.journal{SUFFIX}", out.file_name().unwrap_or_default().to_string_lossy())
}

/// The name of an old directory for the moment in which the new one takes its place, where
/// the system cannot swap the two.
fn aside_name(out: &Path) -> String {
    format!(".{}.old{SUFFIX}", out.file_name().unwrap_or_default().to_string_lossy())
}

/// Undoes what a save left that was killed between setting the old OUT aside and putting the
/// new one in its place; takes the old one away if it was killed just after.
fn put_back(aside: &Path, out: &Path) -> io::Result<()> {
    match (aside.symlink_metadata(), out.symlink_metadata()) {
        (Err(_), _) => Ok(()),
        (Ok(_), Err(e)) if e.kind() == io::ErrorKind::NotFound => fs::rename(aside, out),
        (Ok(_), _) => remove(aside),
    }
}

/// Opens the file or directory in which an output is to grow, made if it is not there.
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

/// A temporary name that someone made a link must not be written through.
fn refuse_link(path: &Path) -> io::Result<()> {
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    #[cfg(unix)]
    let shared = metadata.is_file() && std::os::unix::fs::MetadataExt::nlink(&metadata) > 1;
    #[cfg(not(unix))]
    let shared = false;
    match metadata.is_symlink() || shared {
        true => Err(io::Error::other("is a link where a temporary file is to be; remove it")),
        false => Ok(()),
    }
}

/// With these options a link is not opened, whoever put it there at the last moment.
fn unfollowed(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    }
    options
}

/// Whether a path still leads to an open file.
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

/// Gives a file its full length, its blocks too where the file system can, so that a full
/// disk is met before the work and not after.
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

/// Swaps two directories in one step; where the system cannot, in two, with `aside` as the
/// place of the old one in between.
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

fn sync_tree(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            sync_tree(&entry?.path())?;
        }
        return sync_directory(path);
    }
    reach(Failpoint::Disk)?;
    File::open(path)?.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    reach(Failpoint::Disk)?;
    #[cfg(unix)]
    File::open(path)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}
