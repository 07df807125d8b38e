//! Where bytes come from: files read or mapped, and memory. Nothing here knows a format.

pub mod cursor;
pub mod file_system;
pub mod inflate;
#[cfg_attr(not(target_os = "linux"), path = "mmap_fallback.rs")]
mod mapped_read;
pub mod source;
