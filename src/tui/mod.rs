//! The inspector on a terminal: the guard that restores it, and the event loop.
//!
//! Keys, signals and findings of jobs become events; `app::update` turns events into effects;
//! [`Runner`] carries the effects out. The runner knows the terminal and the threads only as
//! [`Screen`] and [`Executor`](crate::job::Executor), so that tests run the same runner on a
//! screen in memory. Nothing imports this folder but `main`.

mod appearance;
mod completion;
mod event_loop;
mod files;
mod guard;
mod input;
mod inspector;
mod jobs;
mod list_loop;
mod log;
mod measurements;
mod options;
mod picker;
mod query;
mod recent;
mod runner;
mod screen;
mod session;
mod shares;
mod signals;
mod wait;

pub use inspector::run;
pub use options::Options;
pub use picker::pick;
pub use runner::{Clock, Collected, Runner};
pub use screen::Screen;
pub use session::path_of as session_path;
pub use shares::watch_shares;
