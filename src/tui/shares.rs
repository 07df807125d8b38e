//! Shows the shares of an output that several workers make, and reads them again every second.

use crate::app::settings::Settings;
use crate::app::shares::{SharesKey, SharesView};
use crate::export::Survey;
use crate::tui::input::key_of;
use crate::tui::list_loop::{List, Step, show};
use crate::ui;
use crate::ui::Theme;
use crossterm::event::{Event, MouseEventKind};
use ratatui::Frame;
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
    let view = SharesView::new(survey);
    show(&mut WatchedShares { directory, view, read: Instant::now() }, settings)
}

/// The shares in a directory.
struct WatchedShares<'d> {
    directory: &'d Path,
    view: SharesView,
    /// When the directory was read last.
    read: Instant,
}

impl WatchedShares<'_> {
    fn read(&mut self) {
        let read = Survey::read(self.directory, Some(&self.view.survey));
        self.view.refresh(read.map_err(|error| error.to_string()));
        self.read = Instant::now();
    }
}

impl List for WatchedShares<'_> {
    fn draw(&self, frame: &mut Frame, settings: &Settings, theme: &Theme) {
        ui::shares::draw(frame, &self.view, settings, theme);
    }

    fn handle(&mut self, event: Event, area: Rect, settings: &Settings) -> Step {
        match event {
            Event::Key(key) => {
                let Some(key) = key_of(key) else { return Step::Nothing };
                let rows = ui::shares::height(area, &self.view);
                match self.view.press(&settings.keys, key, rows) {
                    SharesKey::Nothing => {}
                    SharesKey::Refresh => self.read(),
                    SharesKey::Copy(command) => return Step::Copy(command),
                    SharesKey::Open(path) => return Step::Choose(path),
                    SharesKey::Leave => return Step::Leave,
                    SharesKey::Suspend => return Step::Suspend,
                    SharesKey::Redraw => return Step::Redraw,
                }
            }
            Event::Mouse(mouse) => match mouse.kind {
                MouseEventKind::ScrollUp => self.view.wheel(-1),
                MouseEventKind::ScrollDown => self.view.wheel(1),
                _ => {}
            },
            _ => {}
        }
        Step::Nothing
    }

    fn refresh(&mut self) -> bool {
        let is_due = self.read.elapsed() >= REFRESH_INTERVAL;
        if is_due {
            self.read();
        }
        is_due
    }
}
