//! Models in a bucket: signed requests, listings, and what is said when access is refused.

use crate::bucket::{BucketServer, KEY, SECRET, SESSION};
use crate::reading::without_paths;
use crate::saving::tree;
use crate::support::{data, quantscope};
use std::path::{Path, PathBuf};

/// A bucket with the model below two directories.
pub(crate) fn bucket(is_public: bool) -> (BucketServer, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["single", "sharded"] {
        let to = directory.path().join("a b").join(name);
        std::fs::create_dir_all(&to).expect("creates");
        for entry in std::fs::read_dir(data(&format!("tiny-llama/{name}"))).expect("lists") {
            let from = entry.expect("an entry").path();
            std::fs::copy(&from, to.join(from.file_name().expect("named"))).expect("copies");
        }
    }
    (BucketServer::start(directory.path(), is_public), directory)
}

pub(crate) struct Settings<'s> {
    server: &'s BucketServer,
    home: PathBuf,
    variables: Vec<(&'s str, &'s str)>,
}

impl<'s> Settings<'s> {
    pub(crate) fn new(
        server: &'s BucketServer,
        home: &Path,
        variables: &[(&'s str, &'s str)],
    ) -> Self {
        Settings { server, home: home.to_owned(), variables: variables.to_vec() }
    }

    pub(crate) fn command(&self, args: &[&str]) -> assert_cmd::Command {
        let mut command = quantscope(args);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        command.env("HOME", &self.home).env("XDG_CACHE_HOME", &self.home);
        command.env("AWS_ENDPOINT_URL", &self.server.endpoint);
        command.envs(self.variables.iter().copied());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> String {
        let run = self.command(args).assert().success();
        String::from_utf8(run.get_output().stdout.clone()).expect("text")
    }

    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let run = self.command(args).assert().failure();
        let said = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        assert!(!said.contains(SECRET) && !said.contains("X-Amz"), "{said}");
        said
    }
}

pub(crate) const KEYS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];

#[test]
fn documents_are_those_of_the_local_files() {
    let (server, home) = bucket(false);
    let settings = Settings::new(&server, home.path(), &KEYS);
    for (url, local) in [
        ("s3://models/a b/single", "single"),
        ("s3://models/a b/sharded/", "sharded"),
        ("s3://models/a b/sharded/model.safetensors.index.json", "sharded"),
        ("s3://models/a b/single/model.safetensors", "single"),
    ] {
        let local = data(&format!("tiny-llama/{local}"));
        for command in ["inspect", "calibrate"] {
            let remote = settings.run(&[command, url, "--json"]);
            let near = settings.run(&[command, &local, "--json"]);
            let tensors = |text: &str| without_paths(text)["tensors"].clone();
            assert_eq!(tensors(&remote), tensors(&near), "{command} {url}");
        }
    }
    assert!(server.asked().iter().all(|line| line.contains("X-Amz-Signature=")));
}

#[test]
fn a_model_is_converted_to_the_bytes_of_the_local_files() {
    let (server, home) = bucket(false);
    let settings = Settings::new(&server, home.path(), &KEYS);
    let out = |name: &str| home.path().join(name).to_str().expect("text").to_owned();
    settings.run(&["quantize", "s3://models/a b/sharded", "-o", &out("there"), "--for", "vllm"]);
    let local = data("tiny-llama/sharded");
    settings.run(&["quantize", &local, "-o", &out("here"), "--for", "vllm"]);
    assert!(tree(Path::new(&out("there"))) == tree(Path::new(&out("here"))));
    settings.run(&["verify", &out("there"), "--against", "s3://models/a b/sharded"]);
}

#[test]
fn credentials_come_from_variables_profiles_or_are_not_needed() {
    let (server, home) = bucket(false);
    let inspect = ["inspect", "s3://models/a b/single"];
    let session = [KEYS[0], KEYS[1], ("AWS_SESSION_TOKEN", SESSION)];
    Settings::new(&server, home.path(), &session).run(&inspect);
    std::fs::create_dir(home.path().join(".aws")).expect("creates");
    let file = format!("[work]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n");
    std::fs::write(home.path().join(".aws/credentials"), file).expect("writes");
    Settings::new(&server, home.path(), &[("AWS_PROFILE", "work")]).run(&inspect);
    let (public, home) = bucket(true);
    Settings::new(&public, home.path(), &[]).run(&inspect);
}

#[test]
fn refusals_say_what_to_do() {
    let (server, home) = bucket(false);
    let inspect = ["inspect", "s3://models/a b/single"];
    let says = |variables: &[(&str, &str)], args: &[&str]| {
        Settings::new(&server, home.path(), variables).fails(args)
    };
    let wrong = [KEYS[0], ("AWS_SECRET_ACCESS_KEY", "wrong")];
    let unknown = [("AWS_ACCESS_KEY_ID", "AKOTHER"), KEYS[1]];
    let expired = [KEYS[0], KEYS[1], ("AWS_SESSION_TOKEN", "old")];
    for (variables, args, expected) in [
        (&wrong[..], &inspect, "check AWS_SECRET_ACCESS_KEY"),
        (&unknown[..], &inspect, "check AWS_ACCESS_KEY_ID"),
        (&expired[..], &inspect, "session token has expired"),
        (&[][..], &inspect, "bucket 'models' is not public"),
        (&[("AWS_PROFILE", "none")][..], &inspect, "no profile 'none'"),
        (&KEYS[..], &["inspect", "s3://absent/x"], "has no bucket 'absent'"),
        (&KEYS[..], &["inspect", "s3://models/nothing"], "no such file"),
        (&KEYS[..], &["inspect", "s3://"], "expected s3://bucket/prefix"),
    ] {
        let said = says(variables, args);
        assert!(said.to_lowercase().contains(&expected.to_lowercase()), "{args:?}: {said}");
    }
}

#[test]
fn an_object_can_be_read_where_names_cannot_be_listed() {
    let (server, home) = bucket(false);
    server.hide_names();
    let settings = Settings::new(&server, home.path(), &KEYS);
    settings.run(&["inspect", "s3://models/a b/single/model.safetensors"]);
    let said = settings.fails(&["inspect", "s3://models/a b/single"]);
    assert!(said.contains("access to bucket 'models' is denied"), "{said}");
}

#[test]
fn figures_are_found_again_until_an_object_changes() {
    let (server, home) = bucket(false);
    let settings = Settings::new(&server, home.path(), &KEYS);
    let url = "s3://models/a b/single";
    let ranges = || {
        let before = server.asked().len();
        settings.run(&["analyze", url, "--json"]);
        let asked = server.asked();
        asked[before..].iter().filter(|line| line.contains("model.safetensors")).count()
    };
    let first = ranges();
    assert!(first > 1 && ranges() == 1, "a second visit reads the header alone");
    server.change();
    assert_eq!(ranges(), first);
    for entry in std::fs::read_dir(home.path().join("quantscope")).expect("a cache") {
        let bytes = std::fs::read(entry.expect("an entry").path()).expect("reads");
        for secret in [KEY, SECRET, "X-Amz"] {
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "the cache holds {secret}");
        }
    }
}
