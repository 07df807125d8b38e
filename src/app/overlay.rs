//! Overlays: dialogs, lists and texts over the table. The topmost one receives the keys.

use crate::app::budget::Budget;
use crate::app::diff::DiffView;
use crate::app::filter::{Filter, TensorSubject};
use crate::app::filter_input::FilterInput;
use crate::app::keymap::KeyMap;
use crate::app::keys::{Binding, Context, Group, Key};
use crate::app::model::Model;
use crate::app::open_model::OpenModel;
use crate::app::pager::Pager;
use crate::app::prompt::Prompt;
use crate::app::save::{SaveDialog, Saving};
use crate::app::scheme_list::SchemeList;
use crate::app::table::Column;
use crate::app::target_list::TargetList;
use crate::plan::MarkPreset;
use crate::tensor::TensorId;
use std::path::PathBuf;
use tui_input::Input;

/// The topmost dialog, list or text.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one lives at a time")]
pub enum Overlay {
    /// The filter of the table.
    Filter(FilterPrompt),
    /// Marks by a pattern that is typed.
    MarkBy(MarkPrompt),
    /// The search for a tensor.
    GoTo(GoTo),
    /// The keys.
    Help(Help),
    /// The list of presets.
    Presets(Presets),
    /// The list of columns.
    Columns(Columns),
    /// The list of targets.
    Targets(TargetList),
    /// The list of schemes.
    Schemes(SchemeList),
    /// A text: metadata, the legend, a receipt or an error.
    Text(Tone, Pager),
    /// The receipt of a save.
    Receipt(Box<SavedModel>, Pager),
    /// Opens another model.
    Open(Box<OpenModel>),
    /// The dialog of a save.
    Save(SaveDialog),
    /// Asks whether an existing output is to be replaced.
    Replace(SaveDialog),
    /// A save that is running.
    Saving(Saving),
    /// A prompt for a line of text.
    Prompt(Prompt),
    /// The curve of bytes against error.
    Budget(Box<Budget>),
    /// The differences from another checkpoint.
    Diff(Box<DiffView>),
    /// Asks whether to discard unsaved marks, to open another model or to quit.
    Leave(Option<PathBuf>),
}

/// A model that was saved.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedModel {
    /// Path of the saved model.
    pub out: PathBuf,
    /// The command line that writes the same.
    pub command: String,
}

/// The kind of message in a text window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Neither good nor bad.
    Plain,
    /// A success.
    Good,
    /// An error.
    Bad,
}

impl Overlay {
    /// The context whose keys are active.
    pub fn context(&self) -> Context {
        match self {
            Overlay::Filter(_) => Context::Filter,
            Overlay::MarkBy(_) => Context::MarkBy,
            Overlay::GoTo(_) => Context::GoTo,
            Overlay::Help(_) => Context::Help,
            Overlay::Presets(_) => Context::Presets,
            Overlay::Columns(_) => Context::Columns,
            Overlay::Targets(_) => Context::Targets,
            Overlay::Schemes(_) => Context::Schemes,
            Overlay::Text(..) => Context::Pager,
            Overlay::Receipt(..) => Context::Receipt,
            Overlay::Open(_) => Context::Open,
            Overlay::Save(_) => Context::Save,
            Overlay::Replace(_) | Overlay::Leave(_) => Context::Question,
            Overlay::Saving(_) => Context::Saving,
            Overlay::Prompt(_) => Context::Prompt,
            Overlay::Budget(budget) if budget.typing.is_some() => Context::BudgetSize,
            Overlay::Budget(_) => Context::Budget,
            Overlay::Diff(view) if view.typing.is_some() => Context::DiffFilter,
            Overlay::Diff(_) => Context::Diff,
        }
    }

    /// The filter that is being typed.
    pub fn filter_input(&mut self) -> Option<&mut FilterInput> {
        match self {
            Overlay::Filter(prompt) => Some(&mut prompt.filter),
            Overlay::MarkBy(prompt) => Some(&mut prompt.filter),
            Overlay::Diff(view) => view.typing.as_mut(),
            _ => None,
        }
    }

