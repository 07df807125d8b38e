//! The list of models to choose from, shown before one is open.

use crate::app::picker::{Picked, Picker};
use crate::app::settings::Settings;
use crate::tui::appearance::{require_terminal, theme};
use crate::tui::event_loop::IDLE_WAIT;
use crate::tui::guard::{TerminalGuard, restore_terminal_on_panic};
use crate::tui::input::key_of;
use crate::tui::screen::Screen;
use crate::tui::signals::Signals;
use crate::tui::wait::{TerminalState, wait_for_input};
use crate::ui;
use color_eyre::eyre::Context;
use crossterm::event::{Event, MouseButton, MouseEventKind};
use std::path::PathBuf;
use std::time::Duration;

/// Shows the list until a model is chosen; `None` if the user leaves.
///
/// # Errors
///
/// Fails if there is no terminal, or if the terminal fails.
pub fn pick(picker: &mut Picker, settings: &Settings) -> color_eyre::Result<Option<PathBuf>> {
    require_terminal()?;
    let theme = theme(settings);
    let signals = Signals::register().wrap_err("signals cannot be watched")?;
    restore_terminal_on_panic();
    let mut screen = TerminalGuard::enter(settings.mouse)
        .wrap_err("the terminal cannot be prepared for drawing")?;
    loop {
        screen.draw(|frame| ui::picker::draw(frame, picker, settings, &theme))?;
        if wait_for_input(IDLE_WAIT)? == TerminalState::HungUp {
            signals.hang_up();
        }
        while signals.end().is_none() && crossterm::event::poll(Duration::ZERO)? {
            let height = screen.size()?.height;
            match handle(picker, crossterm::event::read()?, height, settings) {
                Picked::Nothing => {}
                Picked::Model(path) => return Ok(Some(path)),
                Picked::Left => return Ok(None),
                Picked::Suspend => screen.suspend()?,
                Picked::Redraw => screen.invalidate()?,
            }
        }
        if signals.take_suspend() {
            screen.suspend()?;
        }
        if let Some(signal) = signals.end() {
            drop(screen);
            signal_hook::low_level::emulate_default_handler(signal)?;
            return Ok(None);
        }
    }
}

fn handle(picker: &mut Picker, event: Event, height: u16, settings: &Settings) -> Picked {
    let picked = match event {
        Event::Key(key) => {
            let rows = ui::picker::height(height, picker);
            key_of(key).map(|key| picker.press(&settings.keys, key, rows))
        }
        Event::Mouse(mouse) => match mouse.kind {
            MouseEventKind::ScrollUp => {
                picker.wheel(-1);
                None
            }
            MouseEventKind::ScrollDown => {
                picker.wheel(1);
                None
            }
            MouseEventKind::Down(MouseButton::Left) => {
                ui::picker::hit(height, picker, mouse.row).map(|at| picker.click(at))
            }
            _ => None,
        },
        _ => None,
    };
    picked.unwrap_or(Picked::Nothing)
}
