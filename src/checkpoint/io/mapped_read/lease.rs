//! Leases on files: the system's word that nobody writes to one.

use crate::checkpoint::FileSystem;
use std::fs::File;
use std::os::fd::AsRawFd;

/// Sets the signal that tells of somebody who waits for the end of a lease (`fcntl.h`).
const F_SETSIG: libc::c_int = 10;

/// While it is held nobody has the file open for writing, and nobody opens it so or cuts it
/// off: whoever tries waits until it is given back. A process that holds one for longer than
/// `/proc/sys/fs/lease-break-time`, 45 seconds unless set, loses it.
#[derive(Debug)]
pub(super) struct Lease<'f> {
    file: &'f File,
    is_given_back: bool,
}

/// Whether leases on the file bind everybody who could write to it.
pub(super) fn bind_everybody(file: &File) -> bool {
    FileSystem::of(file).is_local()
}

impl<'f> Lease<'f> {
    /// `None` where the file is open for writing, belongs to somebody else, or has no leases.
    /// Only for a file whose leases [`bind_everybody`].
    pub(super) fn take(file: &'f File) -> Option<Self> {
        // A process that does not ask for this signal ignores it; the one sent otherwise ends it.
        // With each lease that ends the system forgets which it was to be.
        let is_taken =
            control(file, F_SETSIG, libc::SIGURG) && control(file, libc::F_SETLEASE, libc::F_RDLCK);
        is_taken.then(|| Lease::of(file))
    }

    /// One that was taken.
    pub(crate) fn of(file: &'f File) -> Self {
        Lease { file, is_given_back: false }
    }

    #[cfg(test)]
    pub(super) fn file(&self) -> &'f File {
        self.file
    }

    /// Whether it was held to the end.
    pub(super) fn give_back(mut self) -> bool {
        self.is_given_back = true;
        control(self.file, libc::F_SETLEASE, libc::F_UNLCK)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if !self.is_given_back {
            control(self.file, libc::F_SETLEASE, libc::F_UNLCK);
        }
    }
}

/// Whether the system does what is asked.
fn control(file: &File, command: libc::c_int, argument: libc::c_int) -> bool {
    // SAFETY: the commands of this module take one number and touch no memory.
    unsafe { libc::fcntl(file.as_raw_fd(), command, argument) == 0 }
}
