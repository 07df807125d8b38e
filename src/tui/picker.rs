//! The list of models to choose from, shown before one is open.

use crate::app::picker::{Picked, Picker};
use crate::app::settings::Settings;
use crate::tui::input::key_of;
use crate::tui::list_loop::{List, Step, show};
use crate::ui;
use crate::ui::Theme;
use crossterm::event::{Event, MouseButton, MouseEventKind};
use ratatui::Frame;
use ratatui::layout::Rect;
use std::path::PathBuf;

/// Shows the list until a model is chosen; `None` if the user leaves.
///
/// # Errors
///
/// Fails if there is no terminal, or if the terminal fails.
pub fn pick(picker: &mut Picker, settings: &Settings) -> color_eyre::Result<Option<PathBuf>> {
    show(picker, settings)
}

impl List for Picker {
    fn draw(&self, frame: &mut Frame, settings: &Settings, theme: &Theme) {
        ui::picker::draw(frame, self, settings, theme);
    }

    fn handle(&mut self, event: Event, area: Rect, settings: &Settings) -> Step {
        match picked(self, event, area.height, settings).unwrap_or(Picked::Nothing) {
            Picked::Nothing => Step::Nothing,
            Picked::Model(path) => Step::Choose(path),
            Picked::Left => Step::Leave,
            Picked::Suspend => Step::Suspend,
            Picked::Redraw => Step::Redraw,
        }
    }
}

fn picked(picker: &mut Picker, event: Event, height: u16, settings: &Settings) -> Option<Picked> {
    match event {
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
    }
}
