//! What comes in and what goes out: the state machine's two ends, as plain data.

use crate::app::keys::Key;
use crate::app::meter::Meter;
use crate::app::outputs;
use crate::app::save::LaidOut;
use crate::app::tab::Tab;
use crate::app::table::Column;
use crate::checkpoint::CheckpointError;
use crate::export::Request;
use crate::job::diff::Compared;
use crate::job::duplicates::Candidates;
use crate::job::{channels, clip, element_window, save};
use crate::plan::Plan;
use crate::quantization::{Analysis, Outcome, QuantizationScheme, Quantizer, ValueHistogram};
use crate::report::Format;
use crate::tensor::TensorId;
use std::path::PathBuf;
use std::time::Duration;

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// The first event: there is a checkpoint to look at.
    Opened,
    Key(Key),
    Paste(String),
    Click(Target),
    /// The mouse was moved there with its button held.
    Drag(Target),
    /// The wheel turned by so many rows, down if positive.
    Wheel(isize),
    /// The size of the windows that are scrolled through.
    Resized(Viewport),
    /// Time passed: how far the jobs are.
    Tick {
        now: Duration,
        calibration: Option<Meter>,
        save: Option<Meter>,
        diff: Option<Meter>,
        outputs: Option<Meter>,
    },
    /// A worker measured a tensor, or could not.
    Found {
        generation: u64,
        tensor: TensorId,
        found: Result<Analysis, CheckpointError>,
    },
    CalibrationEnded {
        generation: u64,
        meter: Meter,
    },
    CalibrationFailed {
        generation: u64,
        why: String,
    },
    /// What the save in the dialog would write.
    LaidOut(Result<LaidOut, String>),
    Save(save::News),
    /// The save's thread panicked or was not to be had.
    SaveFailed(String),
    /// The text of `config.json`.
    Config(Option<Result<String, String>>),
    /// The values asked for, or why they cannot be read.
    Values(element_window::Request, Result<element_window::Window, String>),
    /// How often each value of a tensor occurs.
    Counted(TensorId, Result<ValueHistogram, String>),
    /// What the slider's clip makes of a tensor, from all of its elements; `None`: it has no scale.
    Clipped(clip::Request, Result<Option<clip::Measured>, String>),
    /// Tensors that hold the same bytes as another: the first such.
    Duplicates(Vec<(TensorId, TensorId)>),
    /// What each of several schemes makes of a tensor.
    SchemesCompared(TensorId, Result<Vec<Outcome>, String>),
    Channels(channels::Request, Result<Vec<channels::Channel>, String>),
    /// What a mark's own calibration costs was measured, or could not be.
    Measured {
        tensor: TensorId,
        found: Result<Analysis, CheckpointError>,
    },
    RecipeWritten(Result<(), NotWritten>),
    RecipeRead(Result<Plan, String>),
    ReportWritten(Result<(), NotWritten>),
    /// What the layers' outputs lose, one after the other.
    Outputs(outputs::News),
    /// The other checkpoint was compared with, or why it could not be.
    Compared(Result<Vec<Compared>, String>),
}

/// Why a file was not written.
#[derive(Clone, Debug, PartialEq)]
pub enum NotWritten {
    /// It is there already, and nobody said that it may be replaced.
    Exists,
    Failed(String),
}

/// Something to be done by the loop, the only place where things are done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Measure every tensor; replaces a calibration under way.
    Calibrate {
        generation: u64,
        schemes: &'static [QuantizationScheme],
    },
    StopCalibration,
    /// Measure these next.
    Hurry(Vec<TensorId>),
    /// Say what a save would write, without writing it.
    LayOut(Request),
    Save(Request),
    CancelSave,
    ReadConfig,
    /// Read these elements; replaces a reading under way.
    ReadValues(element_window::Request),
    /// Count how often each value of a tensor occurs; replaces a count under way.
    Count(TensorId),
    /// Measure what a clip makes of a tensor; replaces a measuring under way.
    MeasureClip(clip::Request),
    /// Compare tensors whose figures are the same.
    FindDuplicates(Candidates),
    /// Measure the schemes side by side; replaces a comparison under way.
    CompareSchemes(TensorId),
    /// Look at every output channel; replaces a look under way.
    ReadChannels(channels::Request),
    /// Measure what each of these costs.
    Measure(Vec<(TensorId, Quantizer)>),
    WriteRecipe {
        path: PathBuf,
        text: String,
        replace: bool,
    },
    ReadRecipe(PathBuf),
    /// Write what is known now; [`super::App::report`] gives it.
    WriteReport {
        path: PathBuf,
        format: Format,
        replace: bool,
    },
    /// Compare with the checkpoint at a path, in the background.
    Diff(PathBuf),
    CancelDiff,
    /// Open files of captures and measure the layers' outputs; replaces such a measuring
    /// under way.
    MeasureOutputs(Vec<PathBuf>),
    StopOutputs,
    /// To the clipboard.
    Copy(String),
    /// Take the mouse, or leave it to the terminal.
    Mouse(bool),
    Suspend,
    Redraw,
    Quit,
}

/// Rows of the table, of the values and of the differences, and columns and rows of the text
/// in an overlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Viewport {
    pub table: usize,
    pub values: usize,
    pub channels: usize,
    pub diff: usize,
    pub text: (usize, usize),
}

/// What is under the mouse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// A line of the table, counted from its top.
    Row(usize),
    /// The mark on that line.
    Mark(usize),
    Title(Column),
    /// The table's scroll bar: a share of the way down.
    Bar(f64),
    Tab(Tab),
    /// One of what a window or the budget lists.
    Choice(usize),
    /// What the bar of hints says of a key.
    Hint(Key),
    /// A line of the values.
    Value(usize),
    /// A place on the budget's curve: a share of the way from the smallest to the largest.
    Curve(f64),
    /// A value of the histogram, as a share of the largest magnitude.
    Clip(f64),
}
