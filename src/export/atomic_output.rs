//! Writes an output atomically: to a temporary file or directory next to OUT, locked while it is
//! written, which is then renamed to OUT.
//!
//! The temporary name is derived from OUT, so the next save to the same OUT finds what an
//! interrupted save left. A journal next to it records which parts are finished: if the next save
//! makes the same output from the same source, it continues from there.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::io::files;
use crate::export::disk::{
    exchange, is_still_at, open_temporary, refuse_link, remove, reserve, sync_directory, sync_tree,
    unfollowed,
};
use crate::export::error::SaveError;
use crate::export::journal::{self, EarlierSave, Journal, JournalIdentity};
use crate::export::output_path::{aside_name, journal_name, parent_of, temporary_name};
use crate::export::output_plan::{OutFile, OutputPlan};
use crate::export::request::Request;
use crate::failpoints::{Failpoint, reach};
use crate::path_error::IoContext;
use crate::text::figures;
use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

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

impl AtomicOutput {
    /// Creates the temporary output, with every planned file at its full length and its header
    /// written. Finished parts of an earlier, identical save are kept.
    pub fn create(
        checkpoint: &Checkpoint,
        request: &Request,
        output_plan: &OutputPlan,
    ) -> Result<AtomicOutput, SaveError> {
        let mut output = AtomicOutput::begin(&request.out, output_plan.directory)?;
        let is_continued = output.open_journal(checkpoint, output_plan)?;
        output.fill(output_plan, is_continued, &[])?;
        Ok(output)
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
        reach(Failpoint::Disk).and_then(|()| refuse_link(&path)).context(&path)?;
        let Some(identity) = JournalIdentity::new(checkpoint, output_plan) else {
            remove(&path).context(&path)?;
            return Ok(false);
        };
        let file = journal::open_file(unfollowed(&mut OpenOptions::new()), &path);
        let opened = file.and_then(|file| Journal::open(&path, &identity, file));
        let (journal, earlier) = opened.context(&path)?;
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
        let lock = loop {
            // An earlier save left a file where a directory is needed, or the reverse.
            if path.symlink_metadata().is_ok_and(|found| found.is_dir() != directory) {
                refuse_link(&path).and_then(|()| remove(&path)).context(&path)?;
            }
            let lock = open_temporary(&path, directory).context(&path)?;
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let why = "another save to this path is running".to_owned();
                    return Err(SaveError::Unfit { path: out, why });
                }
                Err(TryLockError::Error(e)) if e.kind() != io::ErrorKind::Unsupported => {
                    return Err(SaveError::Io { path, source: e });
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
                fs::create_dir_all(parent).context(parent)?;
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
            created.context(&path)?;
        }
        Ok(linked)
    }

    /// Removes what an interrupted save left in a directory, except files to keep.
    fn clear(
        &self,
        directory: &Path,
        is_kept: &dyn Fn(&Path, &fs::Metadata) -> bool,
    ) -> Result<(), SaveError> {
        for entry in fs::read_dir(directory).context(directory)? {
            let found = entry.context(directory)?.path();
            let metadata = found.symlink_metadata().context(&found)?;
            if metadata.is_dir() {
                self.clear(&found, is_kept)?;
                // Directories with kept files are not empty, so removing them fails.
                let _ = fs::remove_dir(&found);
            } else if !is_kept(&found, &metadata) {
                reach(Failpoint::Disk).and_then(|()| remove(&found)).context(&found)?;
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
        Ok(reach(Failpoint::Disk).and_then(|()| fs::write(&path, text)).context(&path)?)
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
        let mut from = files::open(source).context(source).map_err(SaveError::from)?;
        // Create a new file, so that the copy does not get the mode of a file in a cache.
        let created = to.parent().map_or(Ok(()), fs::create_dir_all);
        let created =
            created.and_then(|()| reach(Failpoint::Disk)).and_then(|()| File::create(&to));
        let mut file = created.context(&to).map_err(SaveError::from)?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(SaveError::Io { path: source.to_owned(), source: e }.into()),
            };
            let piece = buffer.get(..n).unwrap_or_default();
            let written = reach(Failpoint::Disk).and_then(|()| file.write_all(piece));
            written.context(&to).map_err(SaveError::from)?;
            copied(piece)?;
        }
    }

    /// Writes all data to the storage device.
    pub fn sync(&self) -> Result<(), SaveError> {
        Ok(sync_tree(&self.path).context(&self.path)?)
    }

    /// Replaces OUT by the output atomically.
    pub fn commit(mut self, force: bool) -> Result<(), SaveError> {
        let parent = parent_of(&self.out)?;
        let exists = self.out.symlink_metadata().is_ok();
        if exists && !force {
            return Err(SaveError::Exists(self.out.clone()));
        }
        let replaces = exists && self.directory;
        if replaces {
            let aside = parent.join(aside_name(&self.out));
            exchange(&self.path, &self.out, &aside).context(&self.out)?;
        } else {
            let renamed = reach(Failpoint::Disk).and_then(|()| fs::rename(&self.path, &self.out));
            renamed.context(&self.out)?;
        }
        self.on_drop = OnDrop::Nothing;
        sync_directory(&parent).context(&self.out)?;
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
