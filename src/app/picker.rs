//! The list of models to choose from, shown if a path has several models or none.

use crate::app::action::Action;
use crate::app::keymap::KeyMap;
use crate::app::keys::{Context, Key};
use crate::checkpoint::{Format, FoundModel, Models};
use crate::demo;
use crate::text::names;
use std::path::{Path, PathBuf};

/// A row of the list.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelChoice {
    pub path: PathBuf,
    /// The name to show, with control characters escaped.
    pub name: String,
    /// Where the model was found.
    pub place: &'static str,
    /// Format and bytes; `None` for the demo.
    pub known: Option<(Format, u64)>,
}

#[derive(Clone, Debug)]
pub struct Picker {
    /// Notes on the search, one sentence each.
    pub notes: Vec<String>,
    pub choices: Vec<ModelChoice>,
    pub cursor: usize,
    /// Why the model that was chosen last did not open.
    pub problem: Option<String>,
    /// Whether the keys are shown in place of the list.
    pub help: bool,
}

/// The result of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Picked {
    /// Nothing is chosen yet.
    Nothing,
    Model(PathBuf),
    Left,
    Suspend,
    Redraw,
}

impl Picker {
    /// `here` are the models below `root`; `hub` are those in the Hugging Face cache at a path.
    pub fn new(root: &Path, here: Models, hub: Option<(&Path, Models)>) -> Picker {
        let mut picker = Picker {
            notes: Vec::new(),
            choices: Vec::new(),
            cursor: 0,
            problem: None,
            help: false,
        };
        picker.add(root, here, "here", "below");
        if let Some((cache, models)) = hub {
            picker.add(cache, models, "Hugging Face", "in the Hugging Face cache");
        }
        picker.choices.push(ModelChoice {
            path: PathBuf::from(demo::WORD),
            name: "the built-in demo".to_owned(),
            place: "",
            known: None,
        });
        picker
    }

    fn add(&mut self, root: &Path, models: Models, place: &'static str, place_in_words: &str) {
        let shown = names::visible(&root.to_string_lossy()).into_owned();
        if models.found.is_empty() {
            self.notes.push(format!("No model found {place_in_words} {shown}."));
        }
        if !models.complete {
            self.notes.push(format!("{shown} is too large: only a part of it was searched."));
        }
        self.choices.extend(models.found.into_iter().map(|found| choice(root, found, place)));
    }

    pub fn press(&mut self, keys: &KeyMap, key: Key, height: usize) -> Picked {
        let action = keys.action(Context::Picker, key);
        if std::mem::take(&mut self.help) && action != Some(Action::Quit) {
            return Picked::Nothing;
        }
        self.problem = None;
        match action {
            Some(Action::Help) => {
                self.help = true;
                Picked::Nothing
            }
            Some(Action::Move(motion)) => {
                let count = self.choices.len() as u64;
                self.cursor = motion.from(self.cursor as u64, count, height as u64) as usize;
                Picked::Nothing
            }
            Some(Action::Accept) => match self.choices.get(self.cursor) {
                Some(choice) => Picked::Model(choice.path.clone()),
                None => Picked::Nothing,
            },
            Some(Action::Close | Action::Quit) => Picked::Left,
            Some(Action::Suspend) => Picked::Suspend,
            Some(Action::Redraw) => Picked::Redraw,
            _ => Picked::Nothing,
        }
    }
}

impl Picker {
    /// Handles a click on an entry; clicking the selected entry opens it.
    pub fn click(&mut self, number: usize) -> Picked {
        match self.choices.get(number) {
            Some(choice) if number == self.cursor => Picked::Model(choice.path.clone()),
            Some(_) => {
                self.cursor = number;
                Picked::Nothing
            }
            None => Picked::Nothing,
        }
    }

    /// Handles the wheel.
    pub fn wheel(&mut self, rows: isize) {
        let last = self.choices.len().saturating_sub(1);
        self.cursor = self.cursor.saturating_add_signed(rows).min(last);
    }
}

fn choice(root: &Path, found: FoundModel, place: &'static str) -> ModelChoice {
    let below = found.path.strip_prefix(root).unwrap_or(&found.path);
    let name = match below.as_os_str().is_empty() {
        true => root.to_string_lossy(),
        false => below.to_string_lossy(),
    };
    // The cache stores org/name as `models--org--name`.
    let name = match name.strip_prefix("models--") {
        Some(hub) => hub.replace("--", "/"),
        None => name.into_owned(),
    };
    let name = names::visible(&name).into_owned();
    ModelChoice { path: found.path, name, place, known: Some((found.format, found.bytes)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picker() -> Picker {
        let found = |path: &str| FoundModel { path: path.into(), format: Format::Gguf, bytes: 7 };
        let here = Models { found: vec![found("/m/a\u{1b}.gguf"), found("/m/b")], complete: true };
        let hub = Models { found: vec![found("/hub/models--org--name")], complete: false };
        Picker::new(Path::new("/m"), here, Some((Path::new("/hub"), hub)))
    }

    #[test]
    fn models_are_listed_with_readable_names() {
        let picker = picker();
        let names: Vec<&str> = picker.choices.iter().map(|choice| &*choice.name).collect();
        assert_eq!(names, ["a\\u{1b}.gguf", "b", "org/name", "the built-in demo"]);
        assert_eq!(picker.notes, ["/hub is too large: only a part of it was searched."]);
    }

    #[test]
    fn keys_select_models_and_quit() {
        let (mut picker, keys) = (picker(), KeyMap::default());
        let mut press = |key| picker.press(&keys, key, 3);
        press(Key::Char('j'));
        assert_eq!(press(Key::Enter), Picked::Model("/m/b".into()));
        press(Key::Char('G'));
        press(Key::Down);
        assert_eq!(press(Key::Enter), Picked::Model(demo::WORD.into()));
        press(Key::PageUp);
        assert_eq!(press(Key::Enter), Picked::Model("/m/b".into()));
        assert_eq!(press(Key::Char('q')), Picked::Left);
        assert_eq!(press(Key::Ctrl('c')), Picked::Left);
    }

    #[test]
    fn a_click_selects_and_a_second_click_opens() {
        let mut picker = picker();
        assert_eq!(picker.click(2), Picked::Nothing);
        assert_eq!(picker.click(9), Picked::Nothing);
        assert_eq!(picker.cursor, 2);
        assert_eq!(picker.click(2), Picked::Model("/hub/models--org--name".into()));
        picker.wheel(-1);
        assert_eq!(picker.click(1), Picked::Model("/m/b".into()));
        picker.wheel(9);
        assert_eq!(picker.cursor, 3);
    }

    #[test]
    fn without_models_a_note_and_the_demo_are_shown() {
        let picker = Picker::new(Path::new("/empty"), Models::default(), None);
        assert_eq!(picker.notes[0], "No model found below /empty.");
        assert_eq!(picker.choices.len(), 1);
    }
}
