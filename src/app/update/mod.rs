//! One event at a time: what it changes, and what is to be done about it.
//!
//! [`update`] is the entry point. Each file holds the part of [`App`](crate::app::App)'s methods
//! that one idea needs; the files call each other's methods but import nothing from each other.

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
