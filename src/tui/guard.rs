//! The real terminal: raw mode and alternate screen, restored however the program ends.

use crate::failpoints::{Failpoint, reach};
use crate::tui::screen::Screen;
use crossterm::clipboard::CopyToClipboard;
use crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute};
use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Position, Rect, Size};
use ratatui::{Frame, Terminal};
use std::io::{self, Stdout, stdout};
use std::thread::ThreadId;

/// The terminal in raw mode on its alternate screen. Dropping it restores the terminal.
pub(super) struct TerminalGuard {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    captures_mouse: bool,
}

impl TerminalGuard {
    /// Enters raw mode and the alternate screen. Captures the mouse if `captures_mouse` is set.
    pub(super) fn enter(captures_mouse: bool) -> io::Result<TerminalGuard> {
        enter(captures_mouse)?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout())).inspect_err(|_| leave())?;
        Ok(TerminalGuard { terminal, captures_mouse })
    }
}

impl Screen for TerminalGuard {
    fn size(&self) -> io::Result<Size> {
        self.terminal.size()
    }

    fn draw(&mut self, render: impl FnOnce(&mut Frame)) -> io::Result<()> {
        reach(Failpoint::Screen)?;
        self.terminal.draw(render)?;
        Ok(())
    }

    /// Does not call `Terminal::clear`, which asks the terminal for its cursor position and
    /// fails if there is no answer.
    fn invalidate(&mut self) -> io::Result<()> {
        let size = self.terminal.size()?;
        self.terminal.resize(Rect::from((Position::ORIGIN, size)))
    }

    fn suspend(&mut self) -> io::Result<()> {
        // Only Unix has programs that stop until they are continued.
        #[cfg(unix)]
        {
            leave();
            signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGTSTP)?;
            enter(self.captures_mouse)?;
        }
        self.invalidate()
    }

    /// Uses OSC 52, which reaches the user's own clipboard over ssh too.
    fn copy(&mut self, text: &str) -> io::Result<()> {
        execute!(stdout(), CopyToClipboard::to_clipboard_from(text))
    }

    fn capture_mouse(&mut self, capture: bool) -> io::Result<()> {
        self.captures_mouse = capture;
        capture_mouse(capture)
    }
}

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        leave();
    }
}

fn enter(captures_mouse: bool) -> io::Result<()> {
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste, cursor::Hide)
        .and_then(|()| capture_mouse(captures_mouse))
        .inspect_err(|_| leave())
}

fn capture_mouse(capture: bool) -> io::Result<()> {
    if capture {
        execute!(stdout(), EnableMouseCapture)
    } else {
        execute!(stdout(), DisableMouseCapture)
    }
}

/// Restores the terminal. Ignores errors, because they can no longer be shown.
fn leave() {
    let _ = execute!(
        stdout(),
        DisableBracketedPaste,
        DisableMouseCapture,
        LeaveAlternateScreen,
        cursor::Show
    );
    let _ = disable_raw_mode();
}

/// Makes a panic of the calling thread restore the terminal before its report is printed. The
/// panic of a worker thread is not printed: it is passed to the thread that joins the worker,
/// and shown on the screen.
pub(super) fn restore_terminal_on_panic() {
    let screen_thread: ThreadId = std::thread::current().id();
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == screen_thread {
            leave();
            report(info);
        }
    }));
}
