//! Recognizes remote paths.

use std::path::Path;

/// Prefixes of remote paths. `Path` may have merged the two slashes.
const SCHEMES: [&str; 4] = ["hf:/", "https:/", "http:/", "s3:/"];

/// Returns whether `path` is a remote address.
pub(crate) fn is_remote(path: &Path) -> bool {
    path.to_str().is_some_and(|text| SCHEMES.iter().any(|scheme| text.starts_with(scheme)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
