//! The terminal is restored however the inspector ends: on errors, on a panic of any thread, on
//! every signal, during jobs, and after being suspended.

#![cfg(unix)]

use crate::session::{ENTER, LEAVE, Session};
use portable_pty::CommandBuilder;
use quantscope::failpoints::{ArmedFailure, Failpoint, Failure, arm};
use quantscope::tui::{self, Options};
use rustix::process::Signal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const CHILD: &str = "QUANTSCOPE_TEST_FAULT";
const SHARDED: &str = "tests/data/tiny-llama/sharded";

/// Runs the inspector with an armed failpoint. Other tests start this in a terminal of its own.
#[test]
#[ignore = "is the program that other tests start"]
fn the_inspector_with_a_fault() {
    let Ok(which) = std::env::var(CHILD) else { return };
    let (failpoint, step, failure) = match which.as_str() {
        "worker" => (Failpoint::Scan, 3, Failure::Panic),
        // The failure is in the second round, when the results of the first are shown.
        "unreadable" => (Failpoint::Scan, 24, Failure::OsError(5)),
        "screen" => (Failpoint::Screen, 4, Failure::Panic),
        "output" => (Failpoint::Screen, 4, Failure::OsError(5)),
        "save" => (Failpoint::Disk, 6, Failure::Panic),
        "disk" => (Failpoint::Disk, 6, Failure::OsError(28)),
        other => panic!("no fault is called {other}"),
    };
    arm(ArmedFailure { failpoint, step, failure, repeats: false });
    let checkpoint = quantscope::demo::open_model(Path::new(SHARDED)).expect("opens");
    let ended = tui::run(Arc::new(checkpoint), Options { threads: Some(2), ..Options::default() });
    if let Err(error) = ended {
        println!("ended with: {error:#}");
        std::process::exit(7);
    }
}

fn start(fault: &str) -> Session {
    let program = std::env::current_exe().expect("this program");
    let mut command = CommandBuilder::new(program);
    command.args(["--ignored", "--exact", "restored::the_inspector_with_a_fault", "--nocapture"]);
    Session::spawn(command, &[(CHILD, fault)])
}

/// The output after the alternate screen was left.
fn printed_after(session: &Session) -> String {
    let raw = session.raw();
    raw[raw.rfind(LEAVE).map_or(0, |at| at + LEAVE.len())..].to_owned()
}

#[test]
fn a_panicking_worker_marks_a_row_and_the_rest_continues() {
    let mut session = start("worker");
    session.wait_for("Calibration failed");
    session.wait_for("a test's panic at step 3");
    session.press("\x1b");
    session.wait_until("the window to close", |s| !s.screen().contains("Calibration failed"));
    // The other tensors have figures, and the failed one has a reason.
    session.press("/is:unreadable\r");
    session.wait_for("panicked over it: a test's panic");
    session.wait_for("1 of 21 tensors");
    session.press("\x1b");
    session.wait_until("figures", |s| s.screen().matches(" dB ").count() > 10);
    session.press("c");
    session.wait_for("calibrated");
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
}

#[test]
fn a_tensor_that_cannot_be_read_is_a_marked_row() {
    let mut session = start("unreadable");
    session.wait_for("calibrated");
    session.press("/is:unreadable\r");
    session.wait_for("Input/output");
    session.wait_for("1 of 21 tensors");
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
}

#[test]
fn a_panic_of_the_screen_restores_the_terminal() {
    let mut session = start("screen");
    let reported = |s: &Session| s.raw().contains("a test's panic at step 4");
    session.press_until("j", "the report", reported);
    let output = session.output.clone();
    assert!(!session.end().success());
    // The report is printed on the normal screen, after the alternate screen was left.
    let raw = String::from_utf8_lossy(&output.lock().expect("no panic")).into_owned();
    assert!(raw.find("a test's panic") > raw.find(LEAVE), "{raw}");
}

#[test]
fn a_terminal_error_restores_the_terminal_and_is_reported() {
    let mut session = start("output");
    session.press_until("j", "the end", |s| s.raw().contains("ended with:"));
    assert!(printed_after(&session).contains("ended with: Input/output error"));
    assert_eq!(session.end().exit_code(), 7);
}

