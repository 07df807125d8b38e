//! Stands in for `remote` in a build without the feature `remote`.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file on a server. Never constructed in this build.
#[derive(Debug)]
pub(crate) enum RemoteFile {}

impl RemoteFile {
    pub(crate) fn size(&self) -> u64 {
        match *self {}
    }

    pub(crate) fn identity(&self) -> Option<String> {
        match *self {}
    }

    pub(crate) fn read_exact(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        match *self {}
    }

    pub(crate) fn read_direct(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        match *self {}
    }
}

/// What is at a remote path.
#[allow(dead_code, reason = "constructed only with the feature 'remote'")]
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    File(Arc<RemoteFile>),
    Directory,
    Cached(PathBuf),
}

fn absent() -> io::Error {
    io::Error::other(
        "this program was built without the feature 'remote'; download the file, then open it",
    )
}

pub(crate) fn entry(_: &Path) -> io::Result<Entry> {
    Err(absent())
}

pub(crate) fn names(_: &Path) -> io::Result<BTreeMap<String, bool>> {
    Err(absent())
}

/// Does nothing: this build reads no buckets.
pub(crate) fn forget_bucket(_: &Path) {}

/// A directory in a bucket. This build reaches none, so every request fails.
#[derive(Debug)]
pub(crate) struct BucketDirectory(());

impl BucketDirectory {
    pub(crate) fn new(_: &Path) -> io::Result<BucketDirectory> {
        Err(absent())
    }

    pub(crate) fn names(&self, _: &str) -> io::Result<(Vec<String>, Vec<String>)> {
        Err(absent())
    }

    pub(crate) fn read(&self, _: &str, _: u64) -> io::Result<Vec<u8>> {
        Err(absent())
    }

    pub(crate) fn write(&self, _: &str, _: &[u8]) -> io::Result<()> {
        Err(absent())
    }

    pub(crate) fn upload(&self, _: &str, _: u64) -> Upload {
        Upload
    }

    pub(crate) fn write_ranges(&self, _: &[(String, PathBuf, Range<u64>)]) -> io::Result<()> {
        Err(absent())
    }

    pub(crate) fn remove_all(&self) -> io::Result<()> {
        Err(absent())
    }
}

/// An object that is being written.
#[derive(Debug)]
pub(crate) struct Upload;

impl Upload {
    pub(crate) fn write(&mut self, _: &[u8]) -> io::Result<()> {
        Err(absent())
    }

    pub(crate) fn finish(self) -> io::Result<()> {
        Err(absent())
    }
}
