//! Errors of remote access.

use std::io;
use std::time::Duration;

/// A failed request. Messages never contain a token or a query, which may contain a signature.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum RemoteError {
    #[error("{0}")]
    Address(String),
    #[error("cannot reach {host}: {why}")]
    Unreachable { host: String, why: String },
    #[error("the server {host} answered with status {status}{}", detail(.message))]
    Status { host: String, status: u16, message: String },
    #[error(
        "{host} allows no more requests for now (status 429); try again later, or set HF_TOKEN for a higher limit"
    )]
    TooManyRequests { host: String, wait: Option<Duration> },
    #[error("there is no such file on the server")]
    NotFound,
    #[error("{host} sent {received} of {expected} bytes and closed the connection")]
    CutOff { host: String, received: u64, expected: u64 },
    #[error("the server {host} sends whole files only; download the file, then open it")]
    NoRanges { host: String },
    #[error("the server {host} contradicts itself: {why}")]
    Contradiction { host: String, why: String },
    #[error("the file has changed on the server since it was opened; open it again")]
    Changed,
    #[error("the server {host} redirects {why}, which is not followed")]
    Redirect { host: String, why: String },
    /// A sentence that says what the server refused and what to do.
    #[error("{0}")]
    Refused(String),
    #[error(
        "HF_HUB_OFFLINE is set and the repository is not in the local cache; unset it, or download the model first"
    )]
    Offline,
}

fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl RemoteError {
    /// Returns whether the same request may succeed a little later.
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            RemoteError::Unreachable { .. }
            | RemoteError::TooManyRequests { .. }
            | RemoteError::CutOff { .. } => true,
            RemoteError::Status { status, .. } => matches!(status, 408 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// The wait requested by the server.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            RemoteError::TooManyRequests { wait, .. } => *wait,
            _ => None,
        }
    }
}

impl From<RemoteError> for io::Error {
    fn from(error: RemoteError) -> io::Error {
        let kind = match error {
            RemoteError::NotFound => io::ErrorKind::NotFound,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
