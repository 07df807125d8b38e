//! The list of models to choose from, shown if a path has several models or none.

use crate::app::action::Action;
use crate::app::filter::{Filter, Metric, Property, Subject, Vocabulary, complete};
use crate::app::filter_input::{FilterHistory, FilterInput};
use crate::app::keymap::KeyMap;
use crate::app::keys::{Binding, Context, Key};
use crate::checkpoint::{Format, FoundModel, Models};
use crate::demo;
use crate::text::names;
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use tui_input::{Input, InputRequest};

/// A row of the list.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelChoice {
    /// Path of the model.
    pub path: PathBuf,
    /// The name to show, with control characters escaped.
    pub name: String,
    /// Where the model was found.
    pub place: &'static str,
    /// Format and bytes; `None` for the demo.
    pub known: Option<(Format, u64)>,
}

/// Models can be filtered by name and size.
impl Subject for ModelChoice {
    fn name(&self) -> &str {
        &self.name
    }

    fn metric(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Size => self.known.map(|(_, bytes)| bytes as f64),
            _ => None,
        }
    }

    fn is(&self, _: Property) -> bool {
        false
    }

    fn dtype_begins(&self, _: &str) -> bool {
        false
    }
}

/// The list of models to open at the start.
#[derive(Clone, Debug)]
pub struct Picker {
    /// Notes on the search, one sentence each.
    pub notes: Vec<String>,
    /// All models.
    pub choices: Vec<ModelChoice>,
    /// Indices of the choices that pass the filter.
    pub shown: Vec<usize>,
    /// The typed filter.
    pub filter_text: String,
    /// The filter while it is typed.
    pub typing: Option<FilterInput>,
    history: FilterHistory,
    /// The row under the cursor among those shown.
    pub cursor: usize,
    /// Why the model that was chosen last did not open.
    pub problem: Option<String>,
    /// The first row of the keys, while these are shown in place of the list.
    pub help: Option<usize>,
}

/// The result of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Picked {
    /// Nothing is chosen yet.
    Nothing,
    /// A model was chosen.
    Model(PathBuf),
    /// The user left without a choice.
    Left,
    /// Stop the program until the shell continues it.
    Suspend,
    /// Draw the whole screen again.
    Redraw,
}

