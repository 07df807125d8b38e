//! Shows the shares of an output that several workers make, and reads them again every second.

use crate::app::settings::Settings;
use crate::app::shares::{SharesKey, SharesView};
use crate::export::Survey;
use crate::tui::appearance::{require_terminal, theme};
use crate::tui::event_loop::IDLE_WAIT;
use crate::tui::guard::{TerminalGuard, restore_terminal_on_panic};
use crate::tui::input::key_of;
use crate::tui::screen::Screen;
use crate::tui::signals::Signals;
use crate::tui::wait::{TerminalState, wait_for_input};
use crate::ui;
use color_eyre::eyre::Context;
use crossterm::event::{Event, MouseEventKind};
use ratatui::layout::Rect;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The time between two readings of the directory.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Shows the shares in a directory until the user leaves, or opens the joined output, whose path
/// is returned.
///
/// # Errors
///
/// Fails if there is no terminal, or if the terminal fails.
pub fn watch_shares(
    directory: &Path,
    survey: Survey,
    settings: &Settings,
) -> color_eyre::Result<Option<PathBuf>> {
    require_terminal()?;
    let theme = theme(settings);
    let signals = Signals::register().wrap_err("signals cannot be watched")?;
    restore_terminal_on_panic();
    let mut screen = TerminalGuard::enter(settings.mouse)
        .wrap_err("the terminal cannot be prepared for drawing")?;
    let mut view = SharesView::new(survey);
    let mut read = Instant::now();
    let mut changed = true;
    loop {
        if read.elapsed() >= REFRESH_INTERVAL {
            refresh(&mut view, directory);
            (read, changed) = (Instant::now(), true);
        }
        if changed {
            screen.draw(|frame| ui::shares::draw(frame, &view, settings, &theme))?;
        }
        changed = false;
        if wait_for_input(IDLE_WAIT)? == TerminalState::HungUp {
            signals.hang_up();
        }
        while signals.end().is_none() && crossterm::event::poll(Duration::ZERO)? {
            changed = true;
            let size = screen.size()?;
            let area = Rect::new(0, 0, size.width, size.height);
            match handle(&mut view, crossterm::event::read()?, area, settings) {
                SharesKey::Nothing => {}
                SharesKey::Refresh => refresh(&mut view, directory),
                SharesKey::Copy(command) => screen.copy(&command)?,
                SharesKey::Open(path) => return Ok(Some(path)),
                SharesKey::Leave => return Ok(None),
                SharesKey::Suspend => screen.suspend()?,
                SharesKey::Redraw => screen.invalidate()?,
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

fn refresh(view: &mut SharesView, directory: &Path) {
    let read = Survey::read(directory, Some(&view.survey));
    view.refresh(read.map_err(|error| error.to_string()));
}

fn handle(view: &mut SharesView, event: Event, area: Rect, settings: &Settings) -> SharesKey {
    match event {
        Event::Key(key) => {
            let rows = ui::shares::height(area, view);
            key_of(key).map_or(SharesKey::Nothing, |key| view.press(&settings.keys, key, rows))
        }
        Event::Mouse(mouse) => {
            match mouse.kind {
                MouseEventKind::ScrollUp => view.wheel(-1),
                MouseEventKind::ScrollDown => view.wheel(1),
                _ => {}
            }
            SharesKey::Nothing
        }
        _ => SharesKey::Nothing,
    }
}
