//! Recognizes remote paths.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Prefixes of remote paths. `Path` may have merged the two slashes.
const SCHEMES: [&str; 4] = ["hf:/", "https:/", "http:/", "s3:/"];

/// Returns whether `path` is a remote address.
pub(crate) fn is_remote(path: &Path) -> bool {
    path.to_str().is_some_and(|text| SCHEMES.iter().any(|scheme| text.starts_with(scheme)))
}

/// The queries of URLs, by the URL without its query.
static QUERIES: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// Returns a URL without its query, which may hold a signature and must not be printed or stored.
/// [`with_query`] restores it.
pub(crate) fn without_query(path: &Path) -> Cow<'_, Path> {
    let is_url = |text: &&str| text.starts_with("https:/") || text.starts_with("http:/");
    let url = path.to_str().filter(is_url).and_then(|text| text.split_once('?'));
    let Some((url, query)) = url else { return Cow::Borrowed(path) };
    let mut queries = QUERIES.lock().unwrap_or_else(PoisonError::into_inner);
    queries.insert(normalized(url), query.to_owned());
    Cow::Owned(PathBuf::from(url))
}

/// Returns a URL with the query that [`without_query`] removed, if any.
#[cfg_attr(not(any(feature = "remote", test)), expect(dead_code))]
pub(crate) fn with_query(url: String) -> String {
    let queries = QUERIES.lock().unwrap_or_else(PoisonError::into_inner);
    match queries.get(&normalized(&url)) {
        Some(query) => format!("{url}?{query}"),
        None => url,
    }
}

/// The URL with both slashes after its scheme.
fn normalized(url: &str) -> String {
    match url.split_once(":/") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.trim_start_matches('/')),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_removed_and_restored() {
        let signed = Path::new("https://host/a.safetensors?X-Amz-Signature=1&b=?2");
        let plain = without_query(signed);
        assert_eq!(&*plain, Path::new("https://host/a.safetensors"));
        let restored = with_query("https://host/a.safetensors".to_owned());
        assert_eq!(Path::new(&restored), signed);
        assert_eq!(with_query("https://host/b".to_owned()), "https://host/b");
        for path in ["models/what?.safetensors", "hf://org/name", "s3://bucket/a?b"] {
            assert_eq!(&*without_query(Path::new(path)), Path::new(path));
        }
    }

    #[test]
    fn only_known_schemes_are_remote() {
        for remote in ["hf://org/name", "hf:/org/name", "https://host/a", "s3://bucket/a"] {
            assert!(is_remote(Path::new(remote)), "{remote}");
        }
        for local in ["hf", "model", "ftp://host/a", "./hf:/a", "C:/models"] {
            assert!(!is_remote(Path::new(local)), "{local}");
        }
    }
}
