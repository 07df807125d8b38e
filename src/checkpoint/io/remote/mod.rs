//! Reads checkpoints over HTTP: repositories of the Hugging Face Hub, buckets of S3, and single
//! files. Writes the shares and outputs of several machines to buckets.
//!
//! A remote file has a path that begins with `hf://`, `s3://`, `https://` or `http://`.
//! `crate::checkpoint::io::files` forwards such paths here; code above it does not distinguish
//! them. Nothing here knows a checkpoint format.

mod address;
mod blocks;
mod bucket_directory;
mod client;
mod error;
mod file;
mod hub;
mod hub_settings;
mod location;
mod s3;
mod s3_settings;
mod site;

pub(crate) use bucket_directory::BucketDirectory;
pub(crate) use file::RemoteFile;
pub(crate) use site::{Entry, entry, forget_bucket, names};
