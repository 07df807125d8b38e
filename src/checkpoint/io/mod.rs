//! Where bytes come from: files read or mapped, and memory. Nothing here knows a format.

pub(crate) mod cursor;
pub(crate) mod file_system;
pub(crate) mod inflate;
#[cfg_attr(not(target_os = "linux"), path = "mmap_fallback.rs")]
mod mapped_read;
pub(crate) mod source;
