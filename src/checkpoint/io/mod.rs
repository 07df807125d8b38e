//! Reads bytes from files (by `read` or mapped), servers and memory. Knows nothing about formats.

pub(crate) mod cursor;
pub(crate) mod file_system;
pub(crate) mod files;
pub(crate) mod inflate;
#[cfg_attr(not(target_os = "linux"), path = "mmap_fallback.rs")]
mod mapped_read;
#[cfg_attr(not(feature = "remote"), path = "no_remote.rs")]
pub(crate) mod remote;
pub(crate) mod remote_path;
pub(crate) mod source;
