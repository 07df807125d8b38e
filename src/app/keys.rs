//! The key table: every key with its context, its action and its help line.
//!
//! Dispatch, help, hint bar, documented configuration and man page all read [`BINDINGS`], through
//! `keymap` where the user may have changed keys.

use crate::app::action::Action;
use crate::app::scroll::Motion;
use std::fmt;
use tui_input::InputRequest;

/// A key press, independent of the terminal library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A character.
    Char(char),
    /// A character with Ctrl.
    Ctrl(char),
    /// Enter.
    Enter,
    /// Escape.
    Esc,
    /// Tab.
    Tab,
    /// Shift and Tab.
    BackTab,
    /// Backspace.
    Backspace,
    /// Delete.
    Delete,
    /// The arrow up.
    Up,
    /// The arrow down.
    Down,
    /// The arrow left.
    Left,
    /// The arrow right.
    Right,
    /// Home.
    Home,
    /// End.
    End,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
    /// F1.
    F1,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Char(' ') => f.pad("Space"),
            Key::Char(c) => f.pad(&c.to_string()),
            Key::Ctrl(c) => f.pad(&format!("Ctrl-{}", c.to_ascii_uppercase())),
            Key::Up => f.pad("↑"),
            Key::Down => f.pad("↓"),
            Key::Left => f.pad("←"),
            Key::Right => f.pad("→"),
            Key::BackTab => f.pad("Shift-Tab"),
            Key::PageUp => f.pad("PgUp"),
            Key::PageDown => f.pad("PgDn"),
            other => f.pad(&format!("{other:?}")),
        }
    }
}

/// A context in which bindings are active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    /// Everywhere, unless an overlay is open.
    Main,
    /// In the table.
    Table,
    /// In the values of a tensor, in the full-screen view.
    Values,
    /// In the channels of a tensor, in the full-screen view.
    Channels,
    /// In the histogram of a tensor, in the full-screen view.
    Histogram,
    /// In the schemes of a tensor, in the full-screen view.
    SchemesTab,
    /// While a filter of the table is typed.
    Filter,
    /// While a pattern to mark by is typed.
    MarkBy,
    /// In the search for a tensor.
    GoTo,
    /// In the list of keys.
    Help,
    /// In a text that can only be read.
    Pager,
    /// In the receipt of a save.
    Receipt,
    /// While another model is chosen.
    Open,
    /// In the list of presets.
    Presets,
    /// In the list of schemes.
    Schemes,
    /// In the list of columns.
    Columns,
    /// In the list of targets.
    Targets,
    /// In the dialog of a save.
    Save,
    /// In a question to be answered with yes or no.
    Question,
    /// While a save is running.
    Saving,
    /// In a prompt for a line of text.
    Prompt,
    /// In the budget.
    Budget,
    /// While a size is typed in the budget.
    BudgetSize,
    /// In a comparison.
    Diff,
    /// While a filter of the differences is typed.
    DiffFilter,
    /// In the list of models.
    Picker,
    /// While a filter of the models is typed.
    PickerFilter,
    /// In the list of an output's shares.
    Shares,
    /// Wherever a filter is typed.
    FilterText,
    /// Wherever text is typed.
    Text,
    /// In every list of a window.
    List,
    /// In every window where no text is typed.
    Window,
    /// Everywhere.
    Anywhere,
}

