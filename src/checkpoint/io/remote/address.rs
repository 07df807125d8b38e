//! Parses remote paths.

use crate::checkpoint::io::remote::hub_settings;
use crate::checkpoint::io::remote_path::with_query;
use std::path::Path;

/// A parsed remote path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A path in a repository of the Hub.
    Hub { repository: Repository, path: String },
    /// A path in a bucket of S3.
    S3 { bucket: String, path: String },
    /// The URL of a file.
    Http(String),
}

/// A repository of the Hub at a revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Repository {
    /// `org/name`.
    pub name: String,
    /// A branch, tag or commit.
    pub revision: String,
}

/// Revisions that contain a slash.
const SLASHED_REVISIONS: [&str; 2] = ["refs/pr/", "refs/convert/"];

const DEFAULT_REVISION: &str = "main";

impl Address {
    /// Parses a remote path: `hf://org/name[@revision][/path]`, `s3://bucket/path`, the URL of a
    /// page of the Hub, or the URL of a file. The error says what is wrong.
    pub(super) fn parse(path: &Path) -> Result<Address, String> {
        let text = path.to_str().ok_or("it is not UTF-8")?;
        if let Some(rest) = text.strip_prefix("hf:/") {
            return Self::hub(rest.trim_start_matches('/'));
        }
        if let Some(rest) = text.strip_prefix("s3:/") {
            return Self::s3(rest.trim_start_matches('/'));
        }
        let Some((scheme, rest)) = text.split_once(":/") else {
            return Err("expected hf://, s3://, https:// or http://".to_owned());
        };
        let rest = rest.trim_start_matches('/');
        let url = format!("{scheme}://{rest}");
        let host = rest.split('/').next().unwrap_or_default();
        if host.is_empty() {
            return Err("it names no host: expected https://host/path".to_owned());
        }
        if hub_settings::is_hub(host)
            && let Some((_, page)) = rest.split_once('/')
        {
            return Self::page(page);
        }
        Ok(Address::Http(with_query(url)))
    }

    fn hub(text: &str) -> Result<Address, String> {
        let expected = || "expected hf://org/name[@revision][/path]".to_owned();
        let (name, rest) = match text.split_once('@') {
            // Further '@' characters belong to a file's name.
            Some((name, rest)) if name.matches('/').count() == 1 => (name.to_owned(), Some(rest)),
            _ => {
                let mut parts = text.splitn(3, '/');
                let (org, name) = (parts.next().unwrap_or_default(), parts.next());
                let name = format!("{org}/{}", name.ok_or_else(expected)?);
                return Self::new(name, DEFAULT_REVISION, parts.next().unwrap_or_default());
            }
        };
        let rest = rest.unwrap_or_default();
        let slashed = SLASHED_REVISIONS.iter().find(|start| rest.starts_with(**start));
        let after = slashed.map_or(0, |start| start.len());
        let end = rest.get(after..).and_then(|tail| tail.find('/')).map(|at| after + at);
        let (revision, path) = match end {
            Some(end) => (rest.get(..end), rest.get(end + 1..)),
            None => (Some(rest), None),
        };
        let revision = revision.unwrap_or_default().replace("%2F", "/").replace("%2f", "/");
        if revision.is_empty() {
            return Err(expected());
        }
        Self::new(name, &revision, path.unwrap_or_default())
    }

    fn s3(text: &str) -> Result<Address, String> {
        let (bucket, path) = text.split_once('/').unwrap_or((text, ""));
        let is_bucket = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let is_plain = |path: &str| {
            path.split('/').all(|part| !matches!(part, "" | "." | ".."))
                && !path.chars().any(char::is_control)
        };
        let path = path.trim_matches('/');
        if bucket.is_empty() || !bucket.chars().all(is_bucket) || bucket.starts_with('.') {
            return Err("expected s3://bucket/prefix".to_owned());
        }
        if !path.is_empty() && !is_plain(path) {
            return Err(format!("'{}' is not a path in a bucket", path.escape_debug()));
        }
        Ok(Address::S3 { bucket: bucket.to_owned(), path: path.to_owned() })
    }

