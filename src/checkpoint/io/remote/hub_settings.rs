//! The environment variables and files that configure `huggingface_hub`.

use crate::directories;
use std::path::PathBuf;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// The Hub's address without a trailing slash: `HF_ENDPOINT`.
pub(super) fn endpoint() -> String {
    let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
    endpoint.trim_end_matches('/').to_owned()
}

/// Returns whether a host, including its port, is the Hub.
pub(super) fn is_hub(host: &str) -> bool {
    let endpoint = endpoint();
    let hub = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, host)| host);
    host == hub || matches!(host, "huggingface.co" | "www.huggingface.co" | "hf.co")
}

/// Returns whether fetching is forbidden: `HF_HUB_OFFLINE`.
pub(super) fn is_offline() -> bool {
    let is_set = |name| {
        variable(name).is_some_and(|value| {
            ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
        })
    };
    is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE")
}

/// The user's access token: `HF_TOKEN`, or the file that `hf auth login` writes.
pub(super) fn token() -> Option<String> {
    let old = || variable("HUGGING_FACE_HUB_TOKEN");
    variable("HF_TOKEN").or_else(old).or_else(|| {
        let path = variable("HF_TOKEN_PATH").map(PathBuf::from);
        let path = path.or_else(|| Some(directories::hugging_face_home()?.join("token")))?;
        let text = std::fs::read_to_string(path).ok()?;
        Some(text.trim().to_owned()).filter(|token| !token.is_empty())
    })
}

/// Returns the directory of a repository in the local cache.
pub(super) fn cached_repository(name: &str) -> Option<PathBuf> {
    Some(directories::hugging_face()?.join(format!("models--{}", name.replace('/', "--"))))
}