#[test]
fn the_screen_survives_a_failed_or_panicked_save() {
    for (fault, said) in [("save", "a test's panic at step 6"), ("disk", "No space left")] {
        let directory = tempfile::tempdir().expect("a directory");
        let out = directory.path().join("out");
        let mut session = start(fault);
        session.wait_for("calibrated");
        session.press("as\x15");
        session.press(&format!("{}\r", out.display()));
        session.wait_for(said);
        assert!(std::fs::read_dir(directory.path()).expect("lists").next().is_none(), "{fault}");
        session.press("\x1b");
        session.wait_until("the reason to go", |s| !s.screen().contains(said));
        // Press Esc only if the dialog is still open: otherwise the program would read the Esc and the
        // next key as one key with Alt.
        if session.screen().contains("Save the quantized") {
            session.press("\x1b");
        }
        session.wait_until("the dialog to go", |s| !s.screen().contains("Save the quantized"));
        session.wait_for("15 tensors marked");
        session.press("q");
        session.wait_for("Quit anyway?");
        session.press("y");
        assert_eq!(session.end().exit_code(), 0, "{fault}");
    }
}

/// A sparse model that takes hours to measure.
fn endless(directory: &Path) -> Option<String> {
    let path = directory.join("model.safetensors");
    let bytes = 1u64 << 40;
    let header =
        format!(r#"{{"w":{{"dtype":"F32","shape":[262144,1048576],"data_offsets":[0,{bytes}]}}}}"#);
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    std::fs::write(&path, &file).expect("writes");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opens");
    file.set_len(8 + header.len() as u64 + bytes).ok()?;
    path.to_str().map(str::to_owned)
}

#[test]
fn every_signal_ends_the_inspector_during_a_job() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(model) = endless(directory.path()) else { return };
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let mut session = Session::start(&[&model], &[]);
        session.wait_for("calibrating");
        session.signal(signal);
        assert!(!session.end().success(), "{signal:?}");
    }
    // Quitting with a key works too.
    let mut session = Session::start(&[&model], &[]);
    session.wait_for("calibrating");
    session.press("\x03");
    assert_eq!(session.end().exit_code(), 0);
}

/// Suspends in every dialog, and while jobs run.
#[test]
fn the_inspector_is_suspended_and_resumed_in_every_dialog() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(model) = endless(directory.path()) else { return };
    let mut session = Session::start(&[&model], &[]);
    session.wait_for("calibrating");
    for keys in ["", "?", "\x1bm", "\x1b/w"] {
        session.press(keys);
        std::thread::sleep(Duration::from_millis(50));
        let entered = |raw: String| raw.matches(ENTER).count();
        let before = entered(session.raw());
        session.press("\x1a");
        session.wait_until("the screen to be left", |s| s.raw().matches(LEAVE).count() >= before);
        std::thread::sleep(Duration::from_millis(200));
        session.signal(Signal::CONT);
        session.wait_until("the screen to be entered again", |s| entered(s.raw()) > before);
        session.wait_for("calibrating");
    }
    session.press("\x1b");
    session.signal(Signal::TSTP);
    session.wait_until("the screen to be left", |s| s.raw().rfind(LEAVE) > s.raw().rfind(ENTER));
    std::thread::sleep(Duration::from_millis(200));
    session.signal(Signal::CONT);
    session.wait_for("calibrating");
    session.signal(Signal::TERM);
    assert!(!session.end().success());
}

/// A signal during a save also removes its temporary files.
#[test]
fn a_signal_during_a_save_leaves_no_temporary_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("out.safetensors");
    let mut session = Session::start(&[SHARDED], &[]);
    session.wait_for("calibrated");
    session.press("as\x15");
    session.press(&format!("{}\r", out.display()));
    session.signal(Signal::TERM);
    session.end();
    let left = std::fs::read_dir(directory.path()).expect("lists");
    let left: Vec<_> = left.map(|e| e.expect("an entry").file_name()).collect();
    assert!(left.is_empty() || left == ["out.safetensors"], "{left:?}");
}
