//! The inspector's state and everything that can happen to it: events in, effects out.
//!
//! Pure: no terminal, no file, no thread, no clock. [`update`] is the only way the state
//! changes, `ui` draws it and `terminal` carries the effects out.

mod action;
pub(crate) mod budget;
pub(crate) mod channels;
pub mod comparison;
pub(crate) mod diff;
mod event;
pub(crate) mod filter;
pub(crate) mod histogram;
pub(crate) mod keymap;
pub mod keys;
mod meter;
mod model;
pub mod outputs;
pub mod overlay;
pub(crate) mod pager;
pub mod picker;
pub(crate) mod prompt;
mod report;
mod save;
mod session;
pub mod settings;
pub(crate) mod sparkline;
pub mod table;
pub mod tensor_metrics;
pub(crate) mod texts;
pub mod tree;
mod update;
pub(crate) mod values;

pub use action::Action;
pub use event::{Effect, Event, NotWritten, Target, Viewport};
pub use meter::{Meter, Pace};
pub use model::{Model, Quality};
pub use save::{LaidOut, SaveDialog, SaveKind, Saving, model_name, ratio};
pub use session::Session;
pub use update::update;

pub(crate) use crate::text::{figures, names};

use crate::checkpoint::Checkpoint;
use crate::quantization::{QuantizationScheme, Quantizer};
use crate::tensor::TensorId;
use channels::ChannelsView;
use comparison::ComparisonView;
use filter::Filter;
use histogram::HistogramView;
use keys::Context;
use overlay::Overlay;
use settings::Settings;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use table::{Column, Row, Table};
use tree::Item;
use values::ValuesView;

/// A view of the tensor under the cursor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    #[default]
    Overview,
    Histogram,
    Channels,
    Schemes,
    Values,
}

impl Tab {
    pub const ALL: [Tab; 5] =
        [Tab::Overview, Tab::Histogram, Tab::Channels, Tab::Schemes, Tab::Values];

    pub fn title(self) -> &'static str {
        match self {
            Tab::Overview => "Overview",
            Tab::Histogram => "Histogram",
            Tab::Channels => "Channels",
            Tab::Schemes => "Schemes",
            Tab::Values => "Values",
        }
    }
}

/// How the measuring of all tensors stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Calibration {
    /// There is no float tensor.
    NothingToDo,
    /// `round`: which of the two rounds is measured now, and the schemes of it.
    Running {
        round: usize,
        schemes: &'static [QuantizationScheme],
        meter: Meter,
    },
    /// `meter`: of the first round.
    Done {
        meter: Meter,
    },
    Stopped {
        meter: Meter,
    },
    Failed,
}

/// A sentence on the last key or the last news.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub text: String,
    pub warning: bool,
}

/// How fast the jobs go.
#[derive(Debug, Default)]
struct Paces {
    calibration: Pace,
    save: Pace,
    diff: Pace,
    outputs: Pace,
}

#[derive(Debug)]
pub struct App {
    pub model: Model,
    pub table: Table,
    pub tab: Tab,
    /// The detail has the whole screen.
    pub zoomed: bool,
    pub overlay: Option<Overlay>,
    pub status: Option<Status>,
    pub calibration: Calibration,
    pub viewport: Viewport,
    pub settings: Settings,
    /// The filter as it was typed.
    pub filter_text: String,
    /// Where in the tensor under the cursor one looks.
    pub values: ValuesView,
    pub histogram: HistogramView,
    pub channels: ChannelsView,
    pub comparison: ComparisonView,
    /// Marks whose cost is being measured, and whether others are to be once the calibration
    /// is over.
    measuring: HashMap<TensorId, Quantizer>,
    postponed: bool,
    /// How far the measuring of the layers' outputs is, while it goes on.
    pub measuring_outputs: Option<Meter>,
    /// Captures to open at the start.
    pub activations: Vec<PathBuf>,
    /// The columns are not those of the settings any more.
    own_columns: bool,
    /// The mouse has the table's scroll bar.
    pub bar_held: bool,
    /// The path compared with last.
    compared_with: String,
    /// What `n` and `N` look for.
    search: Filter,
    /// Of the calibration whose findings count.
    generation: u64,
    /// When the ranking was settled last, and whether there were findings since.
    settled: Duration,
    unsettled: bool,
    paces: Paces,
    hurried: Vec<TensorId>,
    receipts: Vec<String>,
}

