//! What kind of file system a file is on, as far as it decides what can be done with it.

use std::fs::File;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    Btrfs,
    /// Ext2, 3 and 4.
    Ext,
    F2fs,
    Overlay,
    Tmpfs,
    Xfs,
    Other,
}

impl FileSystem {
    /// By its magic number (`linux/magic.h`). That of other systems is not asked for.
    #[cfg(target_os = "linux")]
    pub fn of(file: &File) -> FileSystem {
        /// The number's width and sign differ between architectures.
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

    #[cfg(not(target_os = "linux"))]
    pub fn of(_: &File) -> FileSystem {
        FileSystem::Other
    }

    /// Whether files can have blocks in common. Others copy what is to be shared, which is slower
    /// than to read and to write it on several threads (measured on ext4).
    pub fn shares_blocks(self) -> bool {
        matches!(self, FileSystem::Btrfs | FileSystem::Xfs)
    }

    /// Whether all who could write to a file do so through this system. A file in a network
    /// has others, and so may one that a process provides.
    pub fn is_local(self) -> bool {
        self != FileSystem::Other
    }
}
