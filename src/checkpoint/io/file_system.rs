//! Detects the file system of a file, to decide whether leases and reflinks can be used.

use std::fs::File;

/// A file system type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// Btrfs.
    Btrfs,
    /// Ext2, ext3 and ext4.
    Ext,
    /// F2FS.
    F2fs,
    /// OverlayFS.
    Overlay,
    /// tmpfs.
    Tmpfs,
    /// XFS.
    Xfs,
    /// Any other, or unknown.
    Other,
}

impl FileSystem {
    /// Detects the file system by its magic number (`linux/magic.h`). Returns `Other` on other
    /// systems than Linux.
    #[cfg(target_os = "linux")]
    pub fn of(file: &File) -> FileSystem {
        /// The width and sign of the field differ between architectures.
        fn low_half(number: impl TryInto<i64>) -> i64 {
            number.try_into().unwrap_or(0) & 0xFFFF_FFFF
        }
        match rustix::fs::fstatfs(file).map(|found| low_half(found.f_type)) {
            Ok(0x9123_683E) => FileSystem::Btrfs,
            Ok(0xEF53) => FileSystem::Ext,
            Ok(0xF2F5_2010) => FileSystem::F2fs,
            Ok(0x794C_7630) => FileSystem::Overlay,
            Ok(0x0102_1994) => FileSystem::Tmpfs,
            Ok(0x5846_5342) => FileSystem::Xfs,
            _ => FileSystem::Other,
        }
    }

    /// Returns `Other`.
    #[cfg(not(target_os = "linux"))]
    pub fn of(_: &File) -> FileSystem {
        FileSystem::Other
    }

    /// Returns whether files can share blocks (reflinks). On other file systems `copy_file_range`
    /// copies, which is slower than reading and writing on several threads (measured on ext4).
    pub fn shares_blocks(self) -> bool {
        matches!(self, FileSystem::Btrfs | FileSystem::Xfs)
    }

    /// Returns whether every write goes through this machine's kernel. Not so for network file
    /// systems and possibly for FUSE.
    pub fn is_local(self) -> bool {
        self != FileSystem::Other
    }
}
