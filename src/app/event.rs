//! Events, which come in, and effects, which go out, as plain data.

use crate::app::formats::FormatFit;
use crate::app::keys::Key;
use crate::app::meter::Meter;
use crate::app::outputs;
use crate::app::picker::ModelChoice;
use crate::app::save::{Refusal, SavePreview};
use crate::app::tab::Tab;
use crate::app::table::Column;
use crate::checkpoint::ReadError;
use crate::export::LoadCheck;
use crate::export::Request;
use crate::job::diff::Compared;
use crate::job::duplicates::Candidates;
use crate::job::{channels, clip, element_window, save};
use crate::plan::Plan;
use crate::plan::rules::TargetRules;
use crate::plan::target::{Loader, Target};
use crate::quantization::{
    Analysis, AnalysisSpec, Outcome, QuantizationScheme, Quantizer, ScaleStorage, SharedAbsmax,
    ValueHistogram,
};
use crate::report::Format;
use crate::tensor::TensorId;
use std::path::PathBuf;
use std::time::Duration;

/// Something that happened.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant describes its fields")]
pub enum Event {
    /// The first event: the checkpoint is open.
    Opened,
    /// A key was pressed.
    Key(Key),
    /// A text was pasted.
    Paste(String),
    /// A mouse button was pressed.
    Click(MouseTarget),
    /// The mouse moved with its button held.
    Drag(MouseTarget),
    /// The wheel turned by a number of rows, down if positive.
    Wheel(isize),
    /// The visible size of everything that scrolls has changed.
    Resized(Viewport),
    /// Time passed. Reports how far the jobs are.
    Tick {
        now: Duration,
        calibration: Option<Meter>,
        save: Option<Meter>,
        diff: Option<Meter>,
        outputs: Option<Meter>,
    },
    /// A tensor was analyzed, or could not be.
    Analyzed { generation: u64, tensor: TensorId, found: Result<Analysis, ReadError> },
    /// All tensors were measured.
    CalibrationEnded { generation: u64, meter: Meter },
    /// The measurement ended early.
    CalibrationFailed { generation: u64, why: String },
    /// A preview of the save in the dialog, or why it would fail.
    SavePreviewed(Result<SavePreview, Refusal>),
    /// Whether this checkpoint can be saved in each format.
    FormatsReviewed(Vec<FormatFit>),
    /// The rules of a target for this checkpoint, or why they could not be read.
    RulesRead(Target, Result<TargetRules, String>),
    /// A save made progress or ended.
    Save(save::SaveEvent),
    /// Whether a model that was saved will load, or why that is not known.
    SavedChecked(PathBuf, Result<LoadCheck, String>),
    /// The thread of the save panicked or could not be started.
    SaveFailed(String),
    /// The text of `config.json`.
    Config(Option<Result<String, String>>),
    /// Elements of a tensor, or why they could not be read.
    Values(element_window::Request, Result<element_window::Window, String>),
    /// The histogram of a tensor.
    HistogramBuilt(TensorId, Result<ValueHistogram, String>),
    /// The error of the selected clip, from all elements; `None` if the tensor has no scale.
    ClipMeasured(clip::Request, Result<Option<clip::ClipMeasurement>, String>),
    /// Tensors with the same bytes as another, each with the first such tensor.
    Duplicates(Vec<(TensorId, TensorId)>),
    /// The outcomes of several schemes for a tensor.
    SchemesCompared(TensorId, Result<Vec<Outcome>, String>),
    /// The channels of a tensor, or why they could not be read.
    Channels(channels::Request, Result<Vec<channels::Channel>, String>),
    /// The error of a mark's own quantizer was measured with scales stored so, or could not be.
    MarkMeasured {
        tensor: TensorId,
        scale_storage: ScaleStorage,
        found: Result<Analysis, ReadError>,
    },
    /// The models that can be opened: recently opened ones, and those that were found.
    ModelsFound(Vec<ModelChoice>),
    /// Why another model did not open.
    OpenFailed(PathBuf, String),
    /// A path was completed; the first text is what was typed.
    PathCompleted(String, Completion),
    /// A directory was created, or why it was not.
    DirectoryCreated(PathBuf, Result<(), String>),
    /// A recipe was written, or why not.
    RecipeWritten(Result<(), NotWritten>),
    /// A recipe was read, or why not.
    RecipeRead(Result<Plan, String>),
    /// A report was written, or why not.
    ReportWritten(Result<(), NotWritten>),
    /// The output errors of layers, one after the other.
    Outputs(outputs::OutputsEvent),
    /// The comparison with another checkpoint, or why it failed.
    Compared(Result<Vec<Compared>, String>),
}

