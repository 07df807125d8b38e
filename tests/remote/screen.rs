//! The inspector with a model on a server, in a pseudo-terminal.

#![cfg(unix)]

use crate::reading::hub;
use crate::saving::tree;
use crate::server::{SIGNATURE, TOKEN};
use crate::session::Session;

#[test]
fn the_inspector_opens_and_measures_a_model_on_a_server() {
    let hub = hub();
    let environment = [("HF_ENDPOINT", hub.endpoint.as_str()), ("HF_HOME", "/nonexistent")];
    let mut session = Session::start(&["hf://org/sharded"], &environment);
    session.wait_for("sharded");
    session.wait_for("calibrated");
    session.wait_for("excellent");
    session.press("\x03");
    assert_eq!(session.end().exit_code(), 0);
}

#[test]
fn the_log_and_the_list_of_models_hold_no_secrets() {
    let hub = hub();
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    let (log, state) = (path("log.txt"), path("state"));
    let signed = format!("{}/org/model/1/model.safetensors?Signature={SIGNATURE}", hub.cdn());
    let environment = [
        ("HF_ENDPOINT", hub.endpoint.as_str()),
        ("HF_HOME", "/nonexistent"),
        ("HF_TOKEN", TOKEN),
        ("XDG_STATE_HOME", &state),
    ];
    for model in ["hf://org/gated", &signed] {
        let mut session = Session::start(&[model, "--log", &log], &environment);
        session.wait_for("calibrated");
        session.press("\x03");
        assert_eq!(session.end().exit_code(), 0);
        let written = tree(directory.path());
        assert!(written.contains_key("log.txt"));
        assert!(written.keys().any(|name| name.starts_with("state")), "{:?}", written.keys());
        for (name, bytes) in written {
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains(SIGNATURE) && !text.contains(TOKEN), "{name}: {text}");
        }
    }
}
