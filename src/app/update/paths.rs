//! Paths that are being typed: completion, and directories that are missing.

use crate::app::effects::Effects;
use crate::app::event::{Completion, Effect};
use crate::app::overlay::Overlay;
use crate::app::state::App;
use std::path::{Path, PathBuf};
use tui_input::Input;

/// Candidates that the status line names.
const MAX_LISTED_CANDIDATES: usize = 6;

impl App {
    pub(super) fn complete(&mut self, effects: &mut Effects) {
        if self.overlay.as_mut().is_some_and(|overlay| overlay.filter_input().is_some()) {
            return self.complete_filter();
        }
        let is_path = match &self.overlay {
            Some(Overlay::Prompt(prompt)) => prompt.purpose.is_path(),
            _ => true,
        };
        let input = self.overlay.as_mut().and_then(Overlay::input);
        if let (true, Some(input)) = (is_path, input) {
            effects.push(Effect::CompletePath(input.value().to_owned()));
        }
    }

    /// Takes over a completion, unless the text has changed since.
    pub(super) fn path_completed(&mut self, typed: &str, completion: Completion) {
        let Some(input) = self.overlay.as_mut().and_then(Overlay::input) else { return };
        if input.value() != typed {
            return;
        }
        let Completion { text, candidates } = completion;
        let changed = text != typed;
        if changed {
            *input = Input::new(text);
            self.edited();
        }
        self.say_candidates(&candidates, "no path begins like this");
    }

    /// Names the candidates of a completion.
    pub(super) fn say_candidates(&mut self, candidates: &[String], none: &str) {
        match candidates.len() {
            0 => self.say(none),
            1 => {}
            n => {
                let named = candidates
                    .iter()
                    .take(MAX_LISTED_CANDIDATES)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join("  ");
                let more = n.saturating_sub(MAX_LISTED_CANDIDATES);
                self.say(match more {
                    0 => named,
                    more => format!("{named}  and {more} more"),
                });
            }
        }
    }

    /// Creates the directory that the last attempt missed.
    pub(super) fn create_directory(&mut self, effects: &mut Effects) {
        let missing = match &self.overlay {
            Some(Overlay::Save(dialog)) => dialog.missing.clone(),
            Some(Overlay::Prompt(prompt)) => prompt.missing.clone(),
            _ => None,
        };
        match missing {
            Some(path) => effects.push(Effect::CreateDirectory(path)),
            None => self.say("no directory is missing"),
        }
    }

    pub(super) fn directory_created(&mut self, path: &Path, created: Result<(), String>) {
        let (problem, missing): (_, Option<PathBuf>) = match created {
            Ok(()) => (None, None),
            Err(why) => (Some(why), Some(path.to_owned())),
        };
        if problem.is_none() {
            self.say(format!("created {}", path.display()));
        }
        match &mut self.overlay {
            Some(Overlay::Save(dialog)) => (dialog.problem, dialog.missing) = (problem, missing),
            Some(Overlay::Prompt(prompt)) => (prompt.problem, prompt.missing) = (problem, missing),
            _ => {}
        }
    }
}
