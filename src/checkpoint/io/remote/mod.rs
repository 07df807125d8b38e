//! Reads checkpoints over HTTP: repositories of the Hugging Face Hub, buckets of S3, and single
//! files.
//!
//! A remote file has a path that begins with `hf://`, `s3://`, `https://` or `http://`.
//! `crate::checkpoint::io::files` forwards such paths here; code above it does not distinguish
//! them. Nothing here knows a checkpoint format.

mod address;
mod blocks;
mod client;
mod error;
mod file;
mod hub;
mod hub_settings;
mod location;
mod s3;
mod s3_settings;
mod site;

pub(crate) use file::RemoteFile;
pub(crate) use site::{Entry, entry, names};
