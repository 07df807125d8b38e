//! Models read from a server equal the local files.

use crate::server::{Hub, SIGNATURE, TOKEN, commit};
use crate::support::data;
use serde_json::Value;
use std::path::Path;

pub(crate) fn hub() -> Hub {
    let single = data("tiny-llama/single");
    let sharded = data("tiny-llama/sharded");
    let repositories: Vec<(&str, &Path)> = [
        ("org/model", &single),
        ("org/sharded", &sharded),
        ("org/limited", &single),
        ("org/cut", &single),
        ("org/expiring", &single),
        ("org/busy", &single),
        ("org/whole", &single),
        ("org/gated", &single),
        ("org/private", &single),
    ]
    .into_iter()
    .map(|(name, path)| (name, Path::new(path.as_str())))
    .collect();
    Hub::start(&repositories)
}

/// Runs the program with the hub's address, and returns its output.
pub(crate) fn run(hub: &Hub, args: &[&str], token: Option<&str>) -> String {
    let home = tempfile::tempdir().expect("a directory");
    let mut command = hub.quantscope(args, home.path());
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    let run = command.assert().success();
    String::from_utf8(run.get_output().stdout.clone()).expect("text")
}

/// Parses a JSON document and removes the paths.
pub(crate) fn without_paths(text: &str) -> Value {
    let mut json: Value = serde_json::from_str(text).expect("JSON");
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                for key in ["path", "model", "checkpoint", "file", "notes"] {
                    map.remove(key);
                }
                map.values_mut().for_each(strip);
            }
            Value::Array(values) => values.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut json);
    json
}

#[test]
fn documents_are_those_of_the_local_files() {
    let hub = hub();
    for (repository, local) in [("org/model", "single"), ("org/sharded", "sharded")] {
        let url = format!("hf://{repository}");
        let local = data(&format!("tiny-llama/{local}"));
        for command in
            [&["inspect", "--json"][..], &["analyze", "--json"], &["calibrate", "--json"]]
        {
            let with = |model: &str| [&command[..1], &[model], &command[1..]].concat().join(" ");
            let remote = run(&hub, &with(&url).split(' ').collect::<Vec<_>>(), None);
            let near = run(&hub, &with(&local).split(' ').collect::<Vec<_>>(), None);
            assert_eq!(without_paths(&remote), without_paths(&near), "{command:?} {url}");
        }
    }
}

/// `show`, `diff`, `report` and `check` print what they print of the local files.
#[test]
fn every_command_reads_a_server() {
    let hub = hub();
    let (near, far) = (data("tiny-llama/single"), "hf://org/model");
    let directory = tempfile::tempdir().expect("a directory");
    let page = directory.path().join("report.html");
    let page = page.to_str().expect("text");
    let name = "model.layers.0.mlp.up_proj.weight";
    let sharded = data("tiny-llama/sharded");
    let print = |args: &[&str], model: &str| run(&hub, args, None).replace(model, "MODEL");
    for args in [&["show", "MODEL", name][..], &["check", "MODEL"], &["diff", "MODEL", &sharded]] {
        let with = |model: &str| {
            let args: Vec<&str> =
                args.iter().map(|&arg| if arg == "MODEL" { model } else { arg }).collect();
            print(&args, model)
        };
        assert_eq!(with(far), with(&near), "{args:?}");
    }
    run(&hub, &["report", far, "-o", page], None);
    assert!(std::fs::read_to_string(page).expect("reads").contains(name));
}

#[test]
fn listing_takes_one_range_of_each_shard() {
    let hub = hub();
    run(&hub, &["inspect", "hf://org/sharded"], None);
    let shards = std::fs::read_dir(data("tiny-llama/sharded")).expect("lists");
    let is_shard = |name: &str| name.ends_with(".safetensors");
    let shards = shards
        .filter(|entry| is_shard(&entry.as_ref().expect("an entry").file_name().to_string_lossy()));
    let shards = shards.count();
    let ranges = hub.cdn_asked();
    assert_eq!(ranges.len(), shards);
    assert!(ranges.iter().all(|asked| asked.bytes <= 128 << 10), "{ranges:?}");
    let resolved = hub.hub_asked();
    assert_eq!(resolved.iter().filter(|asked| asked.line.contains(".safetensors?")).count(), 0);
    assert_eq!(
        resolved.iter().filter(|asked| asked.line.ends_with(".safetensors")).count(),
        shards
    );
}