impl Picker {
    /// `here` are the models below `root`; `hub` are those in the Hugging Face cache at a path.
    pub fn new(root: &Path, here: Models, hub: Option<(&Path, Models)>) -> Picker {
        let mut picker = Picker {
            notes: Vec::new(),
            choices: Vec::new(),
            shown: Vec::new(),
            filter_text: String::new(),
            typing: None,
            history: FilterHistory::default(),
            cursor: 0,
            problem: None,
            help: None,
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
        picker.shown = (0..picker.choices.len()).collect();
        picker
    }

    /// Where the keys are looked up.
    pub fn context(&self) -> Context {
        match self.typing {
            Some(_) => Context::PickerFilter,
            None => Context::Picker,
        }
    }

    /// The choice under the cursor.
    pub fn current(&self) -> Option<&ModelChoice> {
        self.choices.get(*self.shown.get(self.cursor)?)
    }

    /// Applies the filter that is typed, if it is valid.
    fn filter(&mut self) {
        let Some(typing) = &mut self.typing else { return };
        let Some(mut filter) = typing.parse(&Vocabulary::MODELS) else { return };
        self.filter_text = typing.text().to_owned();
        let names = self.choices.par_iter().map(|choice| choice.name.as_str());
        filter.resolve(&Filter::everything(), names);
        let mut matcher = filter.matcher();
        let shown = (0..).zip(&self.choices).filter(|(_, choice)| matcher.matches(*choice));
        self.shown = shown.map(|(number, _)| number).collect();
        self.cursor = 0;
    }

    fn show_all(&mut self) {
        let current = self.shown.get(self.cursor).copied();
        self.shown = (0..self.choices.len()).collect();
        self.cursor = current.unwrap_or(0);
        self.filter_text.clear();
    }

    /// Handles a key while a filter is typed.
    fn type_key(&mut self, action: Option<Action>, key: Key) -> Picked {
        let Some(typing) = &mut self.typing else { return Picked::Nothing };
        let request = match (action, key) {
            (Some(Action::Edit(request)), _) => Some(request),
            (None, Key::Char(c)) => Some(InputRequest::InsertChar(c)),
            _ => None,
        };
        if let Some(request) = request {
            typing.edited();
            if typing.input.handle(request).is_some_and(|change| change.value) {
                self.filter();
            }
            return Picked::Nothing;
        }
        match action {
            Some(Action::OlderFilter) if typing.recall(&self.history, true) => self.filter(),
            Some(Action::NewerFilter) if typing.recall(&self.history, false) => self.filter(),
            Some(Action::Complete) => {
                let names = self.choices.iter().map(|choice| choice.name.as_str());
                let completed =
                    complete(typing.text(), &Vocabulary::MODELS, names, std::iter::empty());
                typing.input = Input::new(completed.text);
                self.filter();
            }
            Some(Action::Accept) if typing.problem.is_none() => {
                self.history.record(typing.text());
                self.typing = None;
            }
            Some(Action::Close) => {
                self.typing = None;
                self.show_all();
            }
            Some(Action::Quit) => return Picked::Left,
            Some(Action::Suspend) => return Picked::Suspend,
            Some(Action::Redraw) => return Picked::Redraw,
            _ => {}
        }
        Picked::Nothing
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

    /// Carries out a key.
    pub fn press(&mut self, keys: &KeyMap, key: Key, height: usize) -> Picked {
        let action = keys.action(self.context(), key);
        if self.typing.is_some() {
            return self.type_key(action, key);
        }
        if let Some(row) = self.help.take()
            && action != Some(Action::Quit)
        {
            // Other keys return to the list.
            if let Some(Action::Move(motion)) = action {
                let here = |binding: &Binding| Context::Picker.layers().contains(&binding.context);
                let count = keys.bindings().filter(|(binding, _)| here(binding)).count();
                let rows = height.saturating_sub(1).max(1) as u64;
                let last = (count as u64).saturating_sub(rows);
                self.help = Some(motion.from(row as u64, last + 1, rows) as usize);
            }
            return Picked::Nothing;
        }
        self.problem = None;
        match action {
            Some(Action::Help) => {
                self.help = Some(0);
                Picked::Nothing
            }
            Some(Action::Move(motion)) => {
                let count = self.shown.len() as u64;
                self.cursor = motion.from(self.cursor as u64, count, height as u64) as usize;
                Picked::Nothing
            }
            Some(Action::Filter) => {
                self.typing = Some(FilterInput::new(&self.filter_text));
                Picked::Nothing
            }
            Some(Action::Close) if !self.filter_text.is_empty() => {
                self.show_all();
                Picked::Nothing
            }
            Some(Action::Accept) => match self.current() {
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
        match self.shown.get(number).and_then(|&at| self.choices.get(at)) {
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
        let last = self.shown.len().saturating_sub(1);
        self.cursor = self.cursor.saturating_add_signed(rows).min(last);
    }
}

fn choice(root: &Path, found: FoundModel, place: &'static str) -> ModelChoice {
    let below = found.path.strip_prefix(root).unwrap_or(&found.path);
    let name =
        if below.as_os_str().is_empty() { root.to_string_lossy() } else { below.to_string_lossy() };
    let name = names::on_the_hub(&name).unwrap_or_else(|| name.into_owned());
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
    fn models_have_the_names_people_know_them_by() {
        let picker = picker();
        let names: Vec<&str> = picker.choices.iter().map(|choice| &*choice.name).collect();
        assert_eq!(names, ["a\\u{1b}.gguf", "b", "org/name", "the built-in demo"]);
        assert_eq!(picker.notes, ["/hub is too large: only a part of it was searched."]);
    }

    #[test]
    fn keys_choose_and_leave() {
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
    fn models_are_filtered_in_the_language_of_the_table() {
        let (mut picker, keys) = (picker(), KeyMap::default());
        let press = |picker: &mut Picker, text: &str| {
            text.chars().for_each(|c| _ = picker.press(&keys, Key::Char(c), 9));
        };
        let names = |picker: &Picker| -> Vec<String> {
            picker.shown.iter().map(|&at| picker.choices[at].name.clone()).collect()
        };
        press(&mut picker, "/org");
        assert_eq!(names(&picker), ["org/name"]);
        picker.press(&keys, Key::Ctrl('u'), 9);
        press(&mut picker, "size>5B !gguf");
        assert_eq!(names(&picker), ["b", "org/name"]);
        assert_eq!(picker.press(&keys, Key::Enter, 9), Picked::Nothing);
        assert_eq!(picker.press(&keys, Key::Enter, 9), Picked::Model("/m/b".into()));
        // Properties that models do not have are reported.
        press(&mut picker, "/ sqnr<3");
        let problem = picker.typing.as_ref().and_then(|typing| typing.problem.clone());
        assert_eq!(problem.as_deref(), Some("'sqnr' does not apply to models. Known: size"));
        picker.press(&keys, Key::Esc, 9);
        assert_eq!(names(&picker).len(), 4);
        // The history contains the filters that were applied.
        press(&mut picker, "/");
        picker.press(&keys, Key::Up, 9);
        assert_eq!(names(&picker), ["b", "org/name"]);
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
