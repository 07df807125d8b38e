//! The state of the inspector, and questions about it that change nothing.

use crate::app::action::Action;
use crate::app::calibration::CalibrationState;
use crate::app::channels::ChannelsView;
use crate::app::comparison::ComparisonView;
use crate::app::event::Viewport;
use crate::app::filter::Filter;
use crate::app::filter_input::FilterHistory;
use crate::app::formats::FormatFit;
use crate::app::histogram::HistogramView;
use crate::app::keys::{Context, Key};
use crate::app::meter::{Meter, RateTracker};
use crate::app::model::Model;
use crate::app::overlay::Overlay;
use crate::app::settings::Settings;
use crate::app::tab::Tab;
use crate::app::table::{Column, Row, Table};
use crate::app::tree::TreeItem;
use crate::app::values::ValuesView;
use crate::checkpoint::Checkpoint;
use crate::plan::target::Target;
use crate::quantization::{QuantizationScheme, Quantizer};
use crate::tensor::TensorId;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The message on the status line.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The message.
    pub text: String,
    /// Whether it is a warning.
    pub warning: bool,
}

/// The speed of each job.
#[derive(Debug, Default)]
pub(super) struct JobRates {
    pub(super) calibration: RateTracker,
    pub(super) save: RateTracker,
    pub(super) diff: RateTracker,
    pub(super) outputs: RateTracker,
}

/// The state of the inspector.
#[derive(Debug)]
pub struct App {
    /// The model with its marks and measurements.
    pub model: Model,
    /// The table of tensors.
    pub table: Table,
    /// The tab of the detail.
    pub tab: Tab,
    /// Whether the detail fills the screen.
    pub zoomed: bool,
    /// The topmost window.
    pub overlay: Option<Overlay>,
    /// Overlays below the one that receives the keys, the lowest first.
    pub(super) covered: Vec<Overlay>,
    /// Whether this checkpoint can be saved in each format; empty until it is needed.
    pub formats: Vec<FormatFit>,
    /// The target whose rules were requested last.
    pub(super) requested_rules: Option<Target>,
    /// The message in the status line.
    pub status: Option<Status>,
    /// How far the measurement is.
    pub calibration: CalibrationState,
    /// Visible size of everything that scrolls.
    pub viewport: Viewport,
    /// The user's settings.
    pub settings: Settings,
    /// The filter as typed.
    pub filter_text: String,
    /// Which elements the Values tab shows.
    pub values: ValuesView,
    /// The Histogram tab.
    pub histogram: HistogramView,
    /// The Channels tab.
    pub channels: ChannelsView,
    /// The Schemes tab.
    pub comparison: ComparisonView,
    /// Marks whose error is being measured, and whether more marks are to be checked after the
    /// calibration.
    pub(super) measuring: HashMap<TensorId, Quantizer>,
    pub(super) postponed: bool,
    /// Progress of the output measurements, while they run.
    pub measuring_outputs: Option<Meter>,
    /// Captured activations: those to open when the inspector starts, later those that were
    /// opened last.
    pub activations: Vec<PathBuf>,
    /// Whether the user changed the columns of the settings.
    pub(super) own_columns: bool,
    /// Whether the mouse drags the table's scroll bar.
    pub bar_held: bool,
    /// The path of the last comparison.
    pub(super) compared_with: String,
    /// The filters that were kept.
    pub(super) filter_history: FilterHistory,
    /// Unbound keys that the user was told about already.
    pub(super) unbound: HashSet<(Context, Key)>,
    /// The filter that `n` and `N` search with.
    pub(super) search: Filter,
    /// The generation of the current calibration; findings of older ones are dropped.
    pub(super) generation: u64,
    /// The schemes that every tensor is measured with.
    pub(super) calibrated: Vec<QuantizationScheme>,
    /// When the ranking was last updated, and whether there are newer findings.
    pub(super) ranking_updated: Duration,
    pub(super) ranking_is_stale: bool,
    pub(super) rates: JobRates,
    pub(super) prioritized: Vec<TensorId>,
    pub(super) receipts: Vec<String>,
    /// The number that is typed before a movement.
    pub(super) count: Option<usize>,
}

impl App {
    /// Opens a checkpoint with default settings.
    pub fn new(checkpoint: Arc<Checkpoint>) -> App {
        App::with(checkpoint, Settings::default())
    }

