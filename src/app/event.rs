//! What comes in and what goes out: the state machine's two ends, as plain data.

use super::keys::Key;
use super::table::Column;
use super::{LaidOut, Tab, facts::SCHEMES};
use crate::checkpoint::CheckpointError;
use crate::export::Request;
use crate::job::save;
use crate::quantization::{Analysis, QuantizationScheme};
use crate::tensor::TensorId;
use std::time::Duration;

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// The first event: there is a checkpoint to look at.
    Opened,
    Key(Key),
    Paste(String),
    Click(Target),
    /// The wheel turned by so many rows, down if positive.
    Wheel(isize),
    /// The size of the windows that are scrolled through.
    Resized(Viewport),
    /// Time passed: how far the jobs are.
    Tick {
        now: Duration,
        calibration: Option<Meter>,
        save: Option<Meter>,
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
    /// To the clipboard.
    Copy(String),
    Suspend,
    Redraw,
    Quit,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Meter {
    pub done: u64,
    pub total: u64,
    pub elapsed: Duration,
}

impl Meter {
    /// 0 … 1.
    pub fn share(&self) -> f64 {
        match self.total {
            0 => 0.0,
            total => (self.done as f64 / total as f64).min(1.0),
        }
    }

    /// The time it will still take at the rate so far.
    pub fn left(&self) -> Option<Duration> {
        let seconds = self.elapsed.as_secs_f64();
        let rest = self.total.saturating_sub(self.done) as f64;
        let left = seconds * rest / self.done as f64;
        Duration::try_from_secs_f64(left).ok()
    }
}

/// Rows of the table, and columns and rows of the text in an overlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Viewport {
    pub table: usize,
    pub text: (usize, usize),
}

/// What is under the mouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A line of the table, counted from its top.
    Row(usize),
    /// The mark on that line.
    Mark(usize),
    Title(Column),
    Tab(Tab),
}

/// What is measured first, so that there is a ranking soon, and what then.
pub const ROUNDS: [&[QuantizationScheme]; 2] = [SCHEMES.split_at(2).0, SCHEMES.split_at(2).1];
