//! Sends HTTP requests, follows redirects and retries.

use crate::checkpoint::io::remote::error::RemoteError;
use crate::checkpoint::io::remote::location::{host, is_public, join};
use std::io::Read;
use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

/// Delay before the second attempt; doubles with every further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Maximum number of attempts without progress.
const ATTEMPTS: u32 = 5;

/// Maximum wait for a server that limits the rate of requests.
const MAX_WAIT: Duration = Duration::from_secs(60);

const MAX_REDIRECTS: usize = 8;

/// Maximum size of a response's headers in bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;

static AGENT: LazyLock<Agent> = LazyLock::new(|| {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        // Redirects are followed by this module, which decides which host may see the token.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("quantscope/", env!("CARGO_PKG_VERSION")))
        .accept("*/*")
        .accept_encoding("identity")
        .timeout_resolve(Some(Duration::from_secs(15)))
        .timeout_connect(Some(Duration::from_secs(15)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)))
        .max_response_header_size(MAX_HEADER_BYTES)
        .max_idle_connections(32)
        .max_idle_connections_per_host(16);
    config.build().new_agent()
});

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'r> {
    pub url: &'r str,
    pub range: Option<&'r Range<u64>>,
    /// Sent to the first host only.
    pub token: Option<&'r str>,
    /// The required entity tag, if the server can check it.
    pub if_match: Option<&'r str>,
}

impl<'r> Request<'r> {
    /// Creates a request for the whole content of a URL.
    pub(super) fn to(url: &'r str) -> Request<'r> {
        Request { url, range: None, token: None, if_match: None }
    }
}

/// A response that is not a redirect.
pub(super) struct FinalResponse {
    /// The final URL.
    pub url: String,
    /// Whether the last redirect named another host.
    pub is_elsewhere: bool,
    pub status: u16,
    pub headers: HeaderMap,
    body: Body,
}

impl FinalResponse {
    /// Returns the value of a header; `None` if it is absent or not ASCII.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn host(&self) -> String {
        host(&self.url)
    }

    /// Appends up to `count` bytes of the body to `out`.
    pub(super) fn read(&mut self, count: u64, out: &mut Vec<u8>) -> Result<(), RemoteError> {
        let mut reader = self.body.as_reader().take(count);
        reader
            .read_to_end(out)
            .map(drop)
            .map_err(|error| unreachable(&self.url, &error.to_string()))
    }

    /// Returns the error for the status of a response.
    pub(super) fn error(&mut self) -> RemoteError {
        let host = self.host();
        match self.status {
            404 | 410 => RemoteError::NotFound,
            429 => RemoteError::TooManyRequests { host, wait: self.asked_wait() },
            status => RemoteError::Status { host, status, message: self.message() },
        }
    }

    /// Returns the server's message about an error, shortened to a line.
    fn message(&mut self) -> String {
        const SHOWN: usize = 200;
        if let Some(message) = self.header("x-error-message") {
            return message.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        }
        match self.status {
            401 => "not authorized".to_owned(),
            403 => "access denied; a link may have expired".to_owned(),
            _ => String::new(),
        }
    }

    /// Returns the wait requested by `Retry-After` or `RateLimit`.
    fn asked_wait(&self) -> Option<Duration> {
        let after = self.header("retry-after").and_then(|value| value.trim().parse().ok());
        let reset = || {
            let limit = self.header("ratelimit")?;
            limit.split(';').find_map(|part| part.trim().strip_prefix("t=")?.parse().ok())
        };
        after.or_else(reset).map(Duration::from_secs)
    }
}

/// Sends a request once and follows redirects.
///
/// A relative redirect is a rename and keeps the token. An absolute one leads to another host,
/// which never gets the token. Redirects to other schemes, from `https` to `http`, and from the
/// public internet into a private network are refused.
pub(super) fn send(request: Request) -> Result<FinalResponse, RemoteError> {
    let mut url = request.url.to_owned();
    let mut token = request.token;
    let mut is_elsewhere = false;
    for _ in 0..=MAX_REDIRECTS {
        let mut builder = AGENT.get(&url);
        if let Some(range) = request.range {
            builder = builder.header("Range", range_header(range));
        }
        if let Some(tag) = request.if_match {
            builder = builder.header("If-Match", tag);
        }
        if let Some(token) = token {
            builder = builder.header("Authorization", format!("Bearer {token}"));
        }
        let response = builder.call().map_err(|error| match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                RemoteError::Address("it is not a valid URL".to_owned())
            }
            ureq::Error::LargeResponseHeader(..) => {
                let why = format!("its header lines are longer than {MAX_HEADER_BYTES} bytes");
                RemoteError::Contradiction { host: host(&url), why }
            }
            ureq::Error::Protocol(error) => {
                let why = format!("its answer is not valid HTTP: {error}");
                RemoteError::Contradiction { host: host(&url), why }
            }
            error => unreachable(&url, &error.to_string()),
        })?;
        let status = response.status().as_u16();
        let Some(location) = redirect(&response) else {
            let (parts, body) = response.into_parts();
            return Ok(FinalResponse { url, is_elsewhere, status, headers: parts.headers, body });
        };
        let next = join(&url, &location);
        check_redirect(request.url, &url, &next)?;
        if host(&next) != host(&url) {
            token = None;
            is_elsewhere = true;
        }
        url = next;
    }
    let why = format!("more than {MAX_REDIRECTS} times");
    Err(RemoteError::Redirect { host: host(&url), why })
}

