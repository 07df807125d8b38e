//! Moves the cursor, scrolls, and adapts to a new size of the screen.

use crate::app::diff::DiffState;
use crate::app::effects::Effects;
use crate::app::event::Viewport;
use crate::app::keys::Context;
use crate::app::overlay::Overlay;
use crate::app::scroll::Motion;
use crate::app::state::App;
use crate::app::tab::Tab;

/// Entries of a page in the list of a window.
const LIST_PAGE: u64 = 5;

impl App {
    pub(super) fn move_by(&mut self, motion: Motion, effects: &mut Effects) {
        let (width, height) = self.viewport.text;
        let page = height.saturating_sub(1).max(1) as isize;
        let rows = match motion {
            Motion::Up => -1,
            Motion::Down => 1,
            Motion::PageUp | Motion::HalfUp => -page,
            Motion::PageDown | Motion::HalfDown => page,
            Motion::First => isize::MIN,
            Motion::Last => isize::MAX,
        };
        match self.context() {
            Context::Values => return self.values.move_cursor(motion),
            Context::Channels => return self.channels.scroll_by_motion(motion),
            Context::SchemesTab => return self.step_scheme_in_tab(rows.signum()),
            _ => {}
        }
        let step =
            |at: usize, count: usize| motion.from(at as u64, count as u64, LIST_PAGE + 1) as usize;
        match &mut self.overlay {
            None | Some(Overlay::Filter(_) | Overlay::MarkBy(_)) => self.table.move_cursor(motion),
            Some(Overlay::Text(_, pager) | Overlay::Receipt(_, pager)) => {
                pager.scroll_by(rows, width, height);
            }
            Some(Overlay::Open(dialog)) => dialog.step(rows > 0),
            Some(Overlay::Help(help)) => {
                let last = help.bindings(&self.settings.keys).len().saturating_sub(1);
                help.chosen = help.chosen.saturating_add_signed(rows).min(last);
            }
            Some(Overlay::GoTo(go_to)) => go_to.chosen = step(go_to.chosen, go_to.names.len()),
            Some(Overlay::Presets(presets)) => {
                presets.chosen = step(presets.chosen, presets.choices.len());
            }
            Some(Overlay::Columns(columns)) => {
                columns.chosen = step(columns.chosen, columns.choices.len());
            }
            Some(Overlay::Schemes(list)) => list.chosen = step(list.chosen, list.choices.len()),
            Some(Overlay::Targets(list)) => list.chosen = step(list.chosen, list.choices.len()),
            Some(Overlay::Budget(_)) => self.move_budget(motion),
            Some(Overlay::Diff(view)) => {
                if let DiffState::Done(differences) = &mut view.state {
                    differences.move_cursor(motion);
                }
            }
            Some(Overlay::Save(dialog)) if matches!(motion, Motion::PageUp | Motion::PageDown) => {
                dialog.page += rows.signum();
            }
            Some(Overlay::Save(dialog)) => {
                dialog.page = 0;
                dialog.step(rows > 0, &self.model);
                dialog.problem = None;
                self.preview_save(effects);
            }
            _ => {}
        }
    }

    pub(super) fn wheel(&mut self, rows: isize, effects: &mut Effects) {
        let (width, height) = self.viewport.text;
        match &mut self.overlay {
            None if self.zoomed && self.tab == Tab::Values => self.values.scroll(rows),
            None if self.zoomed && self.tab == Tab::Channels => self.channels.scroll(rows),
            None | Some(Overlay::Filter(_) | Overlay::MarkBy(_)) => self.table.scroll(rows),
            Some(Overlay::Text(_, pager) | Overlay::Receipt(_, pager)) => {
                pager.scroll_by(rows, width, height);
            }
            Some(_) => self.move_by(if rows > 0 { Motion::Down } else { Motion::Up }, effects),
        }
    }

    pub(super) fn resize(&mut self, viewport: Viewport) {
        self.viewport = viewport;
        self.table.set_height(viewport.table);
        self.values.set_height(viewport.values);
        self.channels.set_height(viewport.channels);
        if let Some(Overlay::Diff(view)) = &mut self.overlay
            && let DiffState::Done(differences) = &mut view.state
        {
            differences.set_height(viewport.diff);
        }
        if let Some(pager) = self.overlay.as_mut().and_then(Overlay::pager) {
            pager.scroll_by(0, viewport.text.0, viewport.text.1);
        }
    }
}
