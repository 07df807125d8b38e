//! Repositories of the Hugging Face Hub.

use crate::checkpoint::io::remote::address::Repository;
use crate::checkpoint::io::remote::client::{self, FinalResponse, Request};
use crate::checkpoint::io::remote::error::RemoteError;
use crate::checkpoint::io::remote::hub_settings;
use crate::checkpoint::io::remote::location::escape_path;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Maximum size of a repository's description in bytes.
const MAX_INFO_BYTES: u64 = 256 << 20;

/// The files of a repository at one commit.
#[derive(Debug)]
pub(super) struct Listing {
    pub commit: String,
    /// Bytes of each file, by its path.
    pub files: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    size: u64,
}

/// Lists a repository with one request.
pub(super) fn list(repository: &Repository) -> Result<Listing, RemoteError> {
    let token = hub_settings::token();
    let url = format!(
        "{}/api/models/{}/revision/{}?blobs=true",
        hub_settings::endpoint(),
        escape_path(&repository.name),
        escape_path(&repository.revision).replace('/', "%2F"),
    );
    let request = Request { token: token.as_deref(), ..Request::to(&url) };
    client::send_until(request, |mut response| {
        if response.status != 200 {
            return Err(explain(&mut response, repository, token.is_some()));
        }
        let mut body = Vec::new();
        response.read(MAX_INFO_BYTES, &mut body)?;
        let info: Info = serde_json::from_slice(&body).map_err(|error| {
            let why = format!("its description of the repository cannot be read: {error}");
            RemoteError::Contradiction { host: response.host(), why }
        })?;
        let is_commit = info.sha.len() >= 7 && info.sha.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_commit {
            let why = "it names no commit".to_owned();
            return Err(RemoteError::Contradiction { host: response.host(), why });
        }
        let is_inside = |path: &str| path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        let siblings = info.siblings.into_iter().filter(|file| is_inside(&file.rfilename));
        let files = siblings
            .map(|file| {
                let size = file.lfs.map(|lfs| lfs.size).or(file.size).unwrap_or(0);
                (file.rfilename, size)
            })
            .collect();
        Ok(Listing { commit: info.sha, files })
    })
}

/// Returns the URL of a file at a commit.
pub(super) fn file_url(repository: &Repository, commit: &str, path: &str) -> String {
    let endpoint = hub_settings::endpoint();
    let (name, path) = (escape_path(&repository.name), escape_path(path));
    format!("{endpoint}/{name}/resolve/{commit}/{path}")
}

/// Returns a sentence about a refused request that says what to do.
pub(super) fn explain(
    response: &mut FinalResponse,
    repository: &Repository,
    has_token: bool,
) -> RemoteError {
    let Repository { name, revision } = repository;
    let page = format!("{}/{name}", hub_settings::endpoint());
    let sentence = match (response.header("x-error-code"), response.status) {
        (Some("GatedRepo"), _) if has_token => format!(
            "access to {name} is restricted and your token has none; accept its terms at {page}"
        ),
        (Some("GatedRepo"), _) => format!(
            "access to {name} is restricted; accept its terms at {page}, then set HF_TOKEN or run `hf auth login`"
        ),
        (Some("RepoNotFound"), _) if has_token => {
            format!("the Hub has no model {name} that your token can see; check the name")
        }
        (Some("RepoNotFound"), _) | (None, 401) => format!(
            "the Hub has no public model {name}; check the name, or set HF_TOKEN if it is private"
        ),
        (Some("RevisionNotFound"), _) => {
            format!("{name} has no revision '{revision}'; check the name after '@'")
        }
        (Some("InvalidToken"), _) => {
            "the Hub does not accept your token; set HF_TOKEN or run `hf auth login`".to_owned()
        }
        (Some("DisabledRepo"), _) => format!("{name} has been disabled by the Hub"),
        _ => return response.error(),
    };
    RemoteError::Refused(sentence)
}
