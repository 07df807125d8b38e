//! Writing checkpoints: what a request makes of every tensor, laid out before a byte is
//! written, streamed to a temporary file, made whole by one rename, and verified.

mod error;
mod receipt;
pub mod request;

pub use error::ExportError;
pub use receipt::{Comparison, Receipt};
pub use request::{OutputFormat, Request, Task};