    /// Parses the path of a page of the Hub: `org/name[/tree|blob|resolve/revision[/path]]`.
    fn page(page: &str) -> Result<Address, String> {
        let page = page.split(['?', '#']).next().unwrap_or_default();
        let mut parts = page.splitn(5, '/');
        let mut next = || parts.next().unwrap_or_default();
        let (org, name, view, revision, path) = (next(), next(), next(), next(), next());
        let name = format!("{org}/{name}");
        match view {
            "" => Self::new(name, DEFAULT_REVISION, ""),
            "tree" | "blob" | "resolve" | "raw" if !revision.is_empty() => {
                Self::new(name, &revision.replace("%2F", "/"), path)
            }
            _ => Err("it is not a page of a model's files: expected hf://org/name".to_owned()),
        }
    }

    fn new(name: String, revision: &str, path: &str) -> Result<Address, String> {
        let path = path.trim_matches('/').to_owned();
        let is_plain = |text: &str| {
            !text.is_empty()
                && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
                && !text.chars().any(|c| c.is_control() || matches!(c, '?' | '#' | '\\'))
        };
        if name.matches('/').count() != 1 || !is_plain(&name) {
            return Err(format!(
                "'{}' is not a repository: expected org/name",
                name.escape_debug()
            ));
        }
        if !is_plain(revision) {
            return Err(format!("'{}' is not a revision", revision.escape_debug()));
        }
        if !path.is_empty() && !is_plain(&path) {
            return Err(format!("'{}' is not a path in a repository", path.escape_debug()));
        }
        let repository = Repository { name, revision: revision.to_owned() };
        Ok(Address::Hub { repository, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(text: &str) -> (String, String, String) {
        match Address::parse(Path::new(text)) {
            Ok(Address::Hub { repository, path }) => (repository.name, repository.revision, path),
            other => panic!("{text}: {other:?}"),
        }
    }

    fn parts(name: &str, revision: &str, path: &str) -> (String, String, String) {
        (name.to_owned(), revision.to_owned(), path.to_owned())
    }

    #[test]
    fn addresses_of_the_hub_are_parsed() {
        assert_eq!(hub("hf://org/name"), parts("org/name", "main", ""));
        assert_eq!(hub("hf://org/name/"), parts("org/name", "main", ""));
        assert_eq!(hub("hf:/org/name/a/b.gguf"), parts("org/name", "main", "a/b.gguf"));
        assert_eq!(hub("hf://org/name@v1.0"), parts("org/name", "v1.0", ""));
        assert_eq!(hub("hf://org/name@v1/sub"), parts("org/name", "v1", "sub"));
        assert_eq!(hub("hf://org/name@refs/pr/3/x"), parts("org/name", "refs/pr/3", "x"));
        assert_eq!(hub("hf://org/name@refs%2Fpr%2F3"), parts("org/name", "refs/pr/3", ""));
        assert_eq!(hub("hf://org/name/a@b.gguf"), parts("org/name", "main", "a@b.gguf"));
    }

    #[test]
    fn pages_of_the_hub_name_their_repository() {
        let page = "https://huggingface.co/org/name";
        assert_eq!(hub(page), parts("org/name", "main", ""));
        assert_eq!(hub(&format!("{page}/tree/v2")), parts("org/name", "v2", ""));
        let file = format!("{page}/blob/main/sub/model.safetensors?download=true");
        assert_eq!(hub(&file), parts("org/name", "main", "sub/model.safetensors"));
        assert!(Address::parse(Path::new(&format!("{page}/discussions"))).is_err());
    }

    #[test]
    fn buckets_have_any_path() {
        let parsed = |text: &str| match Address::parse(Path::new(text)) {
            Ok(Address::S3 { bucket, path }) => (bucket, path),
            other => panic!("{text}: {other:?}"),
        };
        let parts = |bucket: &str, path: &str| (bucket.to_owned(), path.to_owned());
        assert_eq!(parsed("s3://models"), parts("models", ""));
        assert_eq!(parsed("s3:/models/a b/c?d@e/"), parts("models", "a b/c?d@e"));
    }

    #[test]
    fn other_urls_are_files() {
        let url = "https://example.org/a/model.safetensors?key=1";
        assert_eq!(Address::parse(Path::new(url)), Ok(Address::Http(url.to_owned())));
    }

    #[test]
    fn invalid_addresses_are_refused() {
        for text in [
            "hf://name",
            "hf://org/",
            "hf://../name",
            "hf://org/name@",
            "hf://org/name/../../x",
            "hf://org/na?me",
            "s3://",
            "s3://bucket/../x",
            "s3://buc ket/x",
        ] {
            assert!(Address::parse(Path::new(text)).is_err(), "{text}");
        }
    }
}
