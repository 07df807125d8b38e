//! Hostile files, huge models, random actions and killed processes.

#[path = "../support/mod.rs"]
mod support;

mod flipped_bytes;
mod hostile_files;
mod huge_models;
mod kills;
mod mapped_read;
mod random_actions;