    /// The text that is read, if this shows one.
    pub(super) fn pager(&mut self) -> Option<&mut Pager> {
        match self {
            Overlay::Text(_, pager) | Overlay::Receipt(_, pager) => Some(pager),
            _ => None,
        }
    }

    /// The budget, if this is one.
    pub(super) fn as_budget(&mut self) -> Option<&mut Budget> {
        match self {
            Overlay::Budget(budget) => Some(budget),
            _ => None,
        }
    }

    /// The list of schemes, if this is one.
    pub(super) fn as_schemes(&mut self) -> Option<&mut SchemeList> {
        match self {
            Overlay::Schemes(list) => Some(list),
            _ => None,
        }
    }

    /// The text that is being typed.
    pub fn input(&mut self) -> Option<&mut Input> {
        match self {
            Overlay::GoTo(go_to) => Some(&mut go_to.input),
            Overlay::Help(help) => Some(&mut help.input),
            Overlay::Save(dialog) => Some(&mut dialog.path),
            Overlay::Prompt(prompt) => Some(&mut prompt.input),
            Overlay::Budget(budget) => budget.typing.as_mut(),
            Overlay::Open(dialog) => Some(&mut dialog.input),
            other => other.filter_input().map(|filter| &mut filter.input),
        }
    }
}

/// A filter that is being typed.
#[derive(Debug)]
pub struct FilterPrompt {
    /// The typed filter.
    pub filter: FilterInput,
    /// The filter from before the prompt was opened.
    pub before: String,
}

/// A pattern to mark by, and what it matches.
#[derive(Debug, Default)]
pub struct MarkPrompt {
    /// The typed pattern.
    pub filter: FilterInput,
    /// The tensors that match.
    pub matches: Vec<TensorId>,
    /// How many of them can be marked.
    pub quantizable: usize,
}

/// Tensor names that match the typed text, best match first.
#[derive(Debug, Default)]
pub struct GoTo {
    /// The typed text.
    pub input: Input,
    /// The matches that are listed.
    pub names: Vec<TensorId>,
    /// The match under the cursor.
    pub chosen: usize,
    /// The number of all matches.
    pub count: usize,
    /// Why the text is not a valid filter.
    pub problem: Option<String>,
}

impl GoTo {
    /// Maximum number of listed matches.
    pub const MAX_LISTED_NAMES: usize = 8;

    /// Finds the tensors that match the typed text.
    pub fn search(&mut self, model: &Model) {
        let mut filter = match Filter::parse(self.input.value()) {
            Ok(filter) => filter,
            Err(why) => {
                self.problem = Some(why);
                return;
            }
        };
        self.problem = None;
        filter.resolve_tensors(&Filter::everything(), model);
        let mut matcher = filter.matcher();
        let score = |id| Some((matcher.score(&TensorSubject { model, id })?, id));
        let mut scored: Vec<(u32, TensorId)> = model.checkpoint.ids().filter_map(score).collect();
        self.count = scored.len();
        // An exact match comes before longer names.
        let typed = self.input.value().trim();
        let numbers: Vec<&str> = typed
            .split(|c: char| !c.is_ascii_digit())
            .filter(|number| !number.is_empty())
            .collect();
        let best = |(score, id): &(u32, TensorId)| {
            let name = &model.checkpoint.tensor(*id).name;
            // Layer 1 comes before layer 10.
            let has = |number: &&str| name.split('.').any(|part| part == *number);
            let other_layer = !numbers.iter().all(has);
            (name != typed, other_layer, std::cmp::Reverse(*score), *id)
        };
        if scored.len() > Self::MAX_LISTED_NAMES {
            scored.select_nth_unstable_by_key(Self::MAX_LISTED_NAMES, best);
            scored.truncate(Self::MAX_LISTED_NAMES);
        }
        scored.sort_unstable_by_key(best);
        self.names = scored.into_iter().map(|(_, id)| id).collect();
        self.chosen = 0;
    }
}

