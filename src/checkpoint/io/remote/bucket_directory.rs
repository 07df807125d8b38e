//! Lists, reads and writes the objects below a prefix of a bucket. Nothing is remembered between
//! requests, unlike for the files of models.

use crate::checkpoint::io::remote::address::Address;
use crate::checkpoint::io::remote::client::{self, FinalResponse, Request};
use crate::checkpoint::io::remote::error::RemoteError;
use crate::checkpoint::io::remote::s3::Bucket;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Size of the parts of a large object in bytes. Every part but the last must have the same size
/// on some servers, and at least 5 MiB on all.
const PART_BYTES: u64 = 64 << 20;

/// The largest number of parts of an object. S3 allows 10,000.
const MAX_PARTS: u64 = 9_000;

/// Number of requests that are sent at a time.
const CONNECTIONS: usize = 4;

/// A directory in a bucket.
#[derive(Debug)]
pub(crate) struct BucketDirectory {
    bucket: Bucket,
    /// The directory's key with a slash at the end; empty for the whole bucket.
    prefix: String,
}

/// The names of the objects and of the directories in a directory.
pub(crate) type Names = (Vec<String>, Vec<String>);

impl BucketDirectory {
    /// Returns the directory at `s3://bucket/path`.
    pub(crate) fn new(path: &Path) -> io::Result<BucketDirectory> {
        let parsed = Address::parse(path).map_err(io::Error::other)?;
        let Address::S3 { bucket, path } = parsed else {
            let why = "outputs are written to this machine or to s3://; choose such a path";
            return Err(io::Error::other(why));
        };
        let prefix = if path.is_empty() { path } else { format!("{path}/") };
        Ok(BucketDirectory { bucket: Bucket::new(&bucket)?, prefix })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Lists the directory `below`, which is empty or ends in a slash.
    pub(crate) fn names(&self, below: &str) -> io::Result<Names> {
        let found = self.bucket.list(&self.key(below))?;
        Ok((found.objects.into_keys().collect(), found.directories))
    }

    /// Reads an object of at most `limit` bytes.
    pub(crate) fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let url = self.bucket.object_url(&self.key(name))?;
        let read = client::send_until(Request::to(&url), |mut response| {
            if response.status != 200 {
                return Err(self.bucket.explain(&mut response));
            }
            let length = response.header("content-length").and_then(|text| text.parse().ok());
            let mut bytes = Vec::new();
            response.read(limit, &mut bytes)?;
            match length {
                Some(length) if length != bytes.len() as u64 => Err(RemoteError::CutOff {
                    host: response.host(),
                    received: bytes.len() as u64,
                    expected: length,
                }),
                _ => Ok(bytes),
            }
        });
        Ok(read?)
    }

    /// Writes an object. It is replaced at once if it exists.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let url = self.bucket.put_url(&self.key(name))?;
        self.send("PUT", &url, bytes, |_| Ok(()))
    }

    /// Begins to write an object of a given size. It appears when the upload is finished.
    pub(crate) fn upload(&self, name: &str, bytes: u64) -> Upload<'_> {
        let part = PART_BYTES.max(bytes.div_ceil(MAX_PARTS));
        Upload {
            directory: self,
            key: self.key(name),
            part,
            id: None,
            tags: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// Writes ranges of files as objects, several at a time.
    pub(crate) fn write_ranges(&self, ranges: &[(String, PathBuf, Range<u64>)]) -> io::Result<()> {
        in_parallel(ranges, &|(name, path, range)| {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(range.start))?;
            let length = range.end - range.start;
            let mut bytes = Vec::new();
            file.take(length).read_to_end(&mut bytes)?;
            if bytes.len() as u64 != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.write(name, &bytes)
        })
    }

    /// Removes all objects: first those in the directory itself, then those in directories in it.
    pub(crate) fn remove_all(&self) -> io::Result<()> {
        let mut pending = vec![String::new()];
        while let Some(below) = pending.pop() {
            let (objects, directories) = self.names(&below)?;
            in_parallel(&objects, &|name| {
                let url = self.bucket.delete_url(&self.key(&format!("{below}{name}")))?;
                self.send("DELETE", &url, &[], |_| Ok(()))
            })?;
            pending.extend(directories.into_iter().map(|name| format!("{below}{name}/")));
        }
        Ok(())
    }

    /// Sends a request with a body until it succeeds or fails for good.
    fn send<T>(
        &self,
        method: &str,
        url: &str,
        body: &[u8],
        mut parse: impl FnMut(FinalResponse) -> Result<T, RemoteError>,
    ) -> io::Result<T> {
        Ok(client::send_body_until((method, url, body), |mut response| match response.status {
            200 | 204 => parse(response),
            _ => Err(self.bucket.explain(&mut response)),
        })?)
    }
}