#[test]
fn analysis_fetches_every_byte_at_most_once_besides_the_headers() {
    let hub = hub();
    run(&hub, &["analyze", "hf://org/model"], None);
    let size = std::fs::metadata(data("tiny-llama/single/model.safetensors")).expect("there").len();
    let fetched: u64 = hub.cdn_asked().iter().map(|asked| asked.bytes).sum();
    assert!(fetched <= size + (128 << 10), "{fetched} of {size}");
}

#[test]
fn servers_that_limit_cut_or_expire_are_read_to_the_end() {
    let hub = hub();
    let expected = run(&hub, &["analyze", "hf://org/model", "--json"], None);
    for name in ["limited", "cut", "expiring", "busy", "whole", "old-name"] {
        let found = run(&hub, &["analyze", &format!("hf://org/{name}"), "--json"], None);
        assert_eq!(without_paths(&found), without_paths(&expected), "{name}");
    }
}

#[test]
fn the_token_opens_gated_repositories_and_never_reaches_the_cdn() {
    let hub = hub();
    for name in ["gated", "private"] {
        run(&hub, &["analyze", &format!("hf://org/{name}")], Some(TOKEN));
    }
    assert!(hub.hub_asked().iter().any(|asked| asked.authorization.is_some()));
    assert!(!hub.cdn_asked().is_empty());
    assert!(hub.cdn_asked().iter().all(|asked| asked.authorization.is_none()));
}

#[test]
fn revisions_files_and_pages_can_be_named() {
    let hub = hub();
    let whole = run(&hub, &["inspect", "hf://org/model", "--json"], None);
    for address in [
        "hf://org/model@main".to_owned(),
        format!("hf://org/model@{}", commit("org/model")),
        "hf://org/model@refs/pr/1".to_owned(),
        "hf://org/model/model.safetensors".to_owned(),
        format!("{}/org/model/blob/main/model.safetensors", hub.endpoint),
        format!("{}/org/model/1/model.safetensors?Signature={SIGNATURE}", hub.cdn()),
    ] {
        let found = run(&hub, &["inspect", &address, "--json"], None);
        let tensors = |text: &str| without_paths(text)["tensors"].clone();
        assert_eq!(tensors(&found), tensors(&whole), "{address}");
    }
}

#[test]
fn a_second_visit_fetches_headers_alone() {
    let hub = hub();
    let home = tempfile::tempdir().expect("a directory");
    let analyze = || {
        let mut command = hub.quantscope(&["analyze", "hf://org/model"], home.path());
        command.env("XDG_CACHE_HOME", home.path()).assert().success();
        hub.cdn_asked().iter().map(|asked| asked.bytes).sum::<u64>()
    };
    let first = analyze();
    assert!(analyze() - first <= 128 << 10);
}

#[test]
fn a_file_of_the_local_cache_is_not_fetched_again() {
    let hub = hub();
    let home = tempfile::tempdir().expect("a directory");
    let snapshot = home.path().join("hub/models--org--model/snapshots").join(commit("org/model"));
    std::fs::create_dir_all(&snapshot).expect("made");
    let file = "model.safetensors";
    std::fs::copy(data(&format!("tiny-llama/single/{file}")), snapshot.join(file)).expect("copied");
    hub.quantscope(&["inspect", "hf://org/model"], home.path()).assert().success();
    assert!(hub.cdn_asked().is_empty());
    // Without a network the local snapshot is opened.
    let asked = hub.hub_asked().len();
    let pinned = format!("hf://org/model@{}", commit("org/model"));
    let mut offline = hub.quantscope(&["inspect", &pinned], home.path());
    offline.env("HF_HUB_OFFLINE", "1").assert().success();
    assert_eq!(hub.hub_asked().len(), asked);
}
