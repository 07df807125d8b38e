//! Shows a list on the terminal before a model is open: draws it, waits for input, and obeys signals.

use crate::app::settings::Settings;
use crate::tui::appearance::{require_terminal, theme};
use crate::tui::event_loop::IDLE_WAIT;
use crate::tui::guard::{TerminalGuard, restore_terminal_on_panic};
use crate::tui::screen::Screen;
use crate::tui::signals::Signals;
use crate::tui::wait::{TerminalState, wait_for_input};
use crate::ui::Theme;
use color_eyre::eyre::Context;
use crossterm::event::Event;
use ratatui::Frame;
use ratatui::layout::Rect;
use std::path::PathBuf;
use std::time::Duration;

/// A list that is shown by itself.
pub(super) trait List {
    fn draw(&self, frame: &mut Frame, settings: &Settings, theme: &Theme);

    /// Handles an event on a screen of this area.
    fn handle(&mut self, event: Event, area: Rect, settings: &Settings) -> Step;

    /// Updates the list between events. Returns whether it has to be drawn again.
    fn refresh(&mut self) -> bool {
        false
    }
}

/// What the loop does after an event.
pub(super) enum Step {
    Nothing,
    /// End with this path.
    Choose(PathBuf),
    /// End without a path.
    Leave,
    Copy(String),
    Suspend,
    Redraw,
}

/// Shows a list until a path is chosen; `None` if the user leaves.
///
/// # Errors
///
/// Fails if there is no terminal, or if the terminal fails.
pub(super) fn show(
    list: &mut impl List,
    settings: &Settings,
) -> color_eyre::Result<Option<PathBuf>> {
    require_terminal()?;
    let theme = theme(settings);
    let signals = Signals::register().wrap_err("signals cannot be watched")?;
    restore_terminal_on_panic();
    let mut screen = TerminalGuard::enter(settings.mouse)
        .wrap_err("the terminal cannot be prepared for drawing")?;
    let mut changed = true;
    loop {
        changed |= list.refresh();
        if changed {
            screen.draw(|frame| list.draw(frame, settings, &theme))?;
        }
        changed = false;
        if wait_for_input(IDLE_WAIT)? == TerminalState::HungUp {
            signals.hang_up();
        }
        while signals.end().is_none() && crossterm::event::poll(Duration::ZERO)? {
            changed = true;
            let size = screen.size()?;
            let area = Rect::new(0, 0, size.width, size.height);
            match list.handle(crossterm::event::read()?, area, settings) {
                Step::Nothing => {}
                Step::Choose(path) => return Ok(Some(path)),
                Step::Leave => return Ok(None),
                Step::Copy(text) => screen.copy(&text)?,
                Step::Suspend => screen.suspend()?,
                Step::Redraw => screen.invalidate()?,
            }
        }
        if signals.take_suspend() {
            screen.suspend()?;
            changed = true;
        }
        if let Some(signal) = signals.end() {
            drop(screen);
            signal_hook::low_level::emulate_default_handler(signal)?;
            return Ok(None);
        }
    }
}
