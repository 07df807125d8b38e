//! Every refusal and every misbehaviour of a server gives one sentence without secrets.

use crate::server::{Hub, SIGNATURE, TOKEN};
use crate::support::data;
use std::path::Path;

const MISBEHAVING: [&str; 8] =
    ["gated", "circle", "to-file", "shifted", "other-size", "no-range", "endless", "private"];

/// The error for a model that cannot be opened.
fn fails(hub: &Hub, args: &[&str], token: Option<&str>) -> String {
    let home = tempfile::tempdir().expect("a directory");
    let mut command = hub.quantscope(args, home.path());
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    let run = command.assert().failure();
    let output = run.get_output();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(!printed.contains(SIGNATURE) && !printed.contains(TOKEN), "{printed}");
    printed
}

fn hub() -> Hub {
    let model = data("tiny-llama/single");
    let names: Vec<String> = MISBEHAVING.iter().map(|name| format!("org/{name}")).collect();
    let repositories: Vec<(&str, &Path)> =
        names.iter().map(|name| (name.as_str(), Path::new(&model))).collect();
    Hub::start(&repositories)
}

#[test]
fn refusals_of_the_hub_say_what_to_do() {
    let hub = hub();
    let inspect = |name: &str, token| fails(&hub, &["inspect", &format!("hf://org/{name}")], token);
    assert!(inspect("absent", None).contains("no public model org/absent"));
    assert!(inspect("absent", Some(TOKEN)).contains("that your token can see"));
    assert!(inspect("private", None).contains("set HF_TOKEN if it is private"));
    assert!(inspect("gated", None).contains("accept its terms at"));
    assert!(inspect("gated", Some("hf_wrong")).contains("does not accept your token"));
    assert!(inspect("gated@v9", Some(TOKEN)).contains("no revision 'v9'"));
}

#[test]
fn inconsistent_servers_are_reported_in_one_sentence() {
    let hub = hub();
    for (name, expected) in [
        ("circle", "redirects more than 8 times"),
        ("to-file", "redirects to something other than https"),
        ("shifted", "another range than asked for"),
        ("other-size", "has changed on the server"),
        ("no-range", "without saying which"),
        ("endless", "contradicts itself"),
    ] {
        let printed = fails(&hub, &["inspect", &format!("hf://org/{name}")], None);
        assert!(printed.contains(expected), "{name}: {printed}");
    }
}

#[test]
fn texts_that_are_not_addresses_are_named() {
    let hub = hub();
    let printed = fails(&hub, &["inspect", "hf://name"], None);
    assert!(printed.contains("expected hf://org/name"), "{printed}");
    let printed = fails(&hub, &["inspect", "org/some-model"], None);
    assert!(printed.contains("hf://org/some-model"), "{printed}");
    let unreachable = format!("http://127.0.0.1:1/model.safetensors?Signature={SIGNATURE}");
    let printed = fails(&hub, &["inspect", &unreachable], None);
    assert!(printed.contains("cannot reach 127.0.0.1:1"), "{printed}");
}

#[test]
fn nothing_is_fetched_where_the_hub_is_off_limits() {
    let hub = hub();
    let home = tempfile::tempdir().expect("a directory");
    let mut command = hub.quantscope(&["inspect", "hf://org/gated"], home.path());
    let run = command.env("HF_HUB_OFFLINE", "1").assert().failure();
    let printed = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    assert!(printed.contains("HF_HUB_OFFLINE is set"), "{printed}");
    assert!(hub.hub_asked().is_empty());
}
