//! The real binary on a real pseudo-terminal.

#[path = "../support/session.rs"]
mod session;

mod real_terminal;
mod restored;