impl Context {
    /// The contexts whose bindings are active in this one, most specific first.
    pub fn layers(self) -> &'static [Context] {
        use Context::*;
        match self {
            Table => &[Table, Main, Anywhere],
            Values => &[Values, Main, Anywhere],
            Channels => &[Channels, Main, Anywhere],
            Histogram => &[Histogram, Main, Anywhere],
            SchemesTab => &[SchemesTab, Main, Anywhere],
            Filter => &[Filter, FilterText, Text, Anywhere],
            MarkBy => &[MarkBy, FilterText, Text, Anywhere],
            GoTo => &[GoTo, Text, Anywhere],
            Help => &[Help, Text, Anywhere],
            Pager => &[Pager, Window, Anywhere],
            Receipt => &[Receipt, Pager, Window, Anywhere],
            Open => &[Open, Text, Anywhere],
            Presets => &[Presets, List, Window, Anywhere],
            Schemes => &[Schemes, List, Window, Anywhere],
            Columns => &[Columns, List, Window, Anywhere],
            Targets => &[Targets, List, Window, Anywhere],
            Save => &[Save, Text, Anywhere],
            Question => &[Question, Window, Anywhere],
            Saving => &[Saving, Window, Anywhere],
            Prompt => &[Prompt, Text, Anywhere],
            Budget => &[Budget, Window, Anywhere],
            BudgetSize => &[BudgetSize, Text, Anywhere],
            Diff => &[Diff, Window, Anywhere],
            DiffFilter => &[DiffFilter, FilterText, Text, Anywhere],
            Picker => &[Picker, Window, Anywhere],
            PickerFilter => &[PickerFilter, FilterText, Text, Anywhere],
            Shares => &[Shares, Window, Anywhere],
            Main | FilterText | Text | List | Window | Anywhere => &[Anywhere],
        }
    }

    /// Every context that can be current; the others are layers of these.
    pub const ACTIVE: [Context; 27] = [
        Context::Table,
        Context::Values,
        Context::Channels,
        Context::Histogram,
        Context::SchemesTab,
        Context::Filter,
        Context::MarkBy,
        Context::GoTo,
        Context::Help,
        Context::Pager,
        Context::Receipt,
        Context::Open,
        Context::Presets,
        Context::Schemes,
        Context::Columns,
        Context::Targets,
        Context::Save,
        Context::Question,
        Context::Saving,
        Context::Prompt,
        Context::Budget,
        Context::BudgetSize,
        Context::Diff,
        Context::DiffFilter,
        Context::Picker,
        Context::PickerFilter,
        Context::Shares,
    ];

    /// The place in words, as a heading of the help.
    pub fn title(self) -> &'static str {
        match self {
            Context::Main => "On the main screen",
            Context::Table => "In the table",
            Context::Values => "In the values, on the whole screen",
            Context::Channels => "In the channels, on the whole screen",
            Context::Histogram => "In the histogram, on the whole screen",
            Context::SchemesTab => "In the schemes, on the whole screen",
            Context::Filter => "While a filter is typed",
            Context::MarkBy => "While a pattern to mark by is typed",
            Context::GoTo => "While a tensor's name is typed",
            Context::Help => "In this help",
            Context::Pager => "In a text",
            Context::Receipt => "In the receipt of a save",
            Context::Open => "While another model is chosen",
            Context::Presets => "In the list of presets",
            Context::Schemes => "In the list of schemes",
            Context::Columns => "In the list of columns",
            Context::Targets => "In the list of targets",
            Context::Save => "In the save dialog",
            Context::Question => "In a question",
            Context::Saving => "While a model is written",
            Context::Prompt => "In a prompt",
            Context::Budget => "In the budget",
            Context::BudgetSize => "While a size is typed in the budget",
            Context::Diff => "In a comparison",
            Context::DiffFilter => "While a filter of the differences is typed",
            Context::Picker => "In the list of models",
            Context::PickerFilter => "While a filter of the models is typed",
            Context::Shares => "In the list of an output's shares",
            Context::FilterText => "Wherever a filter is typed",
            Context::Text => "Wherever text is typed",
            Context::List => "In every list",
            Context::Window => "In every window",
            Context::Anywhere => "Anywhere",
        }
    }

    /// Returns whether characters are typed in this context.
    pub fn takes_text(self) -> bool {
        self.layers().contains(&Context::Text)
    }
}

/// The heading under which help lists a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Moving.
    Move,
    /// Finding and ordering.
    Find,
    /// Choosing what to quantize.
    Mark,
    /// Writing files.
    Write,
    /// Looking closer.
    Look,
    /// The tabs of a tensor.
    Values,
    /// The budget.
    Budget,
    /// Dialogs.
    Dialogs,
    /// The program.
    Program,
}

impl Group {
    /// All groups, in the order of the help.
    pub const ALL: [Group; 9] = [
        Group::Move,
        Group::Find,
        Group::Mark,
        Group::Write,
        Group::Look,
        Group::Values,
        Group::Budget,
        Group::Dialogs,
        Group::Program,
    ];

    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Move => "Moving",
            Group::Find => "Finding and ordering",
            Group::Mark => "Choosing what to quantize",
            Group::Write => "Writing",
            Group::Look => "Looking closer",
            Group::Values => "In a tensor's tabs, on the whole screen",
            Group::Budget => "In the budget",
            Group::Dialogs => "In dialogs",
            Group::Program => "The program",
        }
    }
}

/// A row of the key table.
#[derive(Debug)]
pub struct Binding {
    /// The keys, unless the settings name others.
    pub keys: &'static [Key],
    /// Where the binding is active.
    pub context: Context,
    /// What the keys do.
    pub action: Action,
    /// A description of the action, as a line of the help.
    pub help: &'static str,
    /// The heading in the help.
    pub group: Group,
    /// The word in the hint bar; `None` if the binding is not shown there.
    pub hint: Option<&'static str>,
}

const fn bind(
    context: Context,
    keys: &'static [Key],
    action: Action,
    help: &'static str,
    group: Group,
) -> Binding {
    Binding { keys, context, action, help, group, hint: None }
}

impl Binding {
    const fn hint(mut self, word: &'static str) -> Binding {
        self.hint = Some(word);
        self
    }
}

use Action as A;
use Context as C;
use Group as G;
use Key::*;

