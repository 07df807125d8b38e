//! Updates the state with one event at a time, and returns the effects to carry out.
//!
//! [`update`] is the entry point. Each file has the methods of [`App`](crate::app::App) for one
//! topic. The files call each other's methods but do not import each other.

mod budget;
mod calibrate;
mod detail_tabs;
mod dialogs;
mod diff;
mod event;
mod find;
mod keys;
mod leave;
mod marks;
mod messages;
mod mouse;
mod movement;
mod open;
mod outputs;
mod paths;
mod recipe;
mod report;
mod save;
mod schemes;
mod target;
mod values;

pub use event::update;
