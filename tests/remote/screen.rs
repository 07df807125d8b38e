//! The inspector with a model on a server, in a pseudo-terminal.

#![cfg(unix)]

use crate::reading::hub;
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
