//! Buckets of S3 and of compatible servers.

use crate::checkpoint::io::remote::client::{self, FinalResponse, Request};
use crate::checkpoint::io::remote::error::RemoteError;
use crate::checkpoint::io::remote::location::host;
use crate::checkpoint::io::remote::s3_settings::S3Settings;
use rusty_s3::actions::{CompleteMultipartUpload, CreateMultipartUpload, ListObjectsV2};
use rusty_s3::{Credentials, S3Action, UrlStyle};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Validity of a signed URL. Every request gets a new signature.
const SIGNED_FOR: Duration = Duration::from_secs(900);

/// Maximum number of pages of a listing; each has up to 1000 names.
const MAX_PAGES: usize = 100;

/// Maximum size of a page in bytes.
const MAX_PAGE_BYTES: u64 = 8 << 20;

/// Maximum size of an error's description in bytes.
const MAX_ERROR_BYTES: u64 = 16 << 10;

/// A bucket and its access settings.
#[derive(Debug)]
pub(super) struct Bucket {
    name: String,
    endpoint: Option<String>,
    credentials: Option<Credentials>,
    /// The region of the bucket, corrected if the server names another one.
    region: Mutex<String>,
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub size: u64,
    pub tag: Option<String>,
}

/// The content of a directory in a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Directory {
    pub objects: BTreeMap<String, Object>,
    pub directories: Vec<String>,
}

impl Bucket {
    /// Creates a bucket with the settings of the process.
    pub(super) fn new(name: &str) -> Result<Bucket, RemoteError> {
        let S3Settings { endpoint, region, credentials } = S3Settings::of_process()?;
        let bucket =
            Bucket { name: name.to_owned(), endpoint, credentials, region: Mutex::new(region) };
        // Fail early if the settings do not name a server.
        bucket.at(&bucket.region())?;
        Ok(bucket)
    }

    fn region(&self) -> String {
        self.region.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn at(&self, region: &str) -> Result<rusty_s3::Bucket, RemoteError> {
        let (endpoint, style) = match &self.endpoint {
            // Servers with an IP address have no subdomains.
            Some(endpoint) => (endpoint.clone(), UrlStyle::Path),
            None => {
                let style =
                    if self.name.contains('.') { UrlStyle::Path } else { UrlStyle::VirtualHost };
                (format!("https://s3.{region}.amazonaws.com"), style)
            }
        };
        let address = |why: String| RemoteError::Address(why);
        let url = endpoint.parse();
        let url =
            url.map_err(|e| address(format!("the endpoint of S3 is not a valid URL: {e}")))?;
        rusty_s3::Bucket::new(url, style, self.name.clone(), region.to_owned())
            .map_err(|e| address(format!("the endpoint of S3 cannot be used: {e}")))
    }

    /// Returns a signed URL for reading an object for a limited time.
    pub(super) fn object_url(&self, key: &str) -> Result<String, RemoteError> {
        let bucket = self.at(&self.region())?;
        Ok(bucket.get_object(self.credentials.as_ref(), key).sign(SIGNED_FOR).to_string())
    }

    /// Returns a signed URL for writing an object.
    pub(super) fn put_url(&self, key: &str) -> Result<String, RemoteError> {
        let bucket = self.at(&self.region())?;
        Ok(bucket.put_object(self.credentials.as_ref(), key).sign(SIGNED_FOR).to_string())
    }

    /// Returns a signed URL for removing an object.
    pub(super) fn delete_url(&self, key: &str) -> Result<String, RemoteError> {
        let bucket = self.at(&self.region())?;
        Ok(bucket.delete_object(self.credentials.as_ref(), key).sign(SIGNED_FOR).to_string())
    }

    /// Returns a signed URL for beginning an upload of several parts.
    pub(super) fn create_upload_url(&self, key: &str) -> Result<String, RemoteError> {
        let bucket = self.at(&self.region())?;
        let action = bucket.create_multipart_upload(self.credentials.as_ref(), key);
        Ok(action.sign(SIGNED_FOR).to_string())
    }

    /// Returns the identifier of a new upload.
    pub(super) fn parse_upload(&self, response: &mut FinalResponse) -> Result<String, RemoteError> {
        let mut body = Vec::new();
        response.read(MAX_ERROR_BYTES, &mut body)?;
        let parsed = CreateMultipartUpload::parse_response(&String::from_utf8_lossy(&body));
        let parsed = parsed.map_err(|error| RemoteError::Contradiction {
            host: response.host(),
            why: format!("its answer to an upload cannot be read: {error}"),
        })?;
        Ok(parsed.upload_id().to_owned())
    }

    /// Returns a signed URL for a part of an upload. Numbers begin at 1.
    pub(super) fn part_url(&self, key: &str, number: u16, id: &str) -> Result<String, RemoteError> {
        let bucket = self.at(&self.region())?;
        let action = bucket.upload_part(self.credentials.as_ref(), key, number, id);
        Ok(action.sign(SIGNED_FOR).to_string())
    }

    /// Returns a signed URL and the body of the request that makes an object of uploaded parts.
    pub(super) fn complete_upload(
        &self,
        key: &str,
        id: &str,
        tags: &[String],
    ) -> Result<(String, String), RemoteError> {
        let bucket = self.at(&self.region())?;
        let tags = tags.iter().map(String::as_str);
        let credentials = self.credentials.as_ref();
        let action = CompleteMultipartUpload::new(&bucket, credentials, key, id, tags);
        Ok((action.sign(SIGNED_FOR).to_string(), action.body()))
    }

    /// Checks the body of a response about the end of an upload, which can be an error although the
    /// status is 200.
    pub(super) fn check_completed(response: &mut FinalResponse) -> Result<(), RemoteError> {
        let mut body = Vec::new();
        response.read(MAX_ERROR_BYTES, &mut body)?;
        // Servers differ in the end of the name and in the rest of the document.
        if String::from_utf8_lossy(&body).contains("<CompleteMultipartUpload") {
            return Ok(());
        }
        // S3 asks to try again.
        Err(RemoteError::Status {
            host: response.host(),
            status: 500,
            message: "the parts of an object could not be put together".to_owned(),
        })
    }

    /// Returns a signed URL for ending an upload without a result.
    pub(super) fn abort_upload_url(&self, key: &str, id: &str) -> Result<String, RemoteError> {
        let bucket = self.at(&self.region())?;
        let action = bucket.abort_multipart_upload(self.credentials.as_ref(), key, id);
        Ok(action.sign(SIGNED_FOR).to_string())
    }

    /// Returns a text that identifies the object, without a signature.
    pub(super) fn object_name(&self, key: &str) -> String {
        let endpoint = self.endpoint.as_deref().unwrap_or("s3");
        format!("{} {}/{key}", host(endpoint), self.name)
    }

    /// Lists the content of `prefix`, which is empty or ends in a slash.
    pub(super) fn list(&self, prefix: &str) -> Result<Directory, RemoteError> {
        let mut found = Directory::default();
        let mut token: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let page = self.page(prefix, token.as_deref())?;
            for object in page.contents {
                let (Some(name), Some(size)) = (object.key.strip_prefix(prefix), object.size)
                else {
                    continue;
                };
                let tag = object.etag.filter(|tag| !tag.is_empty());
                if is_name(name) {
                    found.objects.insert(name.to_owned(), Object { size, tag });
                }
            }
            let below = page.common_prefixes.into_iter().filter_map(|found| {
                let name = found.prefix.strip_prefix(prefix)?.strip_suffix('/')?.to_owned();
                is_name(&name).then_some(name)
            });
            found.directories.extend(below);
            match page.next_continuation_token {
                Some(next) if token.as_ref() != Some(&next) => token = Some(next),
                _ => return Ok(found),
            }
        }
        Err(RemoteError::Address(format!(
            "more than {} names lie in s3://{}/{prefix}; name the directory of the model",
            1000 * MAX_PAGES,
            self.name
        )))
    }

