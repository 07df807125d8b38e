//! The place where an output grows until it is whole: a temporary file or directory beside
//! OUT, locked while it is written, that becomes OUT by one rename.
//!
//! Its name is fixed by OUT's, so what a killed save left behind is found, and taken over,
//! by the next save to the same OUT.

use super::blueprint::{Blueprint, OutFile};
use super::error::ExportError;
use super::request::Request;
use crate::checkpoint::{Checkpoint, has_model};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

/// What ends the name of a temporary file or directory.
pub const SUFFIX: &str = ".quantscope-tmp";

/// An output under construction. Dropped before [`Staging::commit`], it leaves nothing.
#[derive(Debug)]
pub struct Staging {
    out: PathBuf,
    path: PathBuf,
    directory: bool,
    committed: bool,
    /// Holds the lock for as long as the output grows.
    _lock: File,
}

/// What must hold before anything is written.
pub fn check(checkpoint: &Checkpoint, request: &Request, needed: u64) -> Result<(), ExportError> {
    let out = &request.out;
    let parent = parent_of(out)?;
    if is_part_of_source(checkpoint, out) {
        return Err(ExportError::IsSource(out.clone()));
    }
    if out.symlink_metadata().is_ok() {
        if !request.force {
            return Err(ExportError::Exists(out.clone()));
        }
        may_be_replaced(request)?;
    }
    let free = free_bytes(&parent).map_err(|source| ExportError::Write { path: parent, source })?;
    match free {
        Some(free) if free < needed => Err(ExportError::NoSpace { out: out.clone(), needed, free }),
        _ => Ok(()),
    }
}

/// Replacing a file takes `force`; replacing a directory also takes that it is a model's,
/// for everything in it goes.
fn may_be_replaced(request: &Request) -> Result<(), ExportError> {
    let out = &request.out;
    let unfit = |why: &str| Err(ExportError::Unfit { path: out.clone(), why: why.to_owned() });
    let wants_file = super::request::is_single_file(out);
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

fn parent_of(out: &Path) -> Result<PathBuf, ExportError> {
    let named = matches!(out.components().next_back(), Some(Component::Normal(_)));
    if !named {
        let why = "does not name a file or directory to be written".to_owned();
        return Err(ExportError::Unfit { path: out.to_owned(), why });
    }
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    match parent.is_dir() {
        true => Ok(parent),
        false => Err(ExportError::NoParent { out: out.to_owned(), parent }),
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

impl Staging {
    /// Creates the temporary place, with every file of the blueprint at its full length
    /// and its opening bytes written.
    pub fn create(request: &Request, blueprint: &Blueprint) -> Result<Staging, ExportError> {
        let out = request.out.clone();
        let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = parent_of(&out)?.join(format!(".{name}{SUFFIX}"));
        let fail = |source| ExportError::Write { path: path.clone(), source };
        let lock = if blueprint.directory {
            match fs::create_dir(&path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(fail(e)),
                _ => {}
            }
            refuse_link(&path).and_then(|()| File::open(&path)).map_err(fail)?
        } else {
            refuse_link(&path).map_err(fail)?;
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true).open(&path).map_err(fail)?
        };
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let why = "another save to this path is under way".to_owned();
                return Err(ExportError::Unfit { path: out, why });
            }
            Err(TryLockError::Error(e)) if e.kind() != io::ErrorKind::Unsupported => {
                return Err(fail(e));
            }
            _ => {}
        }
        let directory = blueprint.directory;
        let staging = Staging { out, path, directory, committed: false, _lock: lock };
        staging.fill(blueprint)?;
        Ok(staging)
    }

    fn fill(&self, blueprint: &Blueprint) -> Result<(), ExportError> {
        let fail = |path: &Path, source| ExportError::Write { path: path.to_owned(), source };
        if self.directory {
            // A save that was killed may have left files here.
            for entry in fs::read_dir(&self.path).map_err(|e| fail(&self.path, e))? {
                let stale = entry.map_err(|e| fail(&self.path, e))?.path();
                remove(&stale).map_err(|e| fail(&stale, e))?;
            }
        }
        for file in &blueprint.files {
            let path = self.path_of(file);
            if let Some(parent) = path.parent().filter(|_| self.directory) {
                fs::create_dir_all(parent).map_err(|e| fail(parent, e))?;
            }
            let mut options = OpenOptions::new();
            let handle = options.create(true).truncate(true).write(true).open(&path);
            let created = handle.and_then(|mut handle| {
                reserve(&handle, file.size())?;
                handle.write_all(&file.head)
            });
            created.map_err(|e| fail(&path, e))?;
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
    pub fn write_text(&self, name: &str, text: &str) -> Result<(), ExportError> {
        let path = self.path.join(name);
        fs::write(&path, text).map_err(|source| ExportError::Write { path, source })
    }

    /// Copies a file that goes along.
    pub fn copy(&self, source: &Path, name: &Path) -> Result<(), ExportError> {
        let to = self.path.join(name);
        let copied = to.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
            let mut from = File::open(source)?;
            // A plain create: the copy has the modes of a new file, not of a cache's.
            let mut file = File::create(&to)?;
            io::copy(&mut from, &mut file)
        });
        copied.map(|_| ()).map_err(|e| ExportError::Write { path: source.to_owned(), source: e })
    }

    /// Puts everything on the disk itself.
    pub fn sync(&self) -> Result<(), ExportError> {
        let fail = |source| ExportError::Write { path: self.path.clone(), source };
        sync_tree(&self.path).map_err(fail)
    }

    /// Makes the output what OUT is, in one step.
    pub fn commit(mut self, force: bool) -> Result<(), ExportError> {
        let fail = |source| ExportError::Write { path: self.out.clone(), source };
        let exists = self.out.symlink_metadata().is_ok();
        if exists && !force {
            return Err(ExportError::Exists(self.out.clone()));
        }
        if exists && self.directory {
            exchange(&self.path, &self.out).map_err(fail)?;
            // What the temporary name holds now is the old output.
            self.committed = true;
            remove(&self.path)
                .map_err(|source| ExportError::Write { path: self.path.clone(), source })?;
        } else {
            fs::rename(&self.path, &self.out).map_err(fail)?;
            self.committed = true;
        }
        sync_directory(&parent_of(&self.out)?).map_err(fail)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing more can be done about a failure here; the next save tries again.
            let _ = remove(&self.path);
        }
    }
}

/// A temporary name that someone made a link must not be written through.
fn refuse_link(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => {
            Err(io::Error::other("is a symbolic link where a temporary file is to be; remove it"))
        }
        _ => Ok(()),
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

/// Swaps two directories in one step; where the system cannot, in two.
fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
            Ok(()) => return Ok(()),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let aside = new.with_extension("old");
    fs::rename(old, &aside)?;
    match fs::rename(new, old) {
        Ok(()) => fs::rename(&aside, new),
        Err(e) => {
            fs::rename(&aside, old)?;
            Err(e)
        }
    }
}

fn sync_tree(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            sync_tree(&entry?.path())?;
        }
        return sync_directory(path);
    }
    File::open(path)?.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(path)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}
