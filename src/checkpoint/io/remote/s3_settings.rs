//! The environment variables and profile files that configure AWS's own tools.

use crate::checkpoint::io::remote::error::RemoteError;
use rusty_s3::Credentials;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const DEFAULT_REGION: &str = "us-east-1";

/// Keys of profiles whose credentials come from a service or a program, which is not supported.
const INDIRECT_KEYS: [&str; 5] =
    ["role_arn", "sso_session", "sso_start_url", "credential_process", "login_session"];

/// The access settings of buckets.
#[derive(Debug)]
pub(super) struct S3Settings {
    /// The server, if it is not AWS.
    pub endpoint: Option<String>,
    pub region: String,
    /// `None` for unsigned requests, which public buckets allow.
    pub credentials: Option<Credentials>,
}

impl S3Settings {
    /// Reads the settings of the process: environment variables first, then the profile.
    ///
    /// # Errors
    ///
    /// The profile is missing, or its credentials come from an unsupported source.
    pub(super) fn of_process() -> Result<S3Settings, RemoteError> {
        S3Settings::new(&|name| std::env::var(name).ok(), &|path| {
            std::fs::read_to_string(path).ok()
        })
    }

    fn new(
        variable: &dyn Fn(&str) -> Option<String>,
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> Result<S3Settings, RemoteError> {
        let variable =
            |name: &str| variable(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let in_home = |name: &str| {
            let home = variable("HOME").or_else(|| variable("USERPROFILE"))?;
            Some(PathBuf::from(home).join(".aws").join(name))
        };
        let file = |name: &str, usual: &str| {
            let path = variable(name).map(PathBuf::from).or_else(|| in_home(usual));
            path.and_then(|path| read(&path)).unwrap_or_default()
        };
        let chosen = variable("AWS_PROFILE").or_else(|| variable("AWS_DEFAULT_PROFILE"));
        let name = chosen.as_deref().unwrap_or("default");
        let config = file("AWS_CONFIG_FILE", "config");
        let mut profile = section(&config, &format!("profile {name}"))
            .or_else(|| section(&config, name))
            .unwrap_or_default();
        let shared = section(&file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), name);
        // The credentials file has precedence.
        profile.extend(shared.unwrap_or_default());
        if chosen.is_some() && profile.is_empty() {
            return Err(RemoteError::Address(format!(
                "there is no profile '{}' in AWS's configuration; check AWS_PROFILE",
                name.escape_debug()
            )));
        }
        let key = |name: &str| profile.get(name).cloned();
        let from_environment = credentials(
            variable("AWS_ACCESS_KEY_ID"),
            variable("AWS_SECRET_ACCESS_KEY"),
            variable("AWS_SESSION_TOKEN"),
        );
        let credentials = from_environment.or_else(|| {
            credentials(
                key("aws_access_key_id"),
                key("aws_secret_access_key"),
                key("aws_session_token"),
            )
        });
        if credentials.is_none()
            && let Some(indirect) = INDIRECT_KEYS.iter().find(|name| profile.contains_key(**name))
        {
            return Err(RemoteError::Address(format!(
                "the profile '{}' takes its credentials from {indirect}, which is not read here; run `aws configure export-credentials --format env` and set what it prints",
                name.escape_debug()
            )));
        }
        let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
        let endpoint = variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL"));
        Ok(S3Settings {
            endpoint: endpoint.or_else(|| key("endpoint_url")),
            region: region.or_else(|| key("region")).unwrap_or_else(|| DEFAULT_REGION.to_owned()),
            credentials,
        })
    }
}

fn credentials(
    key: Option<String>,
    secret: Option<String>,
    token: Option<String>,
) -> Option<Credentials> {
    let (key, secret) = (key?, secret?);
    Some(match token {
        Some(token) => Credentials::new_with_token(key, secret, token),
        None => Credentials::new(key, secret),
    })
}

/// Returns the keys of a section of a profile file; `None` if it is missing. Indented lines belong
/// to the previous key and are ignored.
fn section(text: &str, name: &str) -> Option<HashMap<String, String>> {
    let mut found: Option<HashMap<String, String>> = None;
    let mut is_inside = false;
    for line in text.lines() {
        let is_comment = line.trim_start().starts_with(['#', ';']);
        if is_comment || line.starts_with([' ', '\t']) || line.trim().is_empty() {
            continue;
        }
        if let Some(header) = line.trim().strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            let words: Vec<&str> = header.split_whitespace().collect();
            is_inside = words.join(" ") == name;
            if is_inside {
                found.get_or_insert_default();
            }
        } else if let (true, Some(found), Some((key, value))) =
            (is_inside, &mut found, line.split_once('='))
        {
            found.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "\
# a comment
[default]
region = eu-west-1
s3 =
    addressing_style = path

[profile work]
region=us-west-2
endpoint_url = https://minio.example:9000
[profile other]
sso_session = corp
";
    const CREDENTIALS: &str = "\
[default]
aws_access_key_id = AKIDEFAULT
aws_secret_access_key = secret/default
[ work ]
aws_access_key_id = AKWORK
aws_secret_access_key = secret=work
aws_session_token = token
";

    fn settings(variables: &[(&str, &str)]) -> Result<S3Settings, RemoteError> {
        let variable = |name: &str| {
            let mut all = variables.iter().chain(&[("HOME", "/home/me")]);
            all.find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let read = |path: &Path| match path.to_str() {
            Some("/home/me/.aws/config") => Some(CONFIG.to_owned()),
            Some("/home/me/.aws/credentials" | "/elsewhere") => Some(CREDENTIALS.to_owned()),
            _ => None,
        };
        S3Settings::new(&variable, &read)
    }

    fn key(settings: &S3Settings) -> Option<(&str, &str, Option<&str>)> {
        let credentials = settings.credentials.as_ref()?;
        Some((credentials.key(), credentials.secret(), credentials.token()))
    }

    #[test]
    fn profiles_are_read_as_aws_reads_them() {
        let default = settings(&[]).expect("settings");
        assert_eq!(key(&default), Some(("AKIDEFAULT", "secret/default", None)));
        assert_eq!((default.region.as_str(), default.endpoint), ("eu-west-1", None));
        let work = settings(&[("AWS_PROFILE", "work")]).expect("settings");
        assert_eq!(key(&work), Some(("AKWORK", "secret=work", Some("token"))));
        assert_eq!(work.region, "us-west-2");
        assert_eq!(work.endpoint.as_deref(), Some("https://minio.example:9000"));
    }

    #[test]
    fn variables_come_before_profiles() {
        let found = settings(&[
            ("AWS_ACCESS_KEY_ID", "AK"),
            ("AWS_SECRET_ACCESS_KEY", "SK"),
            ("AWS_DEFAULT_REGION", "ap-south-1"),
            ("AWS_ENDPOINT_URL", "http://any"),
            ("AWS_ENDPOINT_URL_S3", "http://s3"),
        ]);
        let found = found.expect("settings");
        assert_eq!(key(&found), Some(("AK", "SK", None)));
        assert_eq!(
            (found.region.as_str(), found.endpoint.as_deref()),
            ("ap-south-1", Some("http://s3"))
        );
        let nothing = settings(&[("HOME", "/nowhere")]).expect("settings");
        assert!(nothing.credentials.is_none() && nothing.region == DEFAULT_REGION);
        let elsewhere = [("HOME", "/nowhere"), ("AWS_SHARED_CREDENTIALS_FILE", "/elsewhere")];
        assert!(settings(&elsewhere).expect("settings").credentials.is_some());
    }

    #[test]
    fn profiles_that_cannot_be_used_are_named() {
        let missing = settings(&[("AWS_PROFILE", "absent")]).expect_err("missing").to_string();
        assert!(missing.contains("no profile 'absent'"), "{missing}");
        let indirect = settings(&[("AWS_PROFILE", "other")]).expect_err("indirect").to_string();
        assert!(indirect.contains("sso_session") && indirect.contains("export-credentials"));
    }
}
