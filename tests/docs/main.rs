//! The README and the manual: their commands run, their links and options exist, every page is
//! reachable.

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod help;
mod markdown;
mod readme;
