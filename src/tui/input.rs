//! Waiting for the terminal to say something, or to go away.
//!
//! crossterm reads for ever once its terminal has hung up: the read of a closed terminal
//! gives nothing, again and again, and its loop waits for something. So it is only asked
//! when the terminal is known to be there.

use std::time::Duration;

/// What the wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Keys may have been pressed, or the size may have changed.
    Perhaps,
    /// The terminal hung up: nothing will ever come from it, and nobody sees the screen.
    Gone,
}

/// Waits for input, no longer than `timeout`.
#[cfg(unix)]
pub(super) fn wait(timeout: Duration) -> std::io::Result<Input> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stdin = std::io::stdin();
    let mut watched = [PollFd::new(&stdin, PollFlags::IN)];
    let timeout = Timespec::try_from(timeout).map_err(std::io::Error::other)?;
    match poll(&mut watched, Some(&timeout)) {
        // A signal, such as the one of a new size.
        Err(rustix::io::Errno::INTR) => return Ok(Input::Perhaps),
        ended => ended?,
    };
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    let [stdin] = watched;
    Ok(if stdin.revents().intersects(gone) { Input::Gone } else { Input::Perhaps })
}

/// Waits for input, no longer than `timeout`.
#[cfg(not(unix))]
pub fn wait(timeout: Duration) -> std::io::Result<Input> {
    crossterm::event::poll(timeout)?;
    Ok(Input::Perhaps)
}
