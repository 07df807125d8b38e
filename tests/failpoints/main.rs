//! Saves during which the disk fails or a thread panics. A program of its own, because
//! failpoints are global to the process.

#[path = "../support/mod.rs"]
mod support;

mod saving;
