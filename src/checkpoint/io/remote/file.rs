//! A remote file.

use crate::checkpoint::io::remote::address::Repository;
use crate::checkpoint::io::remote::blocks::{self, Blocks, Fetch};
use crate::checkpoint::io::remote::client::{self, FinalResponse, Request, RetryCounter};
use crate::checkpoint::io::remote::error::RemoteError;
use crate::checkpoint::io::remote::location::host;
use crate::checkpoint::io::remote::s3::Bucket;
use crate::checkpoint::io::remote::{hub, hub_settings};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A remote file, read by ranges. It is pinned to a version; bytes of another version are an error.
#[derive(Debug)]
pub(crate) struct RemoteFile {
    remote: Arc<Remote>,
    blocks: Arc<Blocks>,
}

/// The location of a file, and its version.
#[derive(Debug)]
struct Remote {
    location: FileLocation,
    size: u64,
    /// The entity tag of the version seen first, unless the location determines the version.
    tag: OnceLock<String>,
    /// The final URL after redirects. Signed URLs expire, so it may have to be resolved again.
    resolved: Mutex<Option<String>>,
}

/// The location of a file, and how it is requested.
#[derive(Clone, Debug)]
pub(super) enum FileLocation {
    /// A public URL.
    Url(String),
    /// A file of the Hub at a commit, by its URL. Requests carry the user's token.
    Hub { repository: Repository, url: String },
    /// An object of a bucket. Requests are signed.
    S3 { bucket: Arc<Bucket>, key: String },
}

impl FileLocation {
    /// Returns the URL for the next request.
    fn url(&self) -> Result<Cow<'_, str>, RemoteError> {
        match self {
            FileLocation::Url(url) | FileLocation::Hub { url, .. } => Ok(url.into()),
            FileLocation::S3 { bucket, key } => bucket.object_url(key).map(Cow::Owned),
        }
    }

    /// Returns the error for a response.
    fn explain(&self, response: &mut FinalResponse) -> RemoteError {
        match self {
            FileLocation::Url(_) => response.error(),
            FileLocation::Hub { repository, .. } => {
                hub::explain(response, repository, hub_settings::token().is_some())
            }
            FileLocation::S3 { bucket, .. } => bucket.explain(response),
        }
    }
}

impl RemoteFile {
    /// Creates a file whose size is known.
    pub(super) fn new(location: FileLocation, size: u64, tag: Option<String>) -> RemoteFile {
        let tag = tag.map(OnceLock::from).unwrap_or_default();
        let remote = Arc::new(Remote { location, size, tag, resolved: Mutex::new(None) });
        RemoteFile { remote, blocks: Arc::new(Blocks::new(size)) }
    }

    /// Creates the file at a location. Fetches its first bytes to learn size and version.
    pub(super) fn at(location: FileLocation) -> Result<Arc<RemoteFile>, RemoteError> {
        let first = 0..blocks::HEAD_BYTES;
        let url = location.url()?;
        let request = Request { range: Some(&first), ..Request::to(&url) };
        let (size, tag, head) = client::send_until(request, |mut response| {
            let tag = response.header("etag").map(str::to_owned);
            let mut head = Vec::new();
            match response.status {
                206 => {
                    let sent = sent_range(&response)?;
                    if sent.bytes.start != 0 {
                        return Err(contradiction(
                            &response,
                            "it sent another range than asked for",
                        ));
                    }
                    response.read(sent.bytes.end, &mut head)?;
                    check_length(&response, sent.bytes.end, head.len() as u64)?;
                    Ok((sent.size, tag, head))
                }
                // A server without range support can still send a file that fits the first request.
                200 => {
                    response.read(blocks::HEAD_BYTES + 1, &mut head)?;
                    if head.len() as u64 > blocks::HEAD_BYTES {
                        return Err(RemoteError::NoRanges { host: response.host() });
                    }
                    Ok((head.len() as u64, tag, head))
                }
                // An empty file has no first byte.
                416 => Ok((0, tag, head)),
                _ => Err(location.explain(&mut response)),
            }
        })?;
        drop(url);
        let file = RemoteFile::new(location, size, tag);
        file.blocks.fill_head(head);
        Ok(Arc::new(file))
    }

    pub(crate) fn size(&self) -> u64 {
        self.remote.size
    }

