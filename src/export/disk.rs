//! File-system operations of atomic outputs.

use crate::failpoints::{Failpoint, reach};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

/// Returns the free bytes in the file system of `path`; `None` on systems without this information.
pub(super) fn free_bytes(path: &Path) -> io::Result<Option<u64>> {
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
pub(super) fn allocated_bytes(path: &Path) -> u64 {
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

/// Opens the temporary file or directory, creating it if necessary.
pub(super) fn open_temporary(path: &Path, directory: bool) -> io::Result<File> {
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
pub(super) fn refuse_link(path: &Path) -> io::Result<()> {
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    #[cfg(unix)]
    let shared = metadata.is_file() && std::os::unix::fs::MetadataExt::nlink(&metadata) > 1;
    #[cfg(not(unix))]
    let shared = false;
    if metadata.is_symlink() || shared {
        Err(io::Error::other("is a link at the path of a temporary file; remove it"))
    } else {
        Ok(())
    }
}

/// Sets options that refuse to follow links, even if one was created after the check.
pub(super) fn unfollowed(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    }
    options
}

/// Returns whether a path still refers to an open file.
pub(super) fn is_still_at(file: &File, path: &Path) -> bool {
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

/// Removes a file or directory, if there is one.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Extends a file to its full length and allocates its blocks if the file system can, so that a
/// full disk is detected before the work.
pub(super) fn reserve(file: &File, length: u64) -> io::Result<()> {
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
pub(super) fn exchange(new: &Path, old: &Path, aside: &Path) -> io::Result<()> {
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

/// Writes the data of a file, or of a directory and all it contains, to the storage device.
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

/// Writes the entries of a directory to the storage device, on systems where that is possible.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    reach(Failpoint::Disk)?;
    #[cfg(unix)]
    File::open(path)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}