/// Why a file was not written.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant describes its fields")]
pub enum NotWritten {
    /// The file exists, and the user has not agreed to replace it.
    Exists,
    /// The directory that the file is to be created in does not exist.
    NoDirectory { parent: PathBuf, why: String },
    /// Another reason, as a sentence.
    Failed(String),
}

/// A path that was completed.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The text as far as all candidates agree.
    pub text: String,
    /// The names that begin as typed.
    pub candidates: Vec<String>,
}

/// Something for the runner to do, the only place that acts on the world.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant describes its fields")]
pub enum Effect {
    /// Measure every tensor. Replaces a calibration that is running.
    Calibrate { generation: u64, schemes: Vec<QuantizationScheme>, shared_absmax: SharedAbsmax },
    /// End the calibration early.
    StopCalibration,
    /// Measure these tensors before the others.
    Prioritize(Vec<TensorId>),
    /// Report what a save would write, without writing.
    PreviewSave(Request),
    /// Report which formats this checkpoint can be saved in.
    ReviewFormats,
    /// Read what a target means for this checkpoint.
    ReadRules(Target),
    /// Save the model.
    Save(Request),
    /// End the save that is running.
    CancelSave,
    /// Check whether a model that was saved will load in these loaders.
    CheckSaved(PathBuf, Vec<Loader>),
    /// Read the text of `config.json`.
    ReadConfig,
    /// Read these elements. Replaces a read that is running.
    ReadValues(element_window::Request),
    /// Build the histogram of a tensor. Replaces one that is being built.
    BuildHistogram(TensorId),
    /// Measure the error of a clip. Replaces a measurement that is running.
    MeasureClip(clip::Request),
    /// Compare the bytes of tensors with equal statistics.
    FindDuplicates(Candidates),
    /// Measure the schemes of a tensor. Replaces a comparison that is running.
    CompareSchemes(TensorId, AnalysisSpec),
    /// Measure every output channel. Replaces a measurement that is running.
    ReadChannels(channels::Request),
    /// Measure the error of each of these marks with scales stored so.
    MeasureMarks(Vec<(TensorId, Quantizer)>, ScaleStorage),
    /// Search for models to open.
    FindModels,
    /// Open another model in place of this one.
    OpenModel(PathBuf),
    /// Complete a path that is being typed.
    CompletePath(String),
    /// Create a directory.
    CreateDirectory(PathBuf),
    /// Write a recipe.
    WriteRecipe { path: PathBuf, text: String, replace: bool },
    /// Read a recipe.
    ReadRecipe(PathBuf),
    /// Write the current report: [`super::App::report`].
    WriteReport { path: PathBuf, format: Format, replace: bool },
    /// Compare with the checkpoint at a path.
    Diff(PathBuf),
    /// End the comparison that is running.
    CancelDiff,
    /// Open captured activations and measure output errors. Replaces a measurement that is
    /// running.
    MeasureOutputs(Vec<PathBuf>),
    /// End the measurement of output errors.
    StopOutputs,
    /// Copy a text to the clipboard.
    Copy(String),
    /// Capture the mouse, or release it to the terminal.
    Mouse(bool),
    /// Stop the program until the shell continues it.
    Suspend,
    /// Draw the whole screen again.
    Redraw,
    /// Leave the program.
    Quit,
}

/// Visible rows of the table, the values, the channels and the differences, and columns and rows
/// of the text in an overlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Viewport {
    /// Rows of the table.
    pub table: usize,
    /// Rows of the Values tab.
    pub values: usize,
    /// Rows of the Channels tab.
    pub channels: usize,
    /// Rows of the differences.
    pub diff: usize,
    /// Columns and rows of the text in an overlay.
    pub text: (usize, usize),
}

/// The target of a mouse event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MouseTarget {
    /// A visible line of the table.
    Row(usize),
    /// The mark on a visible line of the table.
    Mark(usize),
    /// The title of a column.
    Title(Column),
    /// The table's scroll bar, at a share of its length.
    Bar(f64),
    /// The title of a tab.
    Tab(Tab),
    /// An entry of the open list.
    Choice(usize),
    /// A key in the hint bar.
    Hint(Key),
    /// A visible line of the values.
    Value(usize),
    /// The budget's curve, at a share of the way from the smallest to the largest size.
    Curve(f64),
    /// The histogram, at a share of the largest magnitude.
    Clip(f64),
}