    /// Returns a text that identifies the version of the file; `None` if the server does not
    /// distinguish versions.
    pub(crate) fn identity(&self) -> Option<String> {
        let Remote { location, tag, .. } = self.remote.as_ref();
        match location {
            // The URL names a commit.
            FileLocation::Hub { url, .. } => Some(url.clone()),
            // The query may contain a signature, which differs between links.
            FileLocation::Url(url) => {
                let tag = tag.get()?;
                let path = url.split(['?', '#']).next().unwrap_or_default();
                let path = path.splitn(4, '/').nth(3).unwrap_or_default();
                Some(format!("{}/{path} {tag}", host(url)))
            }
            FileLocation::S3 { bucket, key } => {
                Some(format!("{} {}", bucket.object_name(key), tag.get()?))
            }
        }
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    ///
    /// The range ends past the file, or the server does not send it.
    pub(crate) fn read_exact(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.blocks.read(&self.remote, buffer, offset).map_err(std::io::Error::from)
    }
}

impl RemoteFile {
    /// Fills `buffer` from `offset` without fetching or keeping anything else.
    ///
    /// # Errors
    ///
    /// The range ends past the file, or the server does not send it.
    pub(crate) fn read_direct(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        self.remote.fetch(offset..offset.saturating_add(buffer.len() as u64), &mut bytes)?;
        if bytes.len() == buffer.len() {
            buffer.copy_from_slice(&bytes)
        } else {
            return Err(RemoteError::Changed.into());
        }
        Ok(())
    }
}

impl Fetch for Remote {
    /// Keeps what an interrupted connection has sent, and requests the rest again.
    fn fetch(&self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), RemoteError> {
        let length = range.end.saturating_sub(range.start);
        let first = out.len();
        out.reserve(length as usize);
        let mut retries = RetryCounter::default();
        while ((out.len() - first) as u64) < length {
            let before = out.len();
            let rest = range.start + (before - first) as u64..range.end;
            let result = self.fetch_once(rest, out);
            if out.len() > before {
                retries.reset();
            }
            if let Err(error) = result {
                retries.wait(error)?;
            }
        }
        Ok(())
    }
}

impl Remote {
    fn fetch_once(&self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), RemoteError> {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(url) = &resolved {
            let response = client::send(Request { range: Some(&range), ..Request::to(url) })?;
            // An expired link is resolved again below.
            if !matches!(response.status, 400 | 401 | 403 | 404 | 410) {
                return self.receive(response, range, out);
            }
        }
        let url = self.location.url()?;
        let token = match self.location {
            FileLocation::Hub { .. } => hub_settings::token(),
            FileLocation::Url(_) | FileLocation::S3 { .. } => None,
        };
        let if_match = match self.location {
            FileLocation::S3 { .. } => self.tag.get().map(String::as_str),
            FileLocation::Url(_) | FileLocation::Hub { .. } => None,
        };
        let token = token.as_deref();
        let request = Request { url: &url, range: Some(&range), token, if_match };
        let response = client::send(request)?;
        let found = response.is_elsewhere.then(|| response.url.clone());
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = found;
        self.receive(response, range, out)
    }

    fn receive(
        &self,
        mut response: FinalResponse,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), RemoteError> {
        let expected = range.end - range.start;
        let before = out.len() as u64;
        match response.status {
            206 => {
                let sent = sent_range(&response)?;
                if sent.size != self.size || self.is_other_version(&response) {
                    return Err(RemoteError::Changed);
                }
                if sent.bytes.start != range.start || sent.bytes.end > range.end {
                    return Err(contradiction(&response, "it sent another range than asked for"));
                }
            }
            200 if range.start == 0 => {
                let length = response.header("content-length").and_then(|text| text.parse().ok());
                if length.is_some_and(|length: u64| length != self.size)
                    || self.is_other_version(&response)
                {
                    return Err(RemoteError::Changed);
                }
            }
            200 => return Err(RemoteError::NoRanges { host: response.host() }),
            412 | 416 => return Err(RemoteError::Changed),
            _ => return Err(self.location.explain(&mut response)),
        }
        let result = response.read(expected, out);
        let received = out.len() as u64 - before;
        result?;
        check_length(&response, expected, received)
    }

    /// Returns whether a response has another version than the first one. The Hub's URLs contain a
    /// commit, and the tags of its servers differ.
    fn is_other_version(&self, response: &FinalResponse) -> bool {
        let Some(now) = response.header("etag") else { return false };
        match self.location {
            FileLocation::Hub { .. } => false,
            FileLocation::Url(_) | FileLocation::S3 { .. } => {
                bare(self.tag.get_or_init(|| now.to_owned())) != bare(now)
            }
        }
    }
}

/// Removes the quotes of a tag, which some listings omit.
fn bare(tag: &str) -> &str {
    tag.trim_matches('"')
}

/// A parsed `Content-Range` header.
struct SentRange {
    bytes: Range<u64>,
    /// Size of the whole file in bytes.
    size: u64,
}

fn sent_range(response: &FinalResponse) -> Result<SentRange, RemoteError> {
    let parse = |text: &str| {
        let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (start, last) = range.split_once('-')?;
        let (start, last): (u64, u64) = (start.trim().parse().ok()?, last.trim().parse().ok()?);
        let size = size.trim().parse().ok()?;
        let end = last.checked_add(1)?;
        (start < end && end <= size).then_some(SentRange { bytes: start..end, size })
    };
    response
        .header("content-range")
        .and_then(parse)
        .ok_or_else(|| contradiction(response, "it sent a range without saying which"))
}

fn check_length(response: &FinalResponse, expected: u64, received: u64) -> Result<(), RemoteError> {
    if received < expected {
        Err(RemoteError::CutOff { host: response.host(), received, expected })
    } else {
        Ok(())
    }
}

fn contradiction(response: &FinalResponse, why: &str) -> RemoteError {
    RemoteError::Contradiction { host: response.host(), why: why.to_owned() }
}
