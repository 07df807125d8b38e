//! File leases (`fcntl(2)`): while one is held, no process writes to the file.

use crate::checkpoint::FileSystem;
use std::fs::File;
use std::os::fd::AsRawFd;

/// Sets the signal sent when somebody waits for the lease to end (`fcntl.h`).
const F_SETSIG: libc::c_int = 10;

/// A read lease on a file, released on drop.
///
/// While it is held, no process has the file open for writing. A process that opens it for
/// writing or truncates it waits until the lease is released. If the holder takes longer than
/// `/proc/sys/fs/lease-break-time` (45 seconds by default) to release it, the system revokes it.
#[derive(Debug)]
pub(super) struct Lease<'f> {
    file: &'f File,
    is_released: bool,
}

/// Returns whether a lease on the file binds everybody who could write to it.
pub(super) fn binds_all_writers(file: &File) -> bool {
    FileSystem::of(file).is_local()
}

impl<'f> Lease<'f> {
    /// Takes a lease. Returns `None` if the file is open for writing, belongs to another user or is
    /// on a file system without leases. Only call it for a file for which [`binds_all_writers`]
    /// holds.
    pub(super) fn take(file: &'f File) -> Option<Self> {
        // The default signal (SIGIO) would end the process; SIGURG is ignored by default. The
        // system forgets the setting when a lease ends, so it is set each time.
        let is_taken =
            control(file, F_SETSIG, libc::SIGURG) && control(file, libc::F_SETLEASE, libc::F_RDLCK);
        is_taken.then(|| Lease::held(file))
    }

    /// Wraps a lease that is already held.
    pub(crate) fn held(file: &'f File) -> Self {
        Lease { file, is_released: false }
    }

    #[cfg(test)]
    pub(super) fn file(&self) -> &'f File {
        self.file
    }

    /// Releases the lease. Returns whether it was held until now.
    pub(super) fn release(mut self) -> bool {
        self.is_released = true;
        control(self.file, libc::F_SETLEASE, libc::F_UNLCK)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if !self.is_released {
            control(self.file, libc::F_SETLEASE, libc::F_UNLCK);
        }
    }
}

/// Calls `fcntl`; returns whether it succeeded.
fn control(file: &File, command: libc::c_int, argument: libc::c_int) -> bool {
    // SAFETY: the commands used in this module take one number and do not access memory.
    unsafe { libc::fcntl(file.as_raw_fd(), command, argument) == 0 }
}
