//! The command line, for scripts, pipes and screen readers.
//!
//! One file per subcommand; `command_line` has the parser. Results go to standard output, as
//! aligned tables or as one JSON document; progress and errors go to standard error. Only `main`
//! imports this folder, and it does not know `app`, `ui` or `tui`.

mod activations;
mod analyze;
mod calibrate;
mod completions;
mod dequantize;
mod diff;
mod dry_run;
mod duplicates;
mod error;
mod help;
mod inspect;
mod interrupt;
mod job_runner;
mod listing;
mod man;
mod measured;
mod options;
mod output;
mod progress;
mod quantize;
mod receipt;
mod report;
mod save;
mod scan;
mod schemes;
mod show;
mod table;
mod target;
mod verify;

use crate::quantization::Thresholds;
use clap::{Args, Parser, Subcommand};
use error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

pub use error::fail;

/// Judge what int8 would cost every tensor of a model checkpoint, and save what you choose.
///
/// Without a subcommand the inspector opens on MODEL, or on a small demo model that is part
/// of the program.
#[derive(Debug, Parser)]
#[command(
    name = "quantscope",
    bin_name = "quantscope",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
#[command(after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n\
    `quantscope help` lists the pages of the manual, `quantscope help TOPIC` shows one.")]
pub struct Cli {
    /// A model file, a *.index.json, a directory with one of them, or an address such as
    /// hf://org/name; `demo:` is the built-in demo.
    pub model: Option<PathBuf>,
    /// Worker threads; all cores if not given.
    #[arg(long, value_name = "N", value_parser = options::thread_count())]
    pub threads: Option<u16>,
    #[command(flatten)]
    pub cache: options::CacheArgs,
    /// Settings; $XDG_CONFIG_HOME/quantscope/config.toml if not given.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub screen: ScreenArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the inspector is told on its way.
#[derive(Debug, Args)]
pub struct ScreenArgs {
    /// What reaches the layers, as assets/record_activations.py records it; `demo:` is what is
    /// built in for the demo, which opens it by itself.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub activations: Vec<PathBuf>,
    /// Neither restore marks and place nor keep them.
    #[arg(long)]
    pub no_session: bool,
    /// Draw with ASCII signs only.
    #[arg(long)]
    pub ascii: bool,
    /// Leave the mouse to the terminal.
    #[arg(long)]
    pub no_mouse: bool,
    /// Draw once a second while something runs.
    #[arg(long)]
    pub no_animation: bool,
    /// Write what happens to a file, for a report of a defect.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// What the command line says of the screen, which it does not know itself.
#[derive(Clone, Debug)]
pub struct AboutScreen {
    /// The documented settings.
    pub settings: String,
    /// Headings, and under each the keys and what they do.
    pub keys: Vec<(String, Vec<(String, String)>)>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List every tensor, from the headers alone.
    Inspect(inspect::Inspect),
    /// Show the range and the scale of every tensor, nothing more.
    Calibrate(calibrate::Calibrate),
    /// Measure what quantizing would cost every tensor, the worst first.
    Analyze(analyze::Analyze),
    /// Show one tensor's output channels, or its elements, and what int8 makes of them.
    Show(show::Show),
    /// Write the checkpoint with the selected tensors quantized, the rest bit for bit.
    Quantize(quantize::Quantize),
    /// Write the float checkpoint back from a quantized one.
    Dequantize(dequantize::Dequantize),
    /// Check every byte of a saved checkpoint against the one it was made from.
    Verify(verify::Verify),
    /// Compare two checkpoints tensor by tensor, the greatest difference first.
    Diff(diff::Diff),
    /// Write what `analyze` finds to a file: a page with the plots, CSV or JSON.
    Report(report::ReportArgs),
    /// Show a page of the manual or the help of a subcommand, or search both.
    Help(help::Help),
    /// Print the completions of a shell.
    Completions(completions::Completions),
    /// Print the settings of the screen with their defaults, as a file to begin with.
    Config,
    /// Print the manual page.
    Man,
}

/// Runs a subcommand to its end, and says how it ended. `words`: what the words for SQNRs
/// mean, or why that is not known.
pub fn run(
    command: Command,
    screen: impl FnOnce() -> AboutScreen,
    words: impl FnOnce() -> Result<Thresholds, String>,
) -> ExitCode {
    match dispatch(command, screen, || words().map_err(Error::Settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.exit(),
    }
}

fn dispatch(
    command: Command,
    screen: impl FnOnce() -> AboutScreen,
    words: impl FnOnce() -> Result<Thresholds, Error>,
) -> Result<(), Error> {
    match command {
        Command::Inspect(inspect) => inspect.run(),
        Command::Calibrate(calibrate) => calibrate.run(),
        Command::Analyze(analyze) => analyze.run(&words()?),
        Command::Show(show) => show.run(&words()?),
        Command::Quantize(quantize) => quantize.run(&words()?),
        Command::Dequantize(dequantize) => dequantize.run(&words()?),
        Command::Verify(verify) => verify.run(&words()?),
        Command::Diff(diff) => diff.run(&words()?),
        Command::Report(report) => report.run(&words()?),
        Command::Help(help) => help.run(&screen().keys),
        Command::Completions(completions) => completions.run(),
        Command::Config => output::print(&screen().settings),
        Command::Man => man::run(&screen().keys),
    }
}
