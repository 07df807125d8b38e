//! Draws `&App` into a buffer of cells. Nothing here changes the state. Apart from `tui`, only
//! this folder knows ratatui; only `tui` imports it.

mod ascii;
mod budget;
mod channels;
mod columns;
mod detail;
mod dialog_lines;
mod dialogs;
mod diff;
mod header;
mod help;
mod hints;
mod histogram;
pub mod layout;
pub(crate) mod mouse;
pub(crate) mod picker;
mod plan;
mod save_dialog;
mod schemes;
mod screen;
pub(crate) mod shares;
mod tensors;
mod text;
mod theme;
mod too_small;
mod values;
mod widgets;

pub use screen::{draw, render};
pub use theme::{Colours, Theme};
