//! The shares of an output that several workers make: what is done, running and missing, and the
//! command that makes what is missing.

use crate::app::action::Action;
use crate::app::keymap::KeyMap;
use crate::app::keys::{Binding, Context, Key};
use crate::export::{ShareProgress, Survey};
use crate::text::figures::{bytes, counted};
use crate::text::{names, shell};
use std::path::PathBuf;

/// The list of shares.
#[derive(Clone, Debug)]
pub struct SharesView {
    /// The shares as they were read last.
    pub survey: Survey,
    /// The share under the cursor.
    pub cursor: usize,
    /// Whether the output itself is there.
    pub joined: bool,
    /// What the last key did.
    pub said: Option<String>,
    /// Why the directory could not be read the last time.
    pub problem: Option<String>,
    /// The first visible row of the list of keys; `None` while the shares are shown.
    pub help: Option<usize>,
}

/// The result of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum SharesKey {
    /// Nothing for the terminal to do.
    Nothing,
    /// Read the directory again.
    Refresh,
    /// Copy this command line.
    Copy(String),
    /// Open the joined output at this path.
    Open(PathBuf),
    /// Leave the list.
    Leave,
    /// Suspend the program.
    Suspend,
    /// Draw the screen again.
    Redraw,
}

impl SharesView {
    /// Begins with the cursor on the first share that is not done.
    pub fn new(survey: Survey) -> SharesView {
        let cursor = survey.shares.iter().position(|share| !share.progress.is_done()).unwrap_or(0);
        let joined = survey.out.exists();
        SharesView { survey, cursor, joined, said: None, problem: None, help: None }
    }

    /// Takes over what was read now. `None` if the directory is gone, as after `join`.
    pub fn refresh(&mut self, read: Result<Option<Survey>, String>) {
        self.problem = None;
        match read {
            Ok(Some(survey)) => self.survey = survey,
            Ok(None) => {
                self.problem = Some("the directory with the shares is no longer there".to_owned());
            }
            Err(why) => self.problem = Some(why),
        }
        self.joined = self.survey.out.exists();
        self.cursor = self.cursor.min(self.survey.shares.len().saturating_sub(1));
    }

    /// One line for the whole output: `2 of 4 shares done, 190 kB; running: 2; missing: 4`.
    pub fn summary(&self) -> String {
        let survey = &self.survey;
        let (done, all) = (survey.done(), survey.shares.len());
        let mut text = format!("{done} of {} done", counted(all, "share"));
        if survey.done_bytes() > 0 {
            text += &format!(", {}", bytes(survey.done_bytes()));
        }
        for word in ["running", "stopped", "missing", "damaged"] {
            let count = survey.shares.iter().filter(|s| s.progress.word() == word).count();
            if count > 0 {
                text += &format!("; {count} {word}");
            }
        }
        text
    }

    /// What to do next, and the command that does it.
    pub fn advice(&self) -> (String, Option<String>) {
        let out = names::visible(&self.survey.out.to_string_lossy()).into_owned();
        if self.joined {
            return (format!("The shares are joined. Enter opens {out}."), None);
        }
        let is_missing = |progress: &ShareProgress| {
            !progress.is_done() && !matches!(progress, ShareProgress::Running { .. })
        };
        if self.survey.done() == self.survey.shares.len() {
            let out = shell::quoted(&self.survey.out.to_string_lossy());
            let command = format!("quantscope join {}", names::visible(&out));
            return ("All shares are done. This puts them together:".to_owned(), Some(command));
        }
        // The share under the cursor if it is missing, or else the next that is.
        let after = self.survey.shares.iter().skip(self.cursor);
        let mut wanted = after.chain(&self.survey.shares);
        let Some(share) = wanted.find(|share| is_missing(&share.progress)) else {
            return ("Every missing share is being made now.".to_owned(), None);
        };
        let partition = share.partition;
        let advice = match &share.progress {
            ShareProgress::Damaged(why) => format!("Share {partition} is damaged: {why}"),
            ShareProgress::Stopped => {
                format!("The worker of share {partition} has stopped. This makes it again:")
            }
            _ => format!("This makes share {partition}:"),
        };
        match self.survey.command_of(partition) {
            Some(command) => (advice, Some(names::visible(&command).into_owned())),
            None => (
                format!(
                    "To make share {partition}, run the workers' command with --partition {partition}."
                ),
                None,
            ),
        }
    }

    /// Handles a key; `height` is the number of visible rows.
    pub fn press(&mut self, keys: &KeyMap, key: Key, height: usize) -> SharesKey {
        let action = keys.action(Context::Shares, key);
        self.said = None;
        if let Some(row) = self.help.take()
            && action != Some(Action::Quit)
        {
            // Other keys return to the list.
            if let Some(Action::Move(motion)) = action {
                let here = |binding: &Binding| Context::Shares.layers().contains(&binding.context);
                let count = keys.bindings().filter(|(binding, _)| here(binding)).count() as u64;
                let rows = height.max(1) as u64;
                let last = count.saturating_sub(rows);
                self.help = Some(motion.from(row as u64, last + 1, rows) as usize);
            }
            return SharesKey::Nothing;
        }
        match action {
            Some(Action::Move(motion)) => {
                let count = self.survey.shares.len() as u64;
                self.cursor = motion.from(self.cursor as u64, count, height as u64) as usize;
                SharesKey::Nothing
            }
            Some(Action::Refresh) => SharesKey::Refresh,
            Some(Action::Copy) => match self.advice().1 {
                Some(command) => {
                    self.said = Some("copied, if the terminal allows it".to_owned());
                    SharesKey::Copy(command)
                }
                None => SharesKey::Nothing,
            },
            Some(Action::Accept) if self.joined => SharesKey::Open(self.survey.out.clone()),
            Some(Action::Accept) => {
                self.said =
                    Some("there is nothing to open before the shares are joined".to_owned());
                SharesKey::Nothing
            }
            Some(Action::Help) => {
                self.help = Some(0);
                SharesKey::Nothing
            }
            Some(Action::Close | Action::Quit) => SharesKey::Leave,
            Some(Action::Suspend) => SharesKey::Suspend,
            Some(Action::Redraw) => SharesKey::Redraw,
            _ => {
                let help = keys.name(Context::Shares, Action::Help);
                self.said = Some(format!("{key} does nothing here; {help} shows the keys"));
                SharesKey::Nothing
            }
        }
    }

    /// Moves the cursor with the wheel.
    pub fn wheel(&mut self, rows: isize) {
        let last = self.survey.shares.len().saturating_sub(1);
        self.cursor = self.cursor.saturating_add_signed(rows).min(last);
    }
}
