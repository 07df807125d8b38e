//! The manual: one Markdown page per topic.
//!
//! The pages are part of the program, so that `quantscope help TOPIC` needs no file beside it, and
//! part of this documentation: each page is a module below. A page is one file and one line in
//! `topics.rs`. `cli` shows the pages; nothing else may import this folder, and it imports nothing.

mod topics;

pub use topics::*;