    /// Opens a checkpoint.
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
            covered: Vec::new(),
            formats: Vec::new(),
            requested_rules: None,
            status,
            calibration: CalibrationState::NothingToDo,
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
            filter_history: FilterHistory::default(),
            unbound: HashSet::new(),
            search: Filter::everything(),
            generation: 0,
            calibrated: Vec::new(),
            ranking_updated: Duration::ZERO,
            ranking_is_stale: false,
            rates: JobRates::default(),
            prioritized: Vec::new(),
            receipts: Vec::new(),
            count: None,
            model,
        }
    }

    /// Takes over the receipts from the previous state when another model is opened.
    pub(crate) fn carry_over(&mut self, before: &mut App) {
        self.receipts = std::mem::take(&mut before.receipts);
        self.filter_history = std::mem::take(&mut before.filter_history);
        self.unbound = std::mem::take(&mut before.unbound);
    }

    /// The context that receives the keys.
    pub fn context(&self) -> Context {
        match &self.overlay {
            Some(overlay) => overlay.context(),
            None if self.zoomed && self.current_tensor().is_some() => match self.tab {
                Tab::Values => Context::Values,
                Tab::Channels => Context::Channels,
                Tab::Histogram => Context::Histogram,
                Tab::Schemes => Context::SchemesTab,
                Tab::Overview => Context::Table,
            },
            None => Context::Table,
        }
    }

    /// Receipts of what was saved, to print on exit.
    pub fn receipts(&self) -> &[String] {
        &self.receipts
    }

    /// A remark on the model beside its name; empty for ordinary models.
    pub fn about(&self) -> &'static str {
        if crate::demo::is(&self.model.checkpoint) { "reads digits; o opens yours" } else { "" }
    }

    /// The open overlays, the lowest first.
    pub fn overlays(&self) -> impl DoubleEndedIterator<Item = &Overlay> {
        self.covered.iter().chain(&self.overlay)
    }

    /// The columns to show if there is room.
    pub fn columns(&self) -> Vec<Column> {
        let output = self.model.outputs.is_some().then_some(Column::Output);
        self.settings.columns.iter().copied().chain(output).collect()
    }

    /// The tensor under the cursor.
    pub fn current_tensor(&self) -> Option<TensorId> {
        match self.table.current()?.item {
            TreeItem::Tensor(id) => Some(id),
            TreeItem::Module(_) => None,
        }
    }

    /// The scheme under the cursor of the Schemes tab.
    pub fn scheme_in_tab(&self, id: TensorId) -> Option<QuantizationScheme> {
        let chosen = self.comparison.chosen(id).unwrap_or(self.model.scheme_of(id));
        self.model.scheme_rows().into_iter().find(|&scheme| scheme == chosen)
    }

    /// The name of a row's tensor, or the path of its module.
    pub fn full_name(&self, row: Row) -> &str {
        match row.item {
            TreeItem::Tensor(id) => &self.model.checkpoint.tensor(id).name,
            TreeItem::Module(node) => {
                let node = self.table.tree().node(node);
                &self.model.checkpoint.tensor(node.sample).name[..node.prefix as usize]
            }
        }
    }

    /// The key of an action in the table, for use in a sentence.
    pub fn key_of(&self, action: Action) -> String {
        self.settings.keys.name(Context::Table, action)
    }

    /// Names the keys that mark tensors, for use in a sentence.
    pub fn how_to_mark(&self) -> String {
        let [row, all, role] =
            [Action::Mark, Action::MarkShown, Action::Presets].map(|a| self.key_of(a));
        format!("{row} marks this row, {all} all shown, {role} by preset")
    }

    /// Whether an action would do something now. The hint bar shows only such actions.
    pub fn can(&self, action: Action) -> bool {
        match action {
            Action::Undo => self.model.undo_depth().0 > 0,
            Action::Save | Action::WriteRecipe => !self.model.plan().is_empty(),
            Action::Budget | Action::ReadRecipe => self.model.has_floats(),
            Action::NextCalibration => self.table.current().is_some_and(|row| match row.item {
                TreeItem::Tensor(id) => self.model.is_marked(id),
                TreeItem::Module(node) => self.table.totals(node).marked > 0,
            }),
            Action::NarrowClip | Action::KeepClip => self.tab == Tab::Histogram,
            Action::Dequantize => self.model.can_become_floats(),
            Action::Back => {
                self.zoomed || self.table.range().is_some() || !self.filter_text.is_empty()
            }
            Action::CreateDirectory => match &self.overlay {
                Some(Overlay::Save(dialog)) => dialog.missing.is_some(),
                Some(Overlay::Prompt(prompt)) => prompt.missing.is_some(),
                _ => false,
            },
            Action::Complete => match &self.overlay {
                Some(Overlay::Prompt(prompt)) => prompt.purpose.is_path(),
                _ => true,
            },
            Action::Fix => match &self.overlay {
                Some(Overlay::Save(dialog)) => dialog.fix().is_some(),
                _ => false,
            },
            Action::ErrorCompensation | Action::ClipSearch => match &self.overlay {
                Some(Overlay::Save(dialog)) => dialog.offers_rounding(&self.model),
                _ => false,
            },
            Action::Mark
            | Action::MarkShown
            | Action::Presets
            | Action::Target
            | Action::MarkBy
            | Action::Range
            | Action::Schemes
            | Action::SchemesForAll => self.model.has_floats(),
            _ => true,
        }
    }
}