/// Sends a request until it succeeds, as long as failures are temporary. `check` converts the
/// response to a result; its temporary errors are retried as well.
pub(super) fn send_until<T>(
    request: Request,
    mut check: impl FnMut(FinalResponse) -> Result<T, RemoteError>,
) -> Result<T, RemoteError> {
    let mut retries = RetryCounter::default();
    loop {
        match send(request).and_then(&mut check) {
            Err(error) => retries.wait(error)?,
            done => return done,
        }
    }
}

/// Sends a request with a body until it succeeds, as long as failures are temporary. Redirects are
/// not followed. The request is the method, the URL and the body.
pub(super) fn send_body_until<T>(
    (method, url, body): (&str, &str, &[u8]),
    mut check: impl FnMut(FinalResponse) -> Result<T, RemoteError>,
) -> Result<T, RemoteError> {
    let mut retries = RetryCounter::default();
    loop {
        match send_body(method, url, body).and_then(&mut check) {
            Err(error) => retries.wait(error)?,
            done => return done,
        }
    }
}

fn send_body(method: &str, url: &str, body: &[u8]) -> Result<FinalResponse, RemoteError> {
    let request = ureq::http::Request::builder().method(method).uri(url).body(body);
    let request = request.map_err(|_| RemoteError::Address("it is not a valid URL".to_owned()))?;
    let response = AGENT.run(request).map_err(|error| unreachable(url, &error.to_string()))?;
    let status = response.status().as_u16();
    let (parts, body) = response.into_parts();
    let url = url.to_owned();
    Ok(FinalResponse { url, is_elsewhere: false, status, headers: parts.headers, body })
}

/// Counts failed attempts and waits between them.
#[derive(Default)]
pub(super) struct RetryCounter {
    failed: u32,
}

impl RetryCounter {
    /// Resets the count after progress.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    ///
    /// The given error, if it is permanent or there were too many attempts.
    pub(super) fn wait(&mut self, error: RemoteError) -> Result<(), RemoteError> {
        self.failed += 1;
        if !error.is_temporary() || self.failed >= ATTEMPTS {
            return Err(error);
        }
        let usual = FIRST_WAIT * 2u32.pow(self.failed - 1);
        match error.wait() {
            Some(asked) if asked > MAX_WAIT => return Err(error),
            asked => std::thread::sleep(asked.unwrap_or(usual)),
        }
        Ok(())
    }
}

fn range_header(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end.saturating_sub(1))
}

fn unreachable(url: &str, why: &str) -> RemoteError {
    // Some messages contain the URL, whose query may contain a signature.
    let why = match url.split_once('?') {
        Some((_, query)) if !query.is_empty() => why.replace(query, "…"),
        _ => why.to_owned(),
    };
    RemoteError::Unreachable { host: host(url), why }
}

fn redirect(response: &Response<Body>) -> Option<String> {
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get("location")?.to_str().ok()?;
    is_redirect.then(|| location.to_owned())
}

/// Refuses redirects that a server should not ask for. `first` is the URL named by the user or by
/// the Hub.
fn check_redirect(first: &str, from: &str, to: &str) -> Result<(), RemoteError> {
    let refuse = |why: &str| Err(RemoteError::Redirect { host: host(from), why: why.to_owned() });
    let scheme = to.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("https") => {}
        Some("http") if !from.starts_with("https:") => {}
        Some("http") => return refuse("from https to http"),
        _ => return refuse("to something other than https"),
    }
    if host(to) != host(from) && is_public(first) && !is_public(to) {
        return refuse("to an address in a private network");
    }
    Ok(())
}
