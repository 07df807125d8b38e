//! The parts of URLs needed for redirects.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use ureq::http::Uri;

/// Returns the host of a URL with its port, for messages and comparisons.
pub(super) fn host(url: &str) -> String {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_ascii_lowercase()
}

/// Resolves a `Location` header relative to `base`.
pub(super) fn join(base: &str, location: &str) -> String {
    let scheme = base.split_once("://").map_or("https", |(scheme, _)| scheme);
    let is_absolute = location.find(':').is_some_and(|at| {
        location.get(..at).is_some_and(|scheme| {
            !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric())
        })
    });
    if is_absolute {
        return location.to_owned();
    }
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{scheme}://{rest}");
    }
    let origin = format!("{scheme}://{}", authority(base));
    if location.starts_with('/') {
        return format!("{origin}{location}");
    }
    let path = base.split(['?', '#']).next().unwrap_or_default();
    let directory = path.rsplit_once('/').map_or(path, |(directory, _)| directory);
    format!("{directory}/{location}")
}

fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// Returns whether a URL leads to the public internet, that is, whether none of its host's
/// addresses belongs to this machine or a private network. A host that cannot be resolved counts as
/// public; it cannot be reached either.
pub(super) fn is_public(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return true };
    let Some(host) = uri.host() else { return true };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return is_public_address(address);
    }
    let port = uri.port_u16().unwrap_or(443);
    (bare, port)
        .to_socket_addrs()
        .map_or(true, |mut addresses| addresses.all(|address| is_public_address(address.ip())))
}

fn is_public_address(address: IpAddr) -> bool {
    let is_public_v4 = |v4: Ipv4Addr| {
        let is_shared = v4.octets()[0] == 100 && (64..128).contains(&v4.octets()[1]);
        !(v4.is_loopback()
            || v4.is_private()
            || v4.is_link_local()
            || v4.is_unspecified()
            || v4.is_broadcast()
            || is_shared)
    };
    let is_public_v6 = |v6: Ipv6Addr| {
        !(v6.is_loopback()
            || v6.is_unspecified()
            || v6.is_unique_local()
            || v6.is_unicast_link_local())
    };
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(|| is_public_v6(v6), is_public_v4),
    }
}

/// Percent-encodes a path for a URL.
pub(super) fn escape_path(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_as_in_browsers() {
        let base = "https://host:8080/a/b?q=1";
        for (location, expected) in [
            ("https://other/x", "https://other/x"),
            ("//other/x", "https://other/x"),
            ("/x?y=/z", "https://host:8080/x?y=/z"),
            ("c", "https://host:8080/a/c"),
            ("file:///etc/passwd", "file:///etc/passwd"),
        ] {
            assert_eq!(join(base, location), expected);
        }
    }

    #[test]
    fn hosts_are_compared_with_their_port_and_without_users() {
        assert_eq!(host("https://me:secret@Example.org:1/x@y"), "example.org:1");
        assert_eq!(host("https://example.org?a"), "example.org");
    }

    #[test]
    fn addresses_of_this_machine_and_of_private_networks_are_not_public() {
        for url in [
            "http://127.0.0.1:80/",
            "http://10.1.2.3/",
            "http://192.168.0.1/",
            "http://169.254.169.254/latest",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://0.0.0.0/",
            "http://100.64.0.1/",
        ] {
            assert!(!is_public(url), "{url}");
        }
        assert!(is_public("https://1.1.1.1/"));
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escape_path("a b/ü#.gguf"), "a%20b/%C3%BC%23.gguf");
    }
}
