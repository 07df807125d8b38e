//! Waits until the terminal has input or has hung up.
//!
//! crossterm never returns once its terminal has hung up: reading a closed terminal yields no
//! bytes, and its loop retries for ever. So crossterm is called only while the terminal is open.

use std::time::Duration;

/// The state of the terminal after a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TerminalState {
    /// There may be input: keys, or a new size. Also after a timeout.
    Open,
    /// The terminal hung up, so there will be no input.
    HungUp,
}

/// Waits for input, at most `timeout`.
#[cfg(unix)]
pub(super) fn wait_for_input(timeout: Duration) -> std::io::Result<TerminalState> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stdin = std::io::stdin();
    let mut watched = [PollFd::new(&stdin, PollFlags::IN)];
    let timeout = Timespec::try_from(timeout).map_err(std::io::Error::other)?;
    match poll(&mut watched, Some(&timeout)) {
        // A signal, for example that the size changed.
        Err(rustix::io::Errno::INTR) => return Ok(TerminalState::Open),
        polled => polled?,
    };
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    let [stdin] = watched;
    let hung_up = stdin.revents().intersects(gone);
    Ok(if hung_up { TerminalState::HungUp } else { TerminalState::Open })
}

/// Waits for input, at most `timeout`.
#[cfg(not(unix))]
pub(super) fn wait_for_input(timeout: Duration) -> std::io::Result<TerminalState> {
    crossterm::event::poll(timeout)?;
    Ok(TerminalState::Open)
}
