//! The event loop: waits for input, signals and findings, and draws when something changed.

use crate::job::Executor;
use crate::tui::runner::{Collected, Runner};
use crate::tui::screen::Screen;
use crate::tui::signals::Signals;
use crate::tui::wait::{TerminalState, wait_for_input};
use std::time::{Duration, Instant};

/// Time between two frames while a job runs.
const FRAME_INTERVAL: Duration = Duration::from_millis(33);
/// Time between two frames while a job runs, with animation turned off.
const STILL_FRAME_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest wait for input while a job runs.
const MIN_INPUT_WAIT: Duration = Duration::from_millis(5);
/// The longest wait for input while no job runs. A signal is noticed after at most this time.
pub(super) const IDLE_WAIT: Duration = Duration::from_millis(150);

/// Runs until the user quits, the terminal hangs up, or a signal asks the program to end.
pub(super) fn run<S: Screen, E: Executor>(
    runner: &mut Runner<S, E>,
    signals: &Signals,
) -> color_eyre::Result<()> {
    runner.start()?;
    let mut changed = true;
    let mut drawn = Instant::now();
    while !runner.has_quit() {
        let busy = runner.is_busy();
        let animated = runner.app.settings.animation;
        let interval = if animated { FRAME_INTERVAL } else { STILL_FRAME_INTERVAL };
        if changed || (busy && drawn.elapsed() >= interval) {
            runner.draw_frame()?;
            drawn = Instant::now();
        }
        changed = false;
        let until_frame = FRAME_INTERVAL.saturating_sub(drawn.elapsed());
        let wait = if busy { until_frame.max(MIN_INPUT_WAIT) } else { IDLE_WAIT };
        if wait_for_input(wait)? == TerminalState::HungUp {
            signals.hang_up();
            return Ok(());
        }
        // All pending input is handled before the next frame.
        while crossterm::event::poll(Duration::ZERO)? && !runner.has_quit() {
            runner.handle_input(crossterm::event::read()?)?;
            changed = true;
        }
        if signals.take_suspend() {
            runner.screen.suspend()?;
            changed = true;
        }
        if signals.end().is_some() {
            return Ok(());
        }
        let busy = runner.is_busy();
        changed |= runner.collect()? == Collected::Results;
        if busy {
            runner.tick()?;
        }
    }
    Ok(())
}
