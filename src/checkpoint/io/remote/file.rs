//! A remote file.

use crate::checkpoint::io::remote::address::Repository;
use crate::checkpoint::io::remote::blocks::{self, Blocks, Fetch};
use crate::checkpoint::io::remote::client::{self, FinalResponse, Request, RetryCounter};
use crate::checkpoint::io::remote::error::RemoteError;
use crate::checkpoint::io::remote::{hub, hub_settings};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A remote file, read by ranges. It is pinned to a version; bytes of another version are an error.
#[derive(Debug)]
pub(crate) struct RemoteFile {
    remote: Arc<Remote>,
    blocks: Arc<Blocks>,
}

/// The location of a file, and its version.
#[derive(Debug)]
struct Remote {
    url: String,
    size: u64,
    /// The entity tag of the version seen first, unless the URL determines the version.
    tag: Option<String>,
    /// The repository of the Hub that it belongs to. Requests then carry the user's token.
    repository: Option<Repository>,
    /// The final URL after redirects. Signed URLs expire, so it may have to be resolved again.
    resolved: Mutex<Option<String>>,
}

impl RemoteFile {
    fn new(url: String, size: u64, tag: Option<String>, repository: Option<Repository>) -> Self {
        let resolved = Mutex::new(None);
        let remote = Arc::new(Remote { url, size, tag, repository, resolved });
        RemoteFile { remote, blocks: Arc::new(Blocks::new(size)) }
    }

    /// Creates a file of the Hub at a commit, whose size is known.
    pub(super) fn on_hub(repository: &Repository, url: String, size: u64) -> Arc<RemoteFile> {
        Arc::new(RemoteFile::new(url, size, None, Some(repository.clone())))
    }

    /// Creates a file at a URL. Fetches its first bytes to learn size and version.
    pub(super) fn at(url: String) -> Result<Arc<RemoteFile>, RemoteError> {
        let first = 0..blocks::HEAD_BYTES;
        let request = Request { url: &url, range: Some(&first), token: None };
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
                _ => Err(response.error()),
            }
        })?;
        let file = RemoteFile::new(url, size, tag, None);
        file.blocks.fill_head(head);
        Ok(Arc::new(file))
    }

    pub(crate) fn size(&self) -> u64 {
        self.remote.size
    }

    /// Returns a text that identifies the version of the file; `None` if the server does not
    /// distinguish versions.
    pub(crate) fn identity(&self) -> Option<String> {
        let Remote { url, tag, repository, .. } = self.remote.as_ref();
        match (repository, tag) {
            // The URL names a commit.
            (Some(_), _) => Some(url.clone()),
            // The query may contain a signature, which differs between links.
            (None, Some(tag)) => {
                Some(format!("{} {tag}", url.split(['?', '#']).next().unwrap_or_default()))
            }
            (None, None) => None,
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

impl Fetch for Remote {
    /// Keeps what an interrupted connection has sent, and requests the rest again.
    fn fetch(&self, range: Range<u64>) -> Result<Vec<u8>, RemoteError> {
        let length = range.end.saturating_sub(range.start);
        let mut bytes = Vec::with_capacity(length as usize);
        let mut retries = RetryCounter::default();
        while (bytes.len() as u64) < length {
            let before = bytes.len();
            let rest = range.start + before as u64..range.end;
            let result = self.fetch_once(rest, &mut bytes);
            if bytes.len() > before {
                retries.reset();
            }
            if let Err(error) = result {
                retries.wait(error)?;
            }
        }
        Ok(bytes)
    }
}

impl Remote {
    fn fetch_once(&self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), RemoteError> {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(url) = &resolved {
            let response = client::send(Request { url, range: Some(&range), token: None })?;
            // An expired link is resolved again below.
            if !matches!(response.status, 400 | 401 | 403 | 404 | 410) {
                return self.receive(response, range, out);
            }
        }
        let token = self.repository.as_ref().and_then(|_| hub_settings::token());
        let request = Request { url: &self.url, range: Some(&range), token: token.as_deref() };
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
            416 => return Err(RemoteError::Changed),
            _ => return Err(self.explain(&mut response)),
        }
        let result = response.read(expected, out);
        let received = out.len() as u64 - before;
        result?;
        check_length(&response, expected, received)
    }

    fn explain(&self, response: &mut FinalResponse) -> RemoteError {
        match &self.repository {
            Some(repository) => hub::explain(response, repository, hub_settings::token().is_some()),
            None => response.error(),
        }
    }

    fn is_other_version(&self, response: &FinalResponse) -> bool {
        matches!((&self.tag, response.header("etag")), (Some(tag), Some(now)) if tag != now)
    }
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
    match received < expected {
        true => Err(RemoteError::CutOff { host: response.host(), received, expected }),
        false => Ok(()),
    }
}

fn contradiction(response: &FinalResponse, why: &str) -> RemoteError {
    RemoteError::Contradiction { host: response.host(), why: why.to_owned() }
}
