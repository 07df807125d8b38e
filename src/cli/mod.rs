//! The command line, for scripts, pipes and screen readers.
//!
//! One file per subcommand; `command_line` has the parser. Results go to standard output, as
//! aligned tables or as one JSON document; progress and errors go to standard error. Only `main`
//! imports this folder, and it does not know `app`, `ui` or `tui`.

mod activations;
mod analyze;
mod budget_choices;
mod calibrate;
mod check;
mod command_line;
mod completions;
mod dequantize;
mod diff;
mod dry_run;
mod duplicates;
mod error;
mod experts;
mod fail_on;
mod help;
mod inspect;
mod interrupt;
mod job_runner;
mod join;
mod listing;
mod man;
mod measured;
mod misspelling;
mod options;
mod output;
mod overview;
mod partition;
mod progress;
mod quantize;
mod receipt;
mod report;
mod report_rows;
mod sample;
mod save;
mod scan;
mod schemes;
mod show;
mod table;
mod target;
mod verify;

pub use command_line::{AboutScreen, Cli, Command, ScreenArgs, parse, run};
pub use error::fail;