    fn page(
        &self,
        prefix: &str,
        token: Option<&str>,
    ) -> Result<rusty_s3::actions::ListObjectsV2Response, RemoteError> {
        let mut may_move = true;
        loop {
            let region = self.region();
            let bucket = self.at(&region)?;
            let mut action = ListObjectsV2::new(&bucket, self.credentials.as_ref());
            action.with_prefix(prefix);
            action.with_delimiter("/");
            if let Some(token) = token {
                action.with_continuation_token(token);
            }
            let url = action.sign(SIGNED_FOR).to_string();
            let request = Request::to(&url);
            let listed = client::send_until(request, |mut response| {
                if response.status == 200 {
                    let mut body = Vec::new();
                    response.read(MAX_PAGE_BYTES, &mut body)?;
                    let text = String::from_utf8_lossy(&body);
                    return ListObjectsV2::parse_response(&text).map(Some).map_err(|error| {
                        let why = format!("its listing cannot be read: {error}");
                        RemoteError::Contradiction { host: response.host(), why }
                    });
                }
                if may_move && self.moves(&response, &region) {
                    return Ok(None);
                }
                Err(self.explain(&mut response))
            })?;
            match listed {
                Some(page) => return Ok(page),
                None => may_move = false,
            }
        }
    }

    /// Adopts the region named in a response. Returns whether it changed.
    fn moves(&self, response: &FinalResponse, asked: &str) -> bool {
        let Some(named) = response.header("x-amz-bucket-region") else { return false };
        let is_region = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if named == asked || !is_region(named) || self.endpoint.is_some() {
            return false;
        }
        *self.region.lock().unwrap_or_else(PoisonError::into_inner) = named.to_owned();
        true
    }

    /// Returns a sentence about a refused request that says what to do.
    pub(super) fn explain(&self, response: &mut FinalResponse) -> RemoteError {
        if !matches!(response.status, 400 | 403 | 404) {
            return response.error();
        }
        let mut body = Vec::new();
        // Without a body, the status is the whole description.
        let _ = response.read(MAX_ERROR_BYTES, &mut body);
        let body = String::from_utf8_lossy(&body);
        let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        let (name, host) = (&self.name, response.host());
        let sentence = match code.map(|(code, _)| code).unwrap_or_default() {
            "NoSuchBucket" => format!("{host} has no bucket '{name}'"),
            "SignatureDoesNotMatch" => {
                "the signature is not accepted; check AWS_SECRET_ACCESS_KEY or the profile".into()
            }
            "InvalidAccessKeyId" | "NotSignedUp" => {
                "the access key is not known; check AWS_ACCESS_KEY_ID or the profile".into()
            }
            "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
                "the session token has expired; renew the credentials".into()
            }
            "RequestTimeTooSkewed" | "RequestExpired" => {
                "the clocks of this machine and of the server differ too much".into()
            }
            "AccessDenied" if self.credentials.is_none() => format!(
                "bucket '{name}' is not public; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ),
            "AccessDenied" => {
                format!("access to bucket '{name}' is denied; these credentials do not allow it")
            }
            _ => return response.error(),
        };
        RemoteError::Refused(sentence)
    }
}

/// Returns whether a name is valid in a directory.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\']) && !name.contains('\0')
}
