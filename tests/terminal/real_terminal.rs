//! The real program on a pseudo-terminal: it draws, reacts to keys, and restores the terminal
//! however it ends.

#![cfg(unix)]

use crate::session::{ENTER, LEAVE, Session};
use portable_pty::{CommandBuilder, PtySize, native_pty_system};
use rustix::process::Signal;
use std::io::Read;
use std::time::{Duration, Instant};

#[test]
fn the_inspector_opens_the_demo_calibrates_and_quits() {
    let mut session = Session::start(&[], &[]);
    session.wait_for("calibrated");
    session.wait_for("classifier.0.weight");
    session.press("j ");
    session.wait_for("1 tensor marked");
    session.press("q");
    session.wait_for("Quit anyway?");
    session.press("y");
    assert_eq!(session.end().exit_code(), 0);
}

#[test]
fn a_save_prints_its_receipt_after_exit() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("out.safetensors");
    let mut session = Session::start(&["tests/data/tiny-llama/sharded"], &[]);
    session.wait_for("calibrated");
    session.press("as\x15");
    session.press(&format!("{}\r", out.display()));
    session.wait_for("Saved and verified");
    // OSC 52 copies to the clipboard, also over ssh.
    session.press("y");
    session.wait_until("the copy", |s| s.raw().contains("\x1b]52;c;"));
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
fn a_signal_ends_the_inspector_and_restores_the_terminal() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let mut session = Session::start(&[], &[]);
        session.wait_for("calibrated");
        session.signal(signal);
        assert!(!session.end().success(), "{signal:?}");
    }
}