/// An object that is being written. If it is dropped before [`Upload::finish`], nothing is written.
#[derive(Debug)]
pub(crate) struct Upload<'d> {
    directory: &'d BucketDirectory,
    key: String,
    /// Size of a part in bytes.
    part: u64,
    /// The server's name of the upload, once it has more than one part.
    id: Option<String>,
    /// The tags of the parts that the server has.
    tags: Vec<String>,
    pending: Vec<u8>,
}

impl Upload<'_> {
    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        loop {
            let room = self.part.saturating_sub(self.pending.len() as u64);
            let taken = rest.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let (now, later) = rest.split_at(taken);
            self.pending.extend_from_slice(now);
            if later.is_empty() {
                return Ok(());
            }
            self.send_part()?;
            rest = later;
        }
    }

    /// Sends what is pending as the next part.
    fn send_part(&mut self) -> io::Result<()> {
        let Upload { directory, key, .. } = self;
        let id = match self.id.take() {
            Some(id) => id,
            None => {
                let url = directory.bucket.create_upload_url(key)?;
                directory.send("POST", &url, &[], |mut response| {
                    directory.bucket.parse_upload(&mut response)
                })?
            }
        };
        let number = u16::try_from(self.tags.len() + 1).map_err(io::Error::other)?;
        let url = directory.bucket.part_url(key, number, &id)?;
        self.id = Some(id);
        let tag = directory.send("PUT", &url, &self.pending, |response| {
            response.header("etag").map(str::to_owned).ok_or_else(|| RemoteError::Contradiction {
                host: response.host(),
                why: "it names no tag for a part".to_owned(),
            })
        })?;
        self.tags.push(tag);
        self.pending.clear();
        Ok(())
    }

    /// Makes the object appear.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        if self.id.is_none() {
            let url = self.directory.bucket.put_url(&self.key)?;
            return self.directory.send("PUT", &url, &self.pending, |_| Ok(()));
        }
        self.send_part()?;
        let Upload { directory, key, tags, .. } = &self;
        let Some(id) = &self.id else { return Ok(()) };
        let (url, body) = directory.bucket.complete_upload(key, id, tags)?;
        directory.send("POST", &url, body.as_bytes(), |mut response| {
            Bucket::check_completed(&mut response)
        })?;
        self.id = None;
        Ok(())
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        let Some(id) = &self.id else { return };
        let Ok(url) = self.directory.bucket.abort_upload_url(&self.key, id) else { return };
        // Without this, the parts remain until the bucket's rules remove them.
        let _ = self.directory.send("DELETE", &url, &[], |_| Ok(()));
    }
}

/// Calls `work` with every item, several at a time. Returns the first error.
fn in_parallel<T: Sync>(
    items: &[T],
    work: &(dyn Fn(&T) -> io::Result<()> + Sync),
) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS.min(items.len()) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Relaxed)) {
                    if let Err(error) = work(item) {
                        next.store(items.len(), Relaxed);
                        let mut failed = failed.lock().unwrap_or_else(|e| e.into_inner());
                        failed.get_or_insert(error);
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
