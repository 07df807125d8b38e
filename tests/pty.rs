//! The real program on a real terminal: it draws, it answers, and however it is left the
//! terminal is as it was.

#![cfg(unix)]

use portable_pty::{Child, CommandBuilder, PtySize, native_pty_system};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const ROWS: NonZeroU16 = NonZeroU16::new(36).expect("not zero");
const COLUMNS: NonZeroU16 = NonZeroU16::new(120).expect("not zero");
const LEAVE: &str = "\x1b[?1049l";
const ENTER: &str = "\x1b[?1049h";

struct Session {
    child: Box<dyn Child + Send + Sync>,
    keyboard: Box<dyn Write + Send>,
    output: Arc<Mutex<Vec<u8>>>,
    _terminal: Box<dyn portable_pty::MasterPty + Send>,
}

impl Session {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Session {
        let size =
            PtySize { rows: ROWS.get(), cols: COLUMNS.get(), pixel_width: 0, pixel_height: 0 };
        let pty = native_pty_system().openpty(size).expect("a pseudo-terminal");
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_quantscope"));
        command.args(arguments);
        command.cwd(env!("CARGO_MANIFEST_DIR"));
        command.env("TERM", "xterm-256color");
        command.env_remove("NO_COLOR");
        environment.iter().for_each(|(name, value)| command.env(name, value));
        let child = pty.slave.spawn_command(command).expect("starts");
        drop(pty.slave);
        let output = Arc::new(Mutex::new(Vec::new()));
        let mut reader = pty.master.try_clone_reader().expect("a reader");
        let sink = output.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                sink.lock().expect("no panic").extend(&buffer[..n]);
            }
        });
        let keyboard = pty.master.take_writer().expect("a writer");
        Session { child, keyboard, output, _terminal: pty.master }
    }

    fn raw(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().expect("no panic")).into_owned()
    }

    /// What a terminal shows of the output so far.
    fn screen(&self) -> String {
        let mut parser = vt100::Parser::new(ROWS, COLUMNS, 0);
        parser.process(&self.output.lock().expect("no panic"));
        parser.screen().contents()
    }

    fn wait_until(&mut self, what: &str, holds: impl Fn(&Session) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < PATIENCE, "{what} in vain:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_for(&mut self, text: &str) {
        self.wait_until(text, |session| session.screen().contains(text));
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("typed");
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.process_id().expect("runs");
        let pid = Pid::from_raw(id as i32).expect("a process");
        kill_process(pid, signal).expect("sent");
    }

    /// Waits for the end; the terminal must have been given back.
    fn end(mut self) -> portable_pty::ExitStatus {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait().expect("can be asked") {
                Some(status) => break status,
                None if start.elapsed() > PATIENCE => {
                    let _ = self.child.kill();
                    panic!("it does not end:\n{}", self.screen());
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        self.wait_until("leaving the alternate screen", |session| {
            let raw = session.raw();
            raw.rfind(LEAVE) > raw.rfind(ENTER) && raw.rfind("\x1b[?25h") > raw.rfind("\x1b[?25l")
        });
        status
    }
}

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