/// The key table.
#[rustfmt::skip]
pub const BINDINGS: &[Binding] = &[
    bind(C::Table, &[Down, Char('j')], A::Move(Motion::Down), "next row", G::Move),
    bind(C::Table, &[Up, Char('k')], A::Move(Motion::Up), "previous row", G::Move),
    bind(C::Table, &[PageDown, Ctrl('f')], A::Move(Motion::PageDown), "a page down", G::Move),
    bind(C::Table, &[PageUp, Ctrl('b')], A::Move(Motion::PageUp), "a page up", G::Move),
    bind(C::Table, &[Ctrl('d')], A::Move(Motion::HalfDown), "half a page down", G::Move),
    bind(C::Table, &[Ctrl('u')], A::Move(Motion::HalfUp), "half a page up", G::Move),
    bind(C::Table, &[Home, Char('g')], A::Move(Motion::First), "first row", G::Move),
    bind(C::Table, &[End, Char('G')], A::Move(Motion::Last), "last row", G::Move),
    bind(C::Table, &[Left, Char('h')], A::FoldOrLeave, "fold the module, or go up to it", G::Move),
    bind(C::Table, &[Right, Char('l')], A::UnfoldOrEnter, "unfold the module, or go into it", G::Move),
    bind(C::Table, &[Char('+')], A::UnfoldAll, "unfold every module", G::Move),
    bind(C::Table, &[Char('-')], A::FoldAll, "fold every module", G::Move),

    bind(C::Values, &[Down, Char('j')], A::Move(Motion::Down), "next element", G::Values).hint("scroll"),
    bind(C::Values, &[Up, Char('k')], A::Move(Motion::Up), "previous element", G::Values),
    bind(C::Values, &[PageDown, Ctrl('f')], A::Move(Motion::PageDown), "a page of elements down", G::Values),
    bind(C::Values, &[PageUp, Ctrl('b')], A::Move(Motion::PageUp), "a page of elements up", G::Values),
    bind(C::Values, &[Ctrl('d')], A::Move(Motion::HalfDown), "half a page of elements down", G::Values),
    bind(C::Values, &[Ctrl('u')], A::Move(Motion::HalfUp), "half a page of elements up", G::Values),
    bind(C::Values, &[Home, Char('g')], A::Move(Motion::First), "first element", G::Values),
    bind(C::Values, &[End, Char('G')], A::Move(Motion::Last), "last element", G::Values),
    bind(C::Values, &[Right, Char('l')], A::NextRow, "same column of the next row of the tensor", G::Values).hint("next row"),
    bind(C::Values, &[Left, Char('h')], A::PreviousRow, "same column of the previous row", G::Values),
    bind(C::Values, &[Char(':')], A::GoToElement, "go to an element by its index or place", G::Values).hint("go to index"),
    bind(C::Values, &[Char('J')], A::NextTensor, "values of the next tensor", G::Values).hint("next tensor"),
    bind(C::Values, &[Char('K')], A::PreviousTensor, "values of the previous tensor", G::Values),

    bind(C::Channels, &[Down, Char('j')], A::Move(Motion::Down), "next channel", G::Values).hint("scroll"),
    bind(C::Channels, &[Up, Char('k')], A::Move(Motion::Up), "previous channel", G::Values),
    bind(C::Channels, &[PageDown, Ctrl('f')], A::Move(Motion::PageDown), "a page of channels down", G::Values),
    bind(C::Channels, &[PageUp, Ctrl('b')], A::Move(Motion::PageUp), "a page of channels up", G::Values),
    bind(C::Channels, &[Ctrl('d')], A::Move(Motion::HalfDown), "half a page of channels down", G::Values),
    bind(C::Channels, &[Ctrl('u')], A::Move(Motion::HalfUp), "half a page of channels up", G::Values),
    bind(C::Channels, &[Home, Char('g')], A::Move(Motion::First), "widest channel", G::Values),
    bind(C::Channels, &[End, Char('G')], A::Move(Motion::Last), "narrowest channel", G::Values),
    bind(C::Channels, &[Char('J')], A::NextTensor, "channels of the next tensor", G::Values).hint("next tensor"),
    bind(C::Channels, &[Char('K')], A::PreviousTensor, "channels of the previous tensor", G::Values),
    bind(C::Histogram, &[Left, Char('h')], A::NarrowClip, "clip more", G::Values).hint("clip more"),
    bind(C::Histogram, &[Right, Char('l')], A::WidenClip, "clip less", G::Values).hint("clip less"),
    bind(C::Histogram, &[Down, Char('j'), Char('J')], A::NextTensor, "histogram of the next tensor", G::Values).hint("next tensor"),
    bind(C::Histogram, &[Up, Char('k'), Char('K')], A::PreviousTensor, "histogram of the previous tensor", G::Values),

    bind(C::SchemesTab, &[Enter], A::TakeScheme, "give the tensor this scheme, and mark it", G::Values).hint("take it"),
    bind(C::SchemesTab, &[Down, Char('j')], A::Move(Motion::Down), "next scheme of the tensor", G::Values).hint("choose"),
    bind(C::SchemesTab, &[Up, Char('k')], A::Move(Motion::Up), "previous scheme of the tensor", G::Values),
    bind(C::SchemesTab, &[Char('J')], A::NextTensor, "schemes of the next tensor", G::Values).hint("next tensor"),
    bind(C::SchemesTab, &[Char('K')], A::PreviousTensor, "schemes of the previous tensor", G::Values),

    bind(C::Main, &[Char('[')], A::NarrowClip, "histogram: clip more of the largest values", G::Mark).hint("clip"),
    bind(C::Main, &[Char(']')], A::WidenClip, "histogram: clip less", G::Mark),
    bind(C::Main, &[Char('=')], A::KeepClip, "histogram: mark the tensor with this clip", G::Mark).hint("keep clip"),
    bind(C::Main, &[Char('%')], A::ToggleLog, "histogram: logarithms of the counts, or the counts", G::Look),
    bind(C::Main, &[Char('f')], A::NextFlag, "next tensor with a diagnostic", G::Find),
    bind(C::Main, &[Char('F')], A::PreviousFlag, "previous tensor with a diagnostic", G::Find),

    bind(C::Main, &[Char(' ')], A::Mark, "mark the tensor, or all of the module, to be quantized", G::Mark).hint("mark"),
    bind(C::Main, &[Char('T')], A::Target, "target: choose the program that is to load the output", G::Write).hint("target"),
    bind(C::Main, &[Char('s')], A::Save, "save the quantized model", G::Write).hint("save"),
    bind(C::Main, &[Char('X')], A::SchemesForAll, "choose the scheme of the whole table and of all marks", G::Mark),
    bind(C::Table, &[Char('v')], A::Range, "range of rows: move, then mark it or choose its scheme", G::Mark),
    bind(C::Main, &[Char('*')], A::MarkBy, "mark by a pattern: attn is:good, *.mlp.*, re:regex", G::Mark),
    bind(C::Main, &[Char('a')], A::MarkShown, "mark all quantizable tensors shown, or unmark them", G::Mark).hint("all shown"),
    bind(C::Main, &[Char('x')], A::Schemes, "choose the scheme of this row, or of the marked and shown", G::Mark).hint("scheme"),
    bind(C::Main, &[Char('C')], A::NextCalibration, "next calibration for this row's marks: least MSE, percentiles", G::Mark),
    bind(C::Main, &[Char('i')], A::Invert, "invert the marks of the tensors shown", G::Mark),
    bind(C::Main, &[Char('p')], A::Presets, "choose by role: linear, attention, MLP …", G::Mark).hint("presets"),
    bind(C::Main, &[Char('u')], A::Undo, "undo the last change of marks", G::Mark).hint("undo"),
    bind(C::Main, &[Char('U'), Ctrl('r')], A::Redo, "redo the last change that was undone", G::Mark),

    bind(C::Main, &[Char('b')], A::Budget, "budget: choose along the curve of bytes against error", G::Mark).hint("budget"),
    bind(C::Main, &[Char('w')], A::WriteRecipe, "write the plan to a recipe file", G::Write),
    bind(C::Main, &[Char('r')], A::ReadRecipe, "read a plan from a recipe file", G::Write),
    bind(C::Main, &[Char('e')], A::WriteReport, "export the table: an HTML page with plots, CSV or JSON", G::Write).hint("export"),
    bind(C::Main, &[Char('d')], A::Dequantize, "write the float model back", G::Write).hint("dequantize"),

    bind(C::Main, &[Char('/')], A::Filter, "filter: words, *glob*, re:regex, size>10MB, sqnr<30, is:marked", G::Find).hint("filter"),
    bind(C::Main, &[Char('.')], A::QuantizableOnly, "only tensors that are quantized by default, or all", G::Find),
    bind(C::Table, &[Char('n')], A::NextMatch, "next match", G::Find),
    bind(C::Table, &[Char('N')], A::PreviousMatch, "previous match", G::Find),
    bind(C::Table, &[Char(':')], A::GoTo, "go to a tensor by name", G::Find),
    bind(C::Main, &[Char('t')], A::ToggleTree, "module tree or flat list", G::Find).hint("tree"),
    bind(C::Main, &[Char('>')], A::SortNext, "order by the next column", G::Find).hint("sort"),
    bind(C::Main, &[Char('<')], A::SortPrevious, "order by the previous column", G::Find),
    bind(C::Main, &[Char('R')], A::SortReverse, "reverse the order", G::Find),
    bind(C::Main, &[Char('|')], A::Columns, "choose the columns: the SQNR of any scheme, the gain of one over another", G::Find),

    bind(C::Table, &[Enter], A::Open, "unfold the module, or give the tensor the whole screen", G::Look),
    bind(C::Values, &[Enter], A::Open, "leave the whole-screen view of the values", G::Values),
    bind(C::Channels, &[Enter], A::Open, "leave the whole-screen view of the channels", G::Values),
    bind(C::Histogram, &[Enter], A::Open, "leave the whole-screen view of the histogram", G::Values),
    bind(C::Main, &[Tab], A::NextTab, "next tab", G::Look),
    bind(C::Main, &[BackTab], A::PreviousTab, "previous tab", G::Look),
    bind(C::Main, &[Char('m')], A::Metadata, "the file, its shards, metadata and config.json", G::Look),
    bind(C::Main, &[Char('L')], A::Legend, "what SQNR and the other figures mean", G::Look).hint("legend"),
    bind(C::Main, &[Char('D')], A::Diff, "compare with another checkpoint", G::Look),
    bind(C::Main, &[Char('A')], A::Activations, "open recorded activations: the output error of each layer", G::Look),
    bind(C::Main, &[Char('y')], A::Copy, "copy the name", G::Look),
    bind(C::Main, &[Char('c')], A::Calibrate, "stop calibrating or measuring outputs, or calibrate again", G::Look),

    bind(C::Main, &[Char('M')], A::ToggleMouse, "leave the mouse to the terminal, or take it", G::Program),
    bind(C::Main, &[Char('o')], A::OpenModel, "open another model", G::Program).hint("open"),
    bind(C::Main, &[Char('?'), F1], A::Help, "show the keys", G::Program).hint("help"),
    bind(C::Main, &[Esc], A::Back, "leave the whole-screen view, or clear the filter", G::Program).hint("back"),
    bind(C::Main, &[Char('q')], A::Quit, "quit", G::Program).hint("quit"),
    bind(C::Anywhere, &[Ctrl('t')], A::Stop, "stop saving, measuring or calibrating, from anywhere", G::Program),
    bind(C::Anywhere, &[Ctrl('c')], A::Quit, "quit, from anywhere", G::Program),
    bind(C::Anywhere, &[Ctrl('z')], A::Suspend, "suspend; fg returns", G::Program),
    bind(C::Anywhere, &[Ctrl('l')], A::Redraw, "draw the screen again", G::Program),

    bind(C::Filter, &[Enter], A::Accept, "keep the filter", G::Dialogs).hint("keep"),
    bind(C::Filter, &[Esc], A::Close, "drop the filter that was typed", G::Dialogs).hint("drop"),
    bind(C::Filter, &[Ctrl('n')], A::Move(Motion::Down), "next row while typing", G::Dialogs),
    bind(C::Filter, &[Ctrl('p')], A::Move(Motion::Up), "previous row while typing", G::Dialogs),

    bind(C::FilterText, &[Tab], A::Complete, "complete the condition or the name", G::Dialogs).hint("complete"),
    bind(C::FilterText, &[Up], A::OlderFilter, "an older filter", G::Dialogs).hint("older"),
    bind(C::FilterText, &[Down], A::NewerFilter, "a newer filter", G::Dialogs),

    bind(C::MarkBy, &[Enter], A::Accept, "mark what matches", G::Dialogs).hint("mark"),
    bind(C::MarkBy, &[Ctrl('x')], A::UnmarkBy, "unmark what matches", G::Dialogs).hint("unmark"),
    bind(C::MarkBy, &[Esc], A::Close, "close without marking", G::Dialogs).hint("leave"),

    bind(C::GoTo, &[Enter], A::Accept, "go there", G::Dialogs).hint("go there"),
    bind(C::GoTo, &[Down, Tab], A::Move(Motion::Down), "next name", G::Dialogs).hint("next"),
    bind(C::GoTo, &[Up, BackTab], A::Move(Motion::Up), "previous name", G::Dialogs),
    bind(C::GoTo, &[Esc], A::Close, "stay here", G::Dialogs).hint("stay"),

    bind(C::Help, &[Down], A::Move(Motion::Down), "next key of the help", G::Dialogs).hint("choose"),
    bind(C::Help, &[Up], A::Move(Motion::Up), "previous key of the help", G::Dialogs),
    bind(C::Help, &[Enter], A::Accept, "do what the key does", G::Dialogs).hint("do it"),
    bind(C::Help, &[PageDown], A::Move(Motion::PageDown), "a page of help down", G::Dialogs),
    bind(C::Help, &[PageUp], A::Move(Motion::PageUp), "a page of help up", G::Dialogs),
    bind(C::Help, &[Esc], A::Close, "close the help", G::Dialogs).hint("close"),

    bind(C::Pager, &[Down, Char('j')], A::Move(Motion::Down), "scroll a text down", G::Dialogs).hint("scroll"),
    bind(C::Pager, &[Up, Char('k')], A::Move(Motion::Up), "scroll a text up", G::Dialogs),
    bind(C::Pager, &[PageDown, Char(' '), Ctrl('f'), Ctrl('d')], A::Move(Motion::PageDown), "a page of text down", G::Dialogs),
    bind(C::Pager, &[PageUp, Ctrl('b'), Ctrl('u')], A::Move(Motion::PageUp), "a page of text up", G::Dialogs),
    bind(C::Pager, &[Home, Char('g')], A::Move(Motion::First), "beginning of the text", G::Dialogs),
    bind(C::Pager, &[End, Char('G')], A::Move(Motion::Last), "end of the text", G::Dialogs),
    bind(C::Pager, &[Char('y')], A::Copy, "copy the text", G::Dialogs).hint("copy"),
    bind(C::Pager, &[Esc, Enter, Char('q')], A::Close, "close the text", G::Dialogs).hint("close"),

    bind(C::Receipt, &[Char('o')], A::OpenResult, "open the saved model", G::Dialogs).hint("open it"),
    bind(C::Receipt, &[Char('D')], A::CompareResult, "compare the saved model with this one", G::Dialogs).hint("compare"),
    bind(C::Receipt, &[Char('c')], A::CopyCommand, "copy the command line that writes the same", G::Dialogs).hint("copy command"),

    bind(C::Open, &[Enter], A::Accept, "open the model", G::Dialogs).hint("open"),
    bind(C::Open, &[Down], A::Move(Motion::Down), "next model that was found", G::Dialogs).hint("choose"),
    bind(C::Open, &[Up], A::Move(Motion::Up), "previous model that was found", G::Dialogs),
    bind(C::Open, &[Tab], A::Complete, "complete the path of a model", G::Dialogs).hint("complete"),
    bind(C::Open, &[Esc], A::Close, "stay with this model", G::Dialogs).hint("stay"),

    bind(C::Presets, &[Down, Char('j')], A::Move(Motion::Down), "next choice", G::Dialogs).hint("choose"),
    bind(C::Presets, &[Up, Char('k')], A::Move(Motion::Up), "previous choice", G::Dialogs),
    bind(C::Presets, &[Enter], A::Accept, "mark these and nothing else", G::Dialogs).hint("mark only these"),
    bind(C::Presets, &[Char(' ')], A::Add, "mark these in addition", G::Dialogs).hint("add these"),
    bind(C::Presets, &[Esc, Char('q'), Char('p')], A::Close, "leave the marks as they are", G::Dialogs).hint("leave"),

    bind(C::List, &[Home, Char('g')], A::Move(Motion::First), "first entry of the list", G::Dialogs),
    bind(C::List, &[End, Char('G')], A::Move(Motion::Last), "last entry of the list", G::Dialogs),
    bind(C::List, &[PageDown, Ctrl('f'), Ctrl('d')], A::Move(Motion::PageDown), "five entries down", G::Dialogs),
    bind(C::List, &[PageUp, Ctrl('b'), Ctrl('u')], A::Move(Motion::PageUp), "five entries up", G::Dialogs),

    bind(C::Columns, &[Down, Char('j')], A::Move(Motion::Down), "next column", G::Dialogs).hint("choose"),
    bind(C::Columns, &[Up, Char('k')], A::Move(Motion::Up), "previous column", G::Dialogs),
    bind(C::Columns, &[Char(' ')], A::Toggle, "show the column, or leave it out", G::Dialogs).hint("show or hide"),
    bind(C::Columns, &[Enter], A::Accept, "order by it", G::Dialogs).hint("order by it"),
    bind(C::Columns, &[Esc, Char('q'), Char('|')], A::Close, "done with the columns", G::Dialogs).hint("done"),

    bind(C::Schemes, &[Enter], A::Accept, "take the scheme", G::Dialogs).hint("take it"),
    bind(C::Schemes, &[Down, Char('j')], A::Move(Motion::Down), "next scheme", G::Dialogs).hint("choose"),
    bind(C::Schemes, &[Up, Char('k')], A::Move(Motion::Up), "previous scheme", G::Dialogs),
    bind(C::Schemes, &[Right, Char('l'), Tab], A::NextScope, "for other marks: the row, the marked and shown, all", G::Dialogs).hint("for which marks"),
    bind(C::Schemes, &[Left, Char('h'), BackTab], A::PreviousScope, "back to fewer marks", G::Dialogs),
    bind(C::Schemes, &[Esc, Char('q'), Char('x'), Char('X')], A::Close, "leave the schemes as they are", G::Dialogs).hint("leave"),

    bind(C::Targets, &[Down, Char('j')], A::Move(Motion::Down), "next target", G::Dialogs).hint("choose"),
    bind(C::Targets, &[Up, Char('k')], A::Move(Motion::Up), "previous target", G::Dialogs),
    bind(C::Targets, &[Enter], A::Accept, "save for this target", G::Dialogs).hint("take it"),
    bind(C::Targets, &[Char(' ')], A::Toggle, "also for this loader, or not", G::Dialogs).hint("also this"),
    bind(C::Targets, &[Right, Char('l')], A::NextTargetScheme, "next scheme of compressed-tensors", G::Dialogs).hint("scheme"),
    bind(C::Targets, &[Left, Char('h')], A::PreviousTargetScheme, "previous scheme of compressed-tensors", G::Dialogs),
    bind(C::Targets, &[Esc, Char('q'), Char('T')], A::Close, "keep the target", G::Dialogs).hint("keep"),

    bind(C::Save, &[Enter], A::Accept, "write the file", G::Dialogs).hint("write"),
    bind(C::Save, &[Ctrl('f')], A::Target, "choose the program that is to load the file", G::Dialogs).hint("target"),
    bind(C::Save, &[Ctrl('r')], A::Fix, "change the marks so that they can be saved", G::Dialogs).hint("fix"),
    bind(C::Save, &[Ctrl('g')], A::ErrorCompensation, "compensate errors (GPTQ) for recorded inputs, or not", G::Dialogs).hint("error compensation"),
    bind(C::Save, &[Ctrl('x')], A::ClipSearch, "choose clips for recorded inputs, or not", G::Dialogs).hint("clips"),
    bind(C::Save, &[Down], A::Move(Motion::Down), "next format or type", G::Dialogs).hint("choose"),
    bind(C::Save, &[Up], A::Move(Motion::Up), "previous format or type", G::Dialogs),
    bind(C::Save, &[PageDown], A::Move(Motion::PageDown), "more of the text, where it is long", G::Dialogs),
    bind(C::Save, &[PageUp], A::Move(Motion::PageUp), "back in the text", G::Dialogs),
    bind(C::Save, &[Tab], A::Complete, "complete the path", G::Dialogs),
    bind(C::Save, &[Ctrl('d')], A::CreateDirectory, "create the directory that is missing", G::Dialogs).hint("create the directory"),
    bind(C::Save, &[Esc], A::Close, "write nothing", G::Dialogs).hint("write nothing"),

    bind(C::Saving, &[Esc], A::Cancel, "cancel and clean up", G::Dialogs).hint("cancel and clean up"),

    bind(C::Prompt, &[Enter], A::Accept, "accept the text", G::Dialogs).hint("take it"),
    bind(C::Prompt, &[Tab], A::Complete, "complete the path that is typed", G::Dialogs).hint("complete"),
    bind(C::Prompt, &[Ctrl('d')], A::CreateDirectory, "create the missing directory of the path", G::Dialogs).hint("create the directory"),
    bind(C::Prompt, &[Esc], A::Close, "leave without it", G::Dialogs).hint("leave"),

    bind(C::Budget, &[Left, Char('h')], A::Smaller, "one choice towards fewer bytes", G::Budget).hint("smaller"),
    bind(C::Budget, &[Right, Char('l')], A::Larger, "one choice towards less error", G::Budget).hint("larger"),
    bind(C::Budget, &[PageDown, Char('H')], A::Move(Motion::PageDown), "a twentieth towards fewer bytes", G::Budget),
    bind(C::Budget, &[PageUp, Char('L')], A::Move(Motion::PageUp), "a twentieth towards less error", G::Budget),
    bind(C::Budget, &[Home], A::Move(Motion::First), "the smallest there is", G::Budget),
    bind(C::Budget, &[End], A::Move(Motion::Last), "nothing quantized", G::Budget),
    bind(C::Budget, &[Down, Char('j')], A::Move(Motion::Down), "next scheme of the list", G::Budget),
    bind(C::Budget, &[Up, Char('k')], A::Move(Motion::Up), "previous scheme of the list", G::Budget),
    bind(C::Budget, &[Char(' ')], A::Toggle, "allow the scheme, or forbid it", G::Budget).hint("allow or forbid"),
    bind(C::Budget, &[Char(':')], A::TypeSize, "type a size or an error: 60MB, 50%, 40dB; a digit begins it too", G::Budget).hint("type a size"),
    bind(C::Budget, &[Enter], A::Accept, "keep these marks", G::Budget).hint("keep"),
    bind(C::Budget, &[Esc, Char('q'), Char('b')], A::Close, "restore the marks from before", G::Budget).hint("restore"),

    bind(C::BudgetSize, &[Enter], A::Accept, "go to the typed size", G::Budget).hint("go there"),
    bind(C::BudgetSize, &[Esc], A::Close, "type no size", G::Budget).hint("leave"),

    bind(C::Diff, &[Down, Char('j')], A::Move(Motion::Down), "next difference", G::Dialogs).hint("scroll"),
    bind(C::Diff, &[Up, Char('k')], A::Move(Motion::Up), "previous difference", G::Dialogs),
    bind(C::Diff, &[PageDown, Ctrl('f'), Ctrl('d')], A::Move(Motion::PageDown), "a page of differences down", G::Dialogs),
    bind(C::Diff, &[PageUp, Ctrl('b'), Ctrl('u')], A::Move(Motion::PageUp), "a page of differences up", G::Dialogs),
    bind(C::Diff, &[Home, Char('g')], A::Move(Motion::First), "greatest difference", G::Dialogs),
    bind(C::Diff, &[End, Char('G')], A::Move(Motion::Last), "smallest difference", G::Dialogs),
    bind(C::Diff, &[Enter], A::Accept, "go to that tensor in the table", G::Dialogs).hint("go to it"),
    bind(C::Diff, &[Char('/')], A::Filter, "filter the differences: is:changed, sqnr<30, words", G::Dialogs).hint("filter"),
    bind(C::Diff, &[Char('y')], A::Copy, "copy the differences as text", G::Dialogs).hint("copy"),
    bind(C::Diff, &[Esc, Char('q')], A::Close, "leave the comparison", G::Dialogs).hint("leave"),

    bind(C::Picker, &[Down, Char('j')], A::Move(Motion::Down), "next model of the list", G::Dialogs).hint("choose"),
    bind(C::Picker, &[Up, Char('k')], A::Move(Motion::Up), "previous model", G::Dialogs),
    bind(C::Picker, &[PageDown, Ctrl('f'), Ctrl('d')], A::Move(Motion::PageDown), "a page of models down", G::Dialogs),
    bind(C::Picker, &[PageUp, Ctrl('b'), Ctrl('u')], A::Move(Motion::PageUp), "a page of models up", G::Dialogs),
    bind(C::Picker, &[Home, Char('g')], A::Move(Motion::First), "first model", G::Dialogs),
    bind(C::Picker, &[End, Char('G')], A::Move(Motion::Last), "last choice, the demo", G::Dialogs),
    bind(C::Picker, &[Enter], A::Accept, "open that model", G::Dialogs).hint("open"),
    bind(C::Picker, &[Char('/')], A::Filter, "filter the models: words, size>1GB, *glob*", G::Dialogs).hint("filter"),
    bind(C::Picker, &[Esc, Char('q')], A::Close, "open none", G::Dialogs).hint("leave"),

    bind(C::DiffFilter, &[Enter], A::Accept, "keep the filter of the differences", G::Dialogs).hint("keep"),
    bind(C::DiffFilter, &[Esc], A::Close, "show all differences", G::Dialogs).hint("show all"),

    bind(C::PickerFilter, &[Enter], A::Accept, "keep the filter of the models", G::Dialogs).hint("keep"),
    bind(C::PickerFilter, &[Esc], A::Close, "show all models", G::Dialogs).hint("show all"),

    bind(C::Shares, &[Down, Char('j')], A::Move(Motion::Down), "next share", G::Dialogs).hint("choose"),
    bind(C::Shares, &[Up, Char('k')], A::Move(Motion::Up), "previous share", G::Dialogs),
    bind(C::Shares, &[PageDown, Ctrl('f'), Ctrl('d')], A::Move(Motion::PageDown), "a page of shares down", G::Dialogs),
    bind(C::Shares, &[PageUp, Ctrl('b'), Ctrl('u')], A::Move(Motion::PageUp), "a page of shares up", G::Dialogs),
    bind(C::Shares, &[Home, Char('g')], A::Move(Motion::First), "first share", G::Dialogs),
    bind(C::Shares, &[End, Char('G')], A::Move(Motion::Last), "last share", G::Dialogs),
    bind(C::Shares, &[Char('y')], A::Copy, "copy the command that makes the share, or joins all", G::Dialogs).hint("copy"),
    bind(C::Shares, &[Char('R')], A::Refresh, "read the shares again; they are read every second too", G::Dialogs).hint("refresh"),
    bind(C::Shares, &[Enter], A::Accept, "open the output once the shares are joined", G::Dialogs).hint("open"),
    bind(C::Shares, &[Esc, Char('q')], A::Close, "leave the shares", G::Dialogs).hint("leave"),

    bind(C::Question, &[Char('y')], A::Accept, "yes", G::Dialogs).hint("yes"),
    bind(C::Question, &[Char('n'), Esc], A::Close, "no", G::Dialogs).hint("no"),

    bind(C::Text, &[Left], A::Edit(InputRequest::GoToPrevChar), "a character back", G::Dialogs),
    bind(C::Text, &[Right], A::Edit(InputRequest::GoToNextChar), "a character on", G::Dialogs),
    bind(C::Text, &[Home, Ctrl('a')], A::Edit(InputRequest::GoToStart), "beginning of the line", G::Dialogs),
    bind(C::Text, &[End, Ctrl('e')], A::Edit(InputRequest::GoToEnd), "end of the line", G::Dialogs),
    bind(C::Text, &[Backspace], A::Edit(InputRequest::DeletePrevChar), "delete the character before", G::Dialogs),
    bind(C::Text, &[Delete], A::Edit(InputRequest::DeleteNextChar), "delete the character under the cursor", G::Dialogs),
    bind(C::Text, &[Ctrl('w')], A::Edit(InputRequest::DeletePrevWord), "delete the word before", G::Dialogs),
    bind(C::Text, &[Ctrl('u')], A::Edit(InputRequest::DeleteLine), "delete the line", G::Dialogs),
    bind(C::Text, &[Ctrl('k')], A::Edit(InputRequest::DeleteTillEnd), "delete to the end", G::Dialogs),
    bind(C::Window, &[Char('?'), F1], A::Help, "show the keys of the window", G::Dialogs).hint("help"),
    bind(C::Text, &[F1], A::Help, "show the keys of the dialog", G::Dialogs).hint("help"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::keymap::KeyMap;
    use std::collections::HashSet;

    const CONTEXTS: [Context; 27] = Context::ACTIVE;

    fn action(context: Context, key: Key) -> Option<Action> {
        KeyMap::default().action(context, key)
    }

    #[test]
    fn a_key_has_one_action_per_context() {
        for context in CONTEXTS {
            let mut seen = HashSet::new();
            for layer in context.layers() {
                for binding in BINDINGS.iter().filter(|b| b.context == *layer) {
                    for key in binding.keys {
                        assert!(seen.insert(*key), "{key} twice in {context:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_binding_is_active_in_some_context() {
        for binding in BINDINGS {
            assert!(!binding.keys.is_empty() && !binding.help.is_empty());
            let reached = CONTEXTS.iter().any(|&context| {
                context.layers().contains(&binding.context)
                    && action(context, binding.keys[0]) == Some(binding.action)
            });
            assert!(reached, "{}", binding.help);
        }
    }

    #[test]
    fn characters_are_not_bound_where_text_is_typed() {
        for context in CONTEXTS.into_iter().filter(|context| context.takes_text()) {
            for c in ' '..='~' {
                assert_eq!(action(context, Key::Char(c)), None, "{c} in {context:?}");
            }
        }
    }
}
