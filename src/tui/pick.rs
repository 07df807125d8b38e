//! Choosing a model before there is one to look at.

use super::input::{self, Input};
use super::{IDLE, MOUSE, Screen, Signals, key_of, restore_on_panic};
use crate::app::picker::{Picked, Picker};
use crate::app::settings::Settings;
use crate::ui::{self, Theme};
use color_eyre::eyre::Context;
use crossterm::event::{Event, KeyEventKind, MouseButton, MouseEventKind};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Shows the list until something is chosen; `None` when the person leaves.
pub fn pick(mut picker: Picker, settings: &Settings) -> color_eyre::Result<Option<PathBuf>> {
    super::is_drawable()?;
    let theme = Theme::new(super::colours(settings));
    let signals = Signals::register().wrap_err("could not watch for signals")?;
    restore_on_panic();
    MOUSE.store(settings.mouse, Relaxed);
    let mut screen = Screen::enter().wrap_err("could not prepare the terminal")?;
    loop {
        screen.terminal.draw(|frame| ui::picker::draw(frame, &picker, settings, &theme))?;
        if input::wait(IDLE)? == Input::Gone {
            signals.hang_up();
        }
        while signals.end().is_none() && crossterm::event::poll(Duration::ZERO)? {
            let height = screen.terminal.size()?.height;
            let picked = match crossterm::event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    let rows = ui::picker::height(height, &picker);
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
                        ui::picker::hit(height, &picker, mouse.row).map(|at| picker.click(at))
                    }
                    _ => None,
                },
                _ => None,
            };
            match picked.unwrap_or(Picked::Nothing) {
                Picked::Nothing => {}
                Picked::Model(path) => return Ok(Some(path)),
                Picked::Left => return Ok(None),
                Picked::Suspend => screen.suspend()?,
                Picked::Redraw => screen.redraw()?,
            }
        }
        if signals.stop.swap(false, Relaxed) {
            screen.suspend()?;
        }
        if let Some(signal) = signals.end() {
            drop(screen);
            signal_hook::low_level::emulate_default_handler(signal)?;
            return Ok(None);
        }
    }
}