impl App {
    pub fn new(checkpoint: Arc<Checkpoint>) -> App {
        App::with(checkpoint, Settings::default())
    }

    pub fn with(checkpoint: Arc<Checkpoint>, settings: Settings) -> App {
        let notes = checkpoint.notes().join("; ");
        let status = (!notes.is_empty()).then_some(Status { text: notes, warning: true });
        let mut model = Model::new(checkpoint);
        settings.scheme.into_iter().for_each(|scheme| model.choose_scheme(scheme));
        model.thresholds = settings.thresholds;
        let mut table = Table::new(&model);
        table.start_with(settings.sort, settings.tree, &model);
        App {
            table,
            tab: Tab::default(),
            zoomed: false,
            overlay: None,
            status,
            calibration: Calibration::NothingToDo,
            viewport: Viewport::default(),
            settings,
            filter_text: String::new(),
            values: ValuesView::default(),
            histogram: HistogramView::default(),
            channels: ChannelsView::default(),
            comparison: ComparisonView::default(),
            measuring: HashMap::new(),
            postponed: false,
            measuring_outputs: None,
            activations: Vec::new(),
            own_columns: false,
            bar_held: false,
            compared_with: String::new(),
            search: Filter::everything(),
            generation: 0,
            settled: Duration::ZERO,
            unsettled: false,
            paces: Paces::default(),
            hurried: Vec::new(),
            receipts: Vec::new(),
            model,
        }
    }

    /// What the keys mean now.
    pub fn context(&self) -> Context {
        match &self.overlay {
            Some(overlay) => overlay.context(),
            None if self.zoomed && self.current_tensor().is_some() => match self.tab {
                Tab::Values => Context::Values,
                Tab::Channels => Context::Channels,
                Tab::Histogram => Context::Histogram,
                Tab::Overview | Tab::Schemes => Context::Table,
            },
            None => Context::Table,
        }
    }

    /// Receipts of what was saved, to be printed at the end.
    pub fn receipts(&self) -> &[String] {
        &self.receipts
    }

    /// What is said of the model beside its name: what it is, where its name does not say it.
    pub fn about(&self) -> &'static str {
        match crate::demo::is(&self.model.checkpoint) {
            true => "reads digits; quantscope MODEL opens yours",
            false => "",
        }
    }

    /// The columns that are shown if there is room.
    pub fn columns(&self) -> Vec<Column> {
        let output = self.model.outputs.is_some().then_some(Column::Output);
        self.settings.columns.iter().copied().chain(output).collect()
    }

    /// The tensor under the cursor.
    pub fn current_tensor(&self) -> Option<TensorId> {
        match self.table.current()?.item {
            Item::Tensor(id) => Some(id),
            Item::Module(_) => None,
        }
    }

    /// The name of a row's subject: a tensor's, or a module's path.
    pub fn full_name(&self, row: Row) -> &str {
        match row.item {
            Item::Tensor(id) => &self.model.checkpoint.tensor(id).name,
            Item::Module(node) => {
                let node = self.table.tree().node(node);
                &self.model.checkpoint.tensor(node.sample).name[..node.prefix as usize]
            }
        }
    }

    /// The key of an action where no window is open, as it is said in a sentence.
    pub fn key_of(&self, action: Action) -> String {
        self.settings.keys.name(Context::Table, action)
    }

    /// Which keys mark.
    pub fn how_to_mark(&self) -> String {
        let [row, all, role] =
            [Action::Mark, Action::MarkShown, Action::Presets].map(|a| self.key_of(a));
        format!("{row} marks this row, {all} all shown, {role} by role")
    }

    /// Whether an action would do anything now; the hint bar shows what would.
    pub fn can(&self, action: Action) -> bool {
        match action {
            Action::Undo => self.model.undo_depth().0 > 0,
            Action::Save | Action::WriteRecipe => !self.model.plan().is_empty(),
            Action::Budget | Action::ReadRecipe => self.model.has_floats(),
            Action::NextScheme | Action::NextCalibration => {
                self.table.current().is_some_and(|row| match row.item {
                    Item::Tensor(id) => self.model.is_marked(id),
                    Item::Module(node) => self.table.totals(node).marked > 0,
                })
            }
            Action::NarrowClip | Action::KeepClip => self.tab == Tab::Histogram,
            Action::Dequantize => save::can_become_floats(&self.model.checkpoint),
            Action::Mark | Action::MarkShown | Action::Presets => self.model.has_floats(),
            _ => true,
        }
    }
}
