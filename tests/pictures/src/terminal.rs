//! Runs the program in a pseudo-terminal and interprets its output.

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Columns and rows, as in `tests/support/session.rs`.
const SIZE: (u16, u16) = (120, 36);
/// How long to wait for a text to appear.
const PATIENCE: Duration = Duration::from_secs(60);
/// A screen without output for this long counts as complete.
const QUIET: Duration = Duration::from_millis(150);
const GLANCE: Duration = Duration::from_millis(10);

pub struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    keyboard: Box<dyn Write + Send>,
    seen: Arc<Mutex<Seen>>,
    _master: Box<dyn MasterPty + Send>,
}

struct Seen {
    parser: vt100::Parser,
    last: Instant,
}

impl Terminal {
    /// Starts `program` on `model`. `home` is for its settings, sessions and outputs.
    pub fn start(program: &Path, model: &str, home: &Path) -> Result<Terminal> {
        let (columns, rows) = SIZE;
        let size = PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 };
        let pty = native_pty_system().openpty(size)?;
        let mut command = CommandBuilder::new(program);
        command.arg(model);
        command.cwd(home);
        command.env("TERM", "xterm-256color");
        command.env("COLORTERM", "truecolor");
        command.env_remove("NO_COLOR");
        for kind in ["CONFIG", "STATE", "CACHE"] {
            command.env(format!("XDG_{kind}_HOME"), home.join(".home"));
        }
        let child = pty.slave.spawn_command(command)?;
        drop(pty.slave);
        let (columns, rows) = (NonZeroU16::try_from(columns)?, NonZeroU16::try_from(rows)?);
        let parser = vt100::Parser::new(rows, columns, 0);
        let seen = Arc::new(Mutex::new(Seen { parser, last: Instant::now() }));
        let mut output = pty.master.try_clone_reader()?;
        let sink = seen.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                let mut seen = sink.lock().unwrap_or_else(PoisonError::into_inner);
                seen.parser.process(&buffer[..n]);
                seen.last = Instant::now();
            }
        });
        let keyboard = pty.master.take_writer()?;
        Ok(Terminal { child, keyboard, seen, _master: pty.master })
    }

    fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn screen(&self) -> vt100::Screen {
        self.seen(|seen| seen.parser.screen().clone())
    }

    /// Waits until the screen shows a text, or does not.
    pub fn wait(&self, text: &str, shown: bool) -> Result<()> {
        let start = Instant::now();
        while self.screen().contents().contains(text) != shown {
            if start.elapsed() > PATIENCE {
                let screen = self.screen().contents();
                return Err(format!("waited for {text:?} in vain:\n{screen}").into());
            }
            std::thread::sleep(GLANCE);
        }
        self.wait_until_quiet();
        Ok(())
    }

    pub fn press(&mut self, sent: &str) -> Result<()> {
        self.keyboard.write_all(sent.as_bytes())?;
        std::thread::sleep(GLANCE * 3);
        self.wait_until_quiet();
        Ok(())
    }

    fn wait_until_quiet(&self) {
        let start = Instant::now();
        while self.seen(|seen| seen.last.elapsed()) < QUIET && start.elapsed() < PATIENCE {
            std::thread::sleep(GLANCE);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
