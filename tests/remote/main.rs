//! Models on a server: the Hub's protocol, bounded requests, and servers that misbehave.

#[path = "../support/mod.rs"]
mod support;

#[cfg(unix)]
#[allow(dead_code, reason = "signals are sent by another test program")]
#[path = "../support/session.rs"]
mod session;

mod bucket;
mod errors;
mod formats;
mod proxies;
mod reading;
mod resuming;
mod s3;
mod sampling;
mod saving;
mod screen;
mod secrets;
mod server;
mod shares;
