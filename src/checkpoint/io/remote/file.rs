//! A file on a server.

use crate::checkpoint::io::remote::address::Repository;
use crate::checkpoint::io::remote::blocks::{self, Blocks, Fetch};
use crate::checkpoint::io::remote::client::{self, Answer, Patience, Request};
use crate::checkpoint::io::remote::error::RemoteError;
use crate::checkpoint::io::remote::{hub, hub_settings};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A file on a server, read by ranges. It is pinned: bytes of another version are an error.
#[derive(Debug)]
pub(crate) struct RemoteFile {
    remote: Arc<Remote>,
    blocks: Arc<Blocks>,
}

/// Where a file is, and which version of it is meant.
#[derive(Debug)]
struct Remote {
    url: String,
    size: u64,
    /// The entity tag of the version that was first seen, where the URL does not pin it.
    tag: Option<String>,
    /// The repository of the Hub it belongs to. Requests carry the user's token then.
    repository: Option<Repository>,
    /// Where redirects led. Signed links expire, so this may have to be found again.
    resolved: Mutex<Option<String>>,
}

impl RemoteFile {
    fn new(url: String, size: u64, tag: Option<String>, repository: Option<Repository>) -> Self {
        let resolved = Mutex::new(None);
        let remote = Arc::new(Remote { url, size, tag, repository, resolved });
        RemoteFile { remote, blocks: Arc::new(Blocks::new(size)) }
    }

    /// A file of the Hub at a commit, whose size is known.
    pub(super) fn on_hub(repository: &Repository, url: String, size: u64) -> Arc<RemoteFile> {
        Arc::new(RemoteFile::new(url, size, None, Some(repository.clone())))
    }

    /// The file at a URL. Its first bytes are fetched to learn its size and version.
    pub(super) fn at(url: String) -> Result<Arc<RemoteFile>, RemoteError> {
        let first = 0..blocks::HEAD_BYTES;
        let request = Request { url: &url, range: Some(&first), token: None };
        let (size, tag, head) = client::send_until(request, |mut answer| {
            let tag = answer.header("etag").map(str::to_owned);
            let mut head = Vec::new();
            match answer.status {
                206 => {
                    let sent = sent_range(&answer)?;
                    if sent.bytes.start != 0 {
                        return Err(contradiction(&answer, "it sent another range than asked for"));
                    }
                    answer.read(sent.bytes.end, &mut head)?;
                    check_length(&answer, sent.bytes.end, head.len() as u64)?;
                    Ok((sent.size, tag, head))
                }
                // A server without ranges can still send a file that fits the first request.
                200 => {
                    answer.read(blocks::HEAD_BYTES + 1, &mut head)?;
                    if head.len() as u64 > blocks::HEAD_BYTES {
                        return Err(RemoteError::NoRanges { host: answer.host() });
                    }
                    Ok((head.len() as u64, tag, head))
                }
                // An empty file has no first byte.
                416 => Ok((0, tag, head)),
                _ => Err(answer.error()),
            }
        })?;
        let file = RemoteFile::new(url, size, tag, None);
        file.blocks.fill_head(head);
        Ok(Arc::new(file))
    }

    pub(crate) fn size(&self) -> u64 {
        self.remote.size
    }

    /// A text that differs between versions of the file; `None` where the server does not tell
    /// them apart.
    pub(crate) fn identity(&self) -> Option<String> {
        let Remote { url, tag, repository, .. } = self.remote.as_ref();
        match (repository, tag) {
            // The URL names a commit.
            (Some(_), _) => Some(url.clone()),
            // A query may hold a signature, which differs from link to link.
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
    /// What a broken connection has sent is kept, and the rest asked for again.
    fn fetch(&self, range: Range<u64>) -> Result<Vec<u8>, RemoteError> {
        let length = range.end.saturating_sub(range.start);
        let mut bytes = Vec::with_capacity(length as usize);
        let mut patience = Patience::default();
        while (bytes.len() as u64) < length {
            let before = bytes.len();
            let rest = range.start + before as u64..range.end;
            let result = self.fetch_once(rest, &mut bytes);
            if bytes.len() > before {
                patience.renew();
            }
            if let Err(error) = result {
                patience.wait(error)?;
            }
        }
        Ok(bytes)
    }
}

impl Remote {
    fn fetch_once(&self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), RemoteError> {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(url) = &resolved {
            let answer = client::send(Request { url, range: Some(&range), token: None })?;
            // A link that has expired is found again below.
            if !matches!(answer.status, 400 | 401 | 403 | 404 | 410) {
                return self.receive(answer, range, out);
            }
        }
        let token = self.repository.as_ref().and_then(|_| hub_settings::token());
        let request = Request { url: &self.url, range: Some(&range), token: token.as_deref() };
        let answer = client::send(request)?;
        let found = answer.is_elsewhere.then(|| answer.url.clone());
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = found;
        self.receive(answer, range, out)
    }

    fn receive(
        &self,
        mut answer: Answer,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), RemoteError> {
        let expected = range.end - range.start;
        let before = out.len() as u64;
        match answer.status {
            206 => {
                let sent = sent_range(&answer)?;
                if sent.size != self.size || self.is_other_version(&answer) {
                    return Err(RemoteError::Changed);
                }
                if sent.bytes.start != range.start || sent.bytes.end > range.end {
                    return Err(contradiction(&answer, "it sent another range than asked for"));
                }
            }
            200 if range.start == 0 => {
                let length = answer.header("content-length").and_then(|text| text.parse().ok());
                if length.is_some_and(|length: u64| length != self.size)
                    || self.is_other_version(&answer)
                {
                    return Err(RemoteError::Changed);
                }
            }
            200 => return Err(RemoteError::NoRanges { host: answer.host() }),
            416 => return Err(RemoteError::Changed),
            _ => return Err(self.explain(&mut answer)),
        }
        let result = answer.read(expected, out);
        let received = out.len() as u64 - before;
        result?;
        check_length(&answer, expected, received)
    }

    fn explain(&self, answer: &mut Answer) -> RemoteError {
        match &self.repository {
            Some(repository) => hub::explain(answer, repository, hub_settings::token().is_some()),
            None => answer.error(),
        }
    }

    fn is_other_version(&self, answer: &Answer) -> bool {
        matches!((&self.tag, answer.header("etag")), (Some(tag), Some(now)) if tag != now)
    }
}

/// What a `Content-Range` header says.
struct SentRange {
    bytes: Range<u64>,
    /// Bytes of the whole file.
    size: u64,
}

fn sent_range(answer: &Answer) -> Result<SentRange, RemoteError> {
    let parse = |text: &str| {
        let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (start, last) = range.split_once('-')?;
        let (start, last): (u64, u64) = (start.trim().parse().ok()?, last.trim().parse().ok()?);
        let size = size.trim().parse().ok()?;
        let end = last.checked_add(1)?;
        (start < end && end <= size).then_some(SentRange { bytes: start..end, size })
    };
    answer
        .header("content-range")
        .and_then(parse)
        .ok_or_else(|| contradiction(answer, "it sent a range without saying which"))
}

fn check_length(answer: &Answer, expected: u64, received: u64) -> Result<(), RemoteError> {
    match received < expected {
        true => Err(RemoteError::CutOff { host: answer.host(), received, expected }),
        false => Ok(()),
    }
}

fn contradiction(answer: &Answer, why: &str) -> RemoteError {
    RemoteError::Contradiction { host: answer.host(), why: why.to_owned() }
}
