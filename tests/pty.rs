//! The real program on a real terminal: it draws, it answers, and however it is left the
//! terminal is as it was.

#![cfg(unix)]

#[path = "support/session.rs"]
mod session;

use rustix::process::Signal;
use session::{ENTER, LEAVE, Session};
use std::time::Duration;

#[test]
fn it_starts_with_the_demo_calibrates_and_quits() {
    let mut session = Session::start(&[], &[]);
    session.wait_for("calibrated");
    session.wait_for("classifier.0.weight");
    session.press("j ");
    session.wait_for("1 tensor marked");
    session.press("q");
    session.wait_for("Quit all the same?");
    session.press("y");
    assert_eq!(session.end().exit_code(), 0);
}

#[test]
fn a_save_leaves_its_receipt_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("out.safetensors");
    let mut session = Session::start(&["tests/data/tiny-llama/sharded"], &[]);
    session.wait_for("calibrated");
    session.press("as\x15");
    session.press(&format!("{}\r", out.display()));
    session.wait_for("Saved and verified");
    session.press("\r");
    session.wait_until("the window to close", |s| !s.screen().contains("Saved and verified"));
    session.press("q");
    let output = session.output.clone();
    assert_eq!(session.end().exit_code(), 0);
    let raw = String::from_utf8_lossy(&output.lock().expect("no panic")).into_owned();
    let printed = &raw[raw.rfind(LEAVE).expect("left")..];
    assert!(printed.contains("Saved and verified") && printed.contains("15 tensors"), "{printed}");
    assert!(out.is_file());
}

#[test]
fn a_signal_ends_it_and_the_terminal_is_given_back() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let mut session = Session::start(&[], &[]);
        session.wait_for("calibrated");
        session.signal(signal);
        assert!(!session.end().success(), "{signal:?}");
    }
}

#[test]
fn it_can_be_suspended_and_comes_back() {
    let mut session = Session::start(&[], &[]);
    session.wait_for("calibrated");
    session.press("\x1a");
    session.wait_until("the screen to be left", |session| session.raw().contains(LEAVE));
    // The process stops itself right after.
    std::thread::sleep(Duration::from_millis(200));
    session.signal(Signal::CONT);
    session.wait_until("the screen to be entered again", |session| {
        let raw = session.raw();
        raw.rfind(ENTER) > raw.rfind(LEAVE)
    });
    session.wait_for("classifier.0.weight");
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
}

#[test]
fn without_colour_no_colour_is_sent() {
    let mut session = Session::start(&[], &[("NO_COLOR", "1")]);
    session.wait_for("calibrated");
    session.press("q");
    let output = session.output.clone();
    session.end();
    let raw = String::from_utf8_lossy(&output.lock().expect("no panic")).into_owned();
    let colour = regex::Regex::new(r"\x1b\[(?:\d+;)*(?:(?:3|4|9|10)[0-7]|[34]8)(?:;\d+)*m");
    assert!(!colour.expect("a pattern").is_match(&raw), "a colour was sent");
}

#[test]
fn a_terminal_that_cannot_draw_is_told_what_to_use_instead() {
    let mut session = Session::start(&[], &[("TERM", "dumb")]);
    session.wait_for("quantscope analyze");
    let status = session.child.wait().expect("ends");
    assert_eq!(status.exit_code(), 1);
}
