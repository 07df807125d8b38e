//! Runs the program on a pseudo-terminal: sends keys and signals, and reads the screen.

use portable_pty::{Child, CommandBuilder, ExitStatus, MasterPty, PtySize, native_pty_system};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const ROWS: NonZeroU16 = NonZeroU16::new(36).expect("not zero");
const COLUMNS: NonZeroU16 = NonZeroU16::new(120).expect("not zero");
pub(crate) const LEAVE: &str = "\x1b[?1049l";
pub(crate) const ENTER: &str = "\x1b[?1049h";

pub(crate) struct Session {
    pub child: Box<dyn Child + Send + Sync>,
    keyboard: Box<dyn Write + Send>,
    pub output: Arc<Mutex<Vec<u8>>>,
    terminal: Box<dyn MasterPty + Send>,
    /// The home directory, for settings and sessions.
    _home: tempfile::TempDir,
    /// The terminal's settings before the program started.
    before: String,
}

impl Session {
    /// Starts quantscope with these arguments.
    pub(crate) fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Session {
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_quantscope"));
        command.args(arguments);
        Session::spawn(command, environment)
    }

    pub(crate) fn spawn(mut command: CommandBuilder, environment: &[(&str, &str)]) -> Session {
        let size =
            PtySize { rows: ROWS.get(), cols: COLUMNS.get(), pixel_width: 0, pixel_height: 0 };
        let pty = native_pty_system().openpty(size).expect("a pseudo-terminal");
        command.cwd(env!("CARGO_MANIFEST_DIR"));
        command.env("TERM", "xterm-256color");
        command.env_remove("NO_COLOR");
        let home = tempfile::tempdir().expect("a directory");
        command.env("XDG_CONFIG_HOME", home.path());
        command.env("XDG_STATE_HOME", home.path());
        command.env("XDG_CACHE_HOME", home.path());
        environment.iter().for_each(|(name, value)| command.env(name, value));
        let before = settings(pty.master.as_ref());
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
        Session { child, keyboard, output, terminal: pty.master, _home: home, before }
    }

    pub(crate) fn raw(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().expect("no panic")).into_owned()
    }

    /// The screen that a terminal shows for the output so far.
    pub(crate) fn screen(&self) -> String {
        let mut parser = vt100::Parser::new(ROWS, COLUMNS, 0);
        parser.process(&self.output.lock().expect("no panic"));
        parser.screen().contents()
    }

    pub(crate) fn wait_until(&mut self, what: &str, holds: impl Fn(&Session) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < PATIENCE, "{what} in vain:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn wait_for(&mut self, text: &str) {
        self.wait_until(text, |session| session.screen().contains(text));
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("typed");
    }

    /// Presses a key repeatedly until a condition holds, so that there is always another frame to
    /// draw. The program may end meanwhile.
    #[allow(dead_code, reason = "one test program needs it")]
    pub(crate) fn press_until(&mut self, key: &str, what: &str, holds: impl Fn(&Session) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < PATIENCE, "{what} in vain:\n{}", self.screen());
            let _ = self.keyboard.write_all(key.as_bytes());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.process_id().expect("runs");
        let pid = Pid::from_raw(id as i32).expect("a process");
        kill_process(pid, signal).expect("sent");
    }

    /// Waits until the program ends, and asserts that the terminal was restored.
    pub(crate) fn end(mut self) -> ExitStatus {
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
        assert_eq!(settings(self.terminal.as_ref()), self.before, "the line's settings");
        status
    }
}

/// The terminal's settings that raw mode changes, such as echo and line editing.
fn settings(terminal: &dyn MasterPty) -> String {
    format!("{:?}", terminal.get_termios())
}
