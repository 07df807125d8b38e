//! Models on a server: the Hub's protocol, bounded requests, and servers that misbehave.

#[path = "../support/mod.rs"]
mod support;

mod errors;
mod reading;
mod saving;
mod server;