#[test]
fn the_inspector_can_be_suspended_and_resumed() {
    let mut session = Session::start(&[], &[]);
    session.wait_for("calibrated");
    session.press("\x1a");
    session.wait_until("the screen to be left", |session| session.raw().contains(LEAVE));
    // The process stops itself shortly afterwards.
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
fn a_dumb_terminal_gets_a_hint() {
    let mut session = Session::start(&[], &[("TERM", "dumb")]);
    session.wait_for("quantscope analyze");
    let status = session.child.wait().expect("ends");
    assert_eq!(status.exit_code(), 1);
}

/// When its window closes, the program must end rather than read for ever.
#[test]
fn a_hangup_ends_the_inspector() {
    let pty = native_pty_system().openpty(PtySize::default()).expect("a pseudo-terminal");
    // The shell ignores the signal, and its child inherits that.
    let mut command = CommandBuilder::new("sh");
    let program = env!("CARGO_BIN_EXE_quantscope");
    command.args(["-c", &format!("trap '' HUP; exec '{program}'")]);
    command.cwd(env!("CARGO_MANIFEST_DIR"));
    command.env("TERM", "xterm-256color");
    let home = tempfile::tempdir().expect("a directory");
    command.env("XDG_CONFIG_HOME", home.path());
    command.env("XDG_STATE_HOME", home.path());
    let home = tempfile::tempdir().expect("a directory");
    for kind in ["CONFIG", "STATE", "CACHE"] {
        command.env(format!("XDG_{kind}_HOME"), home.path());
    }
    let mut child = pty.slave.spawn_command(command).expect("starts");
    drop(pty.slave);
    let mut reader = pty.master.try_clone_reader().expect("a reader");
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&seen).contains("calibrated") {
        let n = reader.read(&mut buffer).expect("output");
        assert!(n > 0, "it ended");
        seen.extend(&buffer[..n]);
    }
    drop(reader);
    drop(pty.master);
    let start = Instant::now();
    while child.try_wait().expect("can be asked").is_none() {
        if start.elapsed() > Duration::from_secs(30) {
            let _ = child.kill();
            panic!("it goes on without a terminal");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn marks_and_cursor_are_restored() {
    let home = tempfile::tempdir().expect("a directory");
    let kept = [("XDG_STATE_HOME", home.path().to_str().expect("text"))];
    let start = |arguments: &[&str]| Session::start(arguments, &kept);
    let mut session = start(&["tests/data/tiny-llama/single"]);
    session.wait_for("calibrated");
    session.press(":lm_head\r X");
    session.wait_for("and the table");
    session.press("j\r");
    session.wait_for("weight error of int8 per channel");
    session.wait_for("1 tensor marked");
    session.press("q");
    session.wait_for("Quit anyway?");
    session.press("y");
    assert_eq!(session.end().exit_code(), 0);
    let mut session = start(&["tests/data/tiny-llama/single"]);
    session.wait_for("1 mark restored from the last session");
    session.wait_for("weight error of int8 per channel");
    session.wait_until("the place of last time", |session| {
        session.screen().lines().any(|row| row.starts_with('▌') && row.contains("lm_head.weight"))
    });
    // Marks are saved in the session, so quitting does not lose them.
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
    let mut session = start(&["tests/data/tiny-llama/single", "--no-session"]);
    session.wait_for("calibrated");
    assert!(session.screen().contains("nothing marked"), "{}", session.screen());
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
}

/// The first resize event comes before everything else; the restored tab still gets its data.
#[test]
fn the_values_tab_is_restored() {
    let home = tempfile::tempdir().expect("a directory");
    let kept = [("XDG_STATE_HOME", home.path().to_str().expect("text"))];
    for keys in ["\x1b[Z", ""] {
        let mut session = Session::start(&["tests/data/tiny-llama/single"], &kept);
        session.wait_for("calibrated");
        session.press(keys);
        session.wait_for("dequantized");
        session.press("q");
        assert_eq!(session.end().exit_code(), 0);
    }
}

#[test]
fn settings_change_keys_glyphs_and_columns() {
    let home = tempfile::tempdir().expect("a directory");
    let config = home.path().join("own.toml");
    let text = "[screen]\nglyphs = \"ascii\"\nmouse = false\n[table]\nscheme = \"per-channel\"\ncolumns = [\"bytes\"]\n[keys.main]\nmark = \"V\"\n";
    std::fs::write(&config, text).expect("can be written");
    let config = config.to_str().expect("text");
    let log = home.path().join("log");
    let log_path = log.to_str().expect("text");
    let mut session = Session::start(&["--config", config, "--log", log_path], &[]);
    session.wait_for("weight error of int8 per channel");
    session.press("V");
    session.wait_for("1 tensor marked");
    let screen = session.screen();
    assert!(screen.is_ascii(), "{screen}");
    assert!(!screen.contains("dtype"), "{screen}");
    assert!(!session.raw().contains("\x1b[?1000h"), "the mouse was taken");
    session.press("qy");
    assert_eq!(session.end().exit_code(), 0);
    let log = std::fs::read_to_string(log).expect("a log");
    assert!(log.contains("event Opened") && log.contains("effect Quit"), "{log}");
}

#[test]
fn invalid_settings_are_reported_before_the_screen_opens() {
    let home = tempfile::tempdir().expect("a directory");
    let config = home.path().join("wrong.toml");
    std::fs::write(&config, "[keys.main]\nmark = \"j\"\n").expect("can be written");
    let config = config.to_str().expect("text");
    let mut session = Session::start(&["--config", config], &[]);
    session.wait_for("j is both");
    assert_eq!(session.child.wait().expect("ends").exit_code(), 1);
}

/// A directory with two models in it, and a Hugging Face cache with one.
fn models() -> (tempfile::TempDir, tempfile::TempDir) {
    let (several, hub) = (tempfile::tempdir().expect("a place"), tempfile::tempdir().expect("one"));
    let copy = |to: std::path::PathBuf| {
        std::fs::create_dir_all(to.parent().expect("a parent")).expect("directories");
        std::fs::copy("assets/demo.safetensors", to).expect("copied");
    };
    copy(several.path().join("first.safetensors"));
    copy(several.path().join("second.safetensors"));
    let cached = hub.path().join("models--org--name");
    copy(cached.join("snapshots/abc/model.safetensors"));
    std::fs::create_dir(cached.join("refs")).expect("a directory");
    std::fs::write(cached.join("refs/main"), "abc").expect("written");
    (several, hub)
}

#[test]
fn a_directory_with_several_models_opens_the_picker() {
    let (several, hub) = models();
    let path = several.path().to_str().expect("text");
    let cache = hub.path().to_str().expect("text");
    let mut session = Session::start(&[path], &[("HF_HUB_CACHE", cache)]);
    session.wait_for("which model?");
    for shown in ["first.safetensors", "second.safetensors", "org/name", "Hugging Face", "demo"] {
        session.wait_for(shown);
    }
    session.press("j\r");
    session.wait_for("calibrated");
    session.wait_for("second");
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
}

#[test]
fn the_picker_survives_a_model_that_does_not_open() {
    let (several, hub) = models();
    let page = "<!DOCTYPE html><html><head><title>Log in</title></head></html>";
    std::fs::write(several.path().join("a-page.safetensors"), page).expect("written");
    let path = several.path().to_str().expect("text");
    let cache = hub.path().to_str().expect("text");
    let mut session = Session::start(&[path], &[("HF_HUB_CACHE", cache)]);
    session.wait_for("a-page.safetensors");
    session.press("\r");
    session.wait_for("HTML page");
    session.wait_for("which model?");
    session.press("j\r");
    session.wait_for("calibrated");
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
}

#[test]
fn the_picker_can_be_quit_and_interrupted() {
    let (several, hub) = models();
    let path = several.path().to_str().expect("text");
    let cache = hub.path().to_str().expect("text");
    let mut session = Session::start(&[path], &[("HF_HUB_CACHE", cache)]);
    session.wait_for("which model?");
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
    let mut session = Session::start(&[path], &[("HF_HUB_CACHE", cache)]);
    session.wait_for("which model?");
    session.signal(Signal::TERM);
    assert!(!session.end().success());
}

#[test]
fn a_directory_without_models_offers_the_demo() {
    let empty = tempfile::tempdir().expect("a directory");
    let path = empty.path().to_str().expect("text");
    let mut session = Session::start(&[path], &[("HF_HUB_CACHE", path)]);
    session.wait_for("No model found below");
    session.wait_for("No model found in the Hugging Face cache");
    session.press("\r");
    session.wait_for("calibrated");
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
}

#[test]
fn without_a_path_a_model_directory_opens_the_picker() {
    let (several, hub) = models();
    let program = env!("CARGO_BIN_EXE_quantscope");
    let mut command = CommandBuilder::new("sh");
    let line = format!("cd '{}' && exec '{program}'", several.path().display());
    command.args(["-c", &line]);
    let cache = hub.path().to_str().expect("text");
    let mut session = Session::spawn(command, &[("HF_HUB_CACHE", cache)]);
    session.wait_for("which model?");
    session.wait_for("first.safetensors");
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
}

/// Models of the cache that `HF_HOME` names are offered while another model is open.
#[test]
fn the_cache_of_hf_home_is_offered() {
    let (_, hub) = models();
    let home = tempfile::tempdir().expect("a directory");
    std::fs::rename(hub.path(), home.path().join("hub")).expect("moved");
    let home = home.path().to_str().expect("text");
    let environment = [("HF_HOME", home), ("HF_HUB_CACHE", "")];
    let mut session = Session::start(&["demo:"], &environment);
    session.wait_for("calibrated");
    session.press("o");
    session.wait_for("Open another model");
    session.press("org/name");
    session.wait_for("Hugging Face");
    session.press("\r");
    session.wait_until("the other model", |session| !session.screen().contains("reads digits"));
    session.wait_for("calibrated");
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
}

/// The shares of an output are listed with their states and refreshed, and the joined output opens.
#[test]
fn the_shares_of_an_output_are_watched() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("small.safetensors");
    let out = out.to_str().expect("text");
    let run = |arguments: &[&str]| {
        let program = env!("CARGO_BIN_EXE_quantscope");
        let ended = std::process::Command::new(program).args(arguments).output().expect("runs");
        assert!(ended.status.success(), "{ended:?}");
    };
    let share = |partition: &str| {
        run(&["quantize", "assets/demo.safetensors", "-o", out, "--partition", partition]);
    };
    share("1/3");
    let partial = format!("{out}.partial");
    // A worker that was killed, and one that runs.
    let unfinished = |name: &str| {
        let path = std::path::Path::new(&partial).join(name);
        std::fs::create_dir_all(path.join("files")).expect("created");
        std::fs::write(path.join("files/small.safetensors"), vec![1; 9000]).expect("written");
        std::fs::File::create(path.join("lock")).expect("created")
    };
    let stopped = unfinished(".unfinished-2-of-3.abc");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    stopped.set_modified(long_ago).expect("set");
    let running = unfinished(".unfinished-3-of-3.abc");
    running.set_modified(long_ago).expect("set");
    running.lock().expect("locked");
    let mut session = Session::start(&[&partial], &[]);
    for shown in [
        "shares of",
        "1 of 3 shares done",
        "1 running; 1 stopped",
        "1/3         done",
        "2/3         stopped",
        "3/3         running",
        "The worker of share 2/3 has stopped. This makes it again:",
        "--partition 2/3",
        "Esc leave",
    ] {
        session.wait_for(shown);
    }
    session.press("?");
    session.wait_for("next share");
    session.press("\x1b");
    session.wait_for("2/3         stopped");
    session.press("y");
    session.wait_for("copied, if the terminal allows it");
    assert!(session.raw().contains("\x1b]52;c;"), "the command is sent to the clipboard");
    // What workers do is seen without a key.
    share("2/3");
    session.wait_for("2 of 3 shares done");
    drop(running);
    share("3/3");
    session.wait_for("3 of 3 shares done");
    session.wait_for("quantscope join");
    session.press("\r");
    session.wait_for("there is nothing to open before the shares are joined");
    run(&["join", out]);
    session.wait_for("The shares are joined. Enter opens");
    session.press("\r");
    session.wait_for("calibrated");
    session.wait_for("small");
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
}
