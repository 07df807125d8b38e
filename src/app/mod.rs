//! The inspector's state and everything that can happen to it: events in, effects out.
//!
//! Pure: no terminal, no file, no thread, no clock. [`update`] is the only way the state changes;
//! `ui` draws it and `tui` carries the effects out. Only those two and `main` import this folder.

mod action;
pub(crate) mod budget;
mod calibration;
pub(crate) mod channels;
mod command_line;
pub mod comparison;
pub(crate) mod diff;
mod effects;
mod event;
mod experts;
pub(crate) mod filter;
mod filter_input;
pub mod formats;
pub(crate) mod histogram;
mod job_answer;
pub(crate) mod keymap;
pub mod keys;
mod meter;
mod model;
mod name_shapes;
pub mod open_model;
pub mod outputs;
pub mod overlay;
pub(crate) mod pager;
pub mod picker;
pub(crate) mod prompt;
mod report;
mod save;
pub mod scheme_list;
pub mod scroll;
mod session;
pub mod settings;
pub mod shares;
pub(crate) mod sparkline;
mod state;
mod tab;
pub mod table;
pub mod target_list;
pub mod tensor_metrics;
pub(crate) mod texts;
pub mod tree;
mod update;
pub(crate) mod values;

pub use action::Action;
pub use calibration::CalibrationState;
pub use event::{Completion, Effect, Event, MouseTarget, NotWritten, Viewport};
pub use experts::ExpertView;
pub use filter_input::FilterInput;
pub use meter::{Meter, RateTracker};
pub use model::{Model, Quality};
pub use save::{
    PlanFix, Refusal, SaveChoice, SaveDialog, SaveKind, SavePreview, Saving, model_name, ratio,
};
pub use session::Session;
pub use state::{App, Status};
pub use tab::Tab;
pub use update::update;

pub(crate) use crate::text::{figures, names};