/// The key table, with a search.
#[derive(Debug)]
pub struct Help {
    /// The typed search.
    pub input: Input,
    /// The binding under the cursor, among those that are shown.
    pub chosen: usize,
    /// The context in which the help was opened. Its keys come first.
    pub context: Context,
}

/// A line of the help.
#[derive(Clone, Copy, Debug)]
pub enum HelpLine<'k> {
    /// The heading of a group.
    Heading(&'static str),
    /// A binding with its keys.
    Binding(&'static Binding, &'k [Key]),
    /// An empty line.
    Blank,
}

impl Help {
    /// Opens the help in a context.
    pub fn new(context: Context) -> Help {
        Help { input: Input::default(), chosen: 0, context }
    }

    /// The bindings that contain every typed word, under their headings: those of the place where
    /// the help was opened, then by what they are for, then those of each dialog.
    pub fn lines<'k>(&self, keymap: &'k KeyMap) -> Vec<HelpLine<'k>> {
        let mut lines = Vec::new();
        let mut add = |heading: &'static str, is_here: &dyn Fn(&Binding) -> bool| {
            let bindings = keymap.bindings().filter(|(binding, _)| is_here(binding));
            let fits = |binding: &Binding, keys: &[Key]| self.fits(heading, binding, keys);
            let mut bindings = bindings.filter(|(binding, keys)| fits(binding, keys)).peekable();
            if bindings.peek().is_some() {
                if !lines.is_empty() {
                    lines.push(HelpLine::Blank);
                }
                lines.push(HelpLine::Heading(heading));
                lines.extend(bindings.map(|(binding, keys)| HelpLine::Binding(binding, keys)));
            }
        };
        // The table has keys of every kind, so they are grouped by purpose.
        let here = self.context;
        let is_here = |binding: &Binding| here != Context::Table && binding.context == here;
        add(here.title(), &is_here);
        for group in Group::ALL.into_iter().filter(|group| *group != Group::Dialogs) {
            add(group.title(), &|binding| binding.group == group && !is_here(binding));
        }
        for context in Context::ACTIVE.into_iter().chain([
            Context::FilterText,
            Context::Text,
            Context::List,
            Context::Window,
        ]) {
            add(context.title(), &|binding| {
                let in_dialog = binding.group == Group::Dialogs && binding.context == context;
                in_dialog && !is_here(binding)
            });
        }
        lines
    }

    fn fits(&self, heading: &str, binding: &Binding, keys: &[Key]) -> bool {
        let keys: Vec<String> = keys.iter().map(|key| key.to_string()).collect();
        let text = format!("{} {heading} {}", binding.help, keys.join(" ")).to_lowercase();
        let typed = self.input.value().to_lowercase();
        typed.split_whitespace().all(|word| text.contains(word))
    }

    /// The bindings that are shown.
    pub fn bindings(&self, keymap: &KeyMap) -> Vec<&'static Binding> {
        let lines = self.lines(keymap).into_iter();
        let binding = |line| match line {
            HelpLine::Binding(binding, _) => Some(binding),
            _ => None,
        };
        lines.filter_map(binding).collect()
    }
}

/// The columns that can be shown.
#[derive(Debug)]
pub struct Columns {
    /// The columns.
    pub choices: Vec<Column>,
    /// The column under the cursor.
    pub chosen: usize,
}

/// Tensors by role; `None` marks nothing.
#[derive(Debug)]
pub struct Presets {
    /// The presets.
    pub choices: Vec<PresetChoice>,
    /// The preset under the cursor.
    pub chosen: usize,
}

/// A preset and what it marks.
#[derive(Debug)]
pub struct PresetChoice {
    /// The preset; `None` marks nothing.
    pub preset: Option<MarkPreset>,
    /// The tensors that it marks.
    pub tensors: Vec<TensorId>,
    /// Their bytes together.
    pub bytes: u64,
}

impl PresetChoice {
    /// The name in the list.
    pub fn name(&self) -> &'static str {
        self.preset.map_or("nothing", MarkPreset::name)
    }
}
