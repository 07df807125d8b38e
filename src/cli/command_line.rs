//! The options and subcommands of the program, and how they are run.

use crate::cli::error::Error;
use crate::cli::misspelling;
use crate::cli::{
    analyze, calibrate, check, completions, dequantize, diff, help, inspect, join, man, options,
    output, quantize, report, show, verify,
};
use crate::quantization::Thresholds;
use clap::builder::PossibleValuesParser;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Inspect model checkpoints, measure the error of quantization, save quantized models.
///
/// Without a subcommand the inspector opens on MODEL, or on a built-in demo.
#[derive(Debug, Parser)]
#[command(
    name = "quantscope",
    bin_name = "quantscope",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
#[command(after_help = "Examples:\n  \
    quantscope                       open the inspector on the demo\n  \
    quantscope my-model              open it on a model\n  \
    quantscope analyze my-model      print the error of every tensor\n\n\
    Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n\
    `quantscope help` lists the pages of the manual, `quantscope help TOPIC` shows one.")]
pub struct Cli {
    /// A checkpoint file, an index, a directory, or an address such as hf://org/name; `demo:` is
    /// the built-in demo.
    pub model: Option<PathBuf>,
    /// Worker threads; default: all cores.
    #[arg(long, value_name = "N", value_parser = options::thread_count())]
    pub threads: Option<u16>,
    /// Whether the cache is used.
    #[command(flatten)]
    pub cache: options::CacheArgs,
    /// Read settings from FILE; default: $XDG_CONFIG_HOME/quantscope/config.toml.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Options of the inspector.
    #[command(flatten, next_help_heading = "Inspector")]
    pub screen: ScreenArgs,
    /// The subcommand; none opens the inspector.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of the inspector.
#[derive(Debug, Args)]
pub struct ScreenArgs {
    /// Recorded layer inputs from assets/record_activations.py; `demo:` is the recording for the
    /// demo, which opens it without this option.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub activations: Vec<PathBuf>,
    /// Do not restore or store marks and the cursor.
    #[arg(long)]
    pub no_session: bool,
    /// Draw with ASCII characters only.
    #[arg(long)]
    pub ascii: bool,
    /// Leave the mouse to the terminal.
    #[arg(long)]
    pub no_mouse: bool,
    /// Redraw only once per second while a job runs.
    #[arg(long)]
    pub no_animation: bool,
    /// Write a debug log to FILE.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// Texts about the screen that the command line prints, because this folder does not import it.
#[derive(Clone, Debug)]
pub struct AboutScreen {
    /// The documented settings.
    pub settings: String,
    /// Headings, each with its keys and what they do.
    pub keys: Vec<(String, Vec<(String, String)>)>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List every tensor, reading headers only.
    Inspect(inspect::Inspect),
    /// Print the range and the scale of every tensor.
    Calibrate(calibrate::Calibrate),
    /// Measure the quantization error of every tensor, worst first.
    Analyze(analyze::Analyze),
    /// Show the output channels or the elements of one tensor, with their int8 values.
    Show(show::Show),
    /// Save the checkpoint with selected tensors quantized and all others unchanged.
    Quantize(quantize::Quantize),
    /// Save a quantized checkpoint as floats.
    Dequantize(dequantize::Dequantize),
    /// Put an output together from the shares that several workers wrote.
    Join(join::Join),
    /// Compare every byte of a saved checkpoint with its source.
    Verify(verify::Verify),
    /// Say whether a quantized model will load, and what is wrong if not.
    Check(check::Check),
    /// Compare two checkpoints tensor by tensor, largest difference first.
    Diff(diff::Diff),
    /// Write the results of `analyze` to an HTML page, a CSV file or a JSON file.
    Report(report::ReportArgs),
    /// Show a page of the manual or the help of a subcommand, or search both.
    Help(help::Help),
    /// Print the completion script of a shell.
    Completions(completions::Completions),
    /// Print the settings of the screen with their defaults, as a file to start from.
    Config,
    /// Print the manual page.
    Man,
}

/// Parses the arguments of an analysis that workers shared.
fn analysis(arguments: &[String]) -> Option<report::ReportArgs> {
    let program = std::iter::once("quantscope");
    let all = program.chain(arguments.iter().map(String::as_str));
    match Cli::try_parse_from(all).ok()?.command? {
        Command::Report(report) => Some(report),
        Command::Analyze(analyze) => analyze.into_report(),
        _ => None,
    }
}

/// Parses the arguments of the program. Exits with a message if they are wrong.
pub fn parse() -> Cli {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let mut command = command();
    if let Some(message) = misspelling::subcommand(&command, &arguments) {
        command.error(clap::error::ErrorKind::InvalidSubcommand, message).exit();
    }
    let matches = command.get_matches_mut();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The command line with the names of all pages that `help` shows.
fn command() -> clap::Command {
    let command = Cli::command();
    let names = PossibleValuesParser::new(help::page_names(&command));
    command.mut_subcommand("help", |help| help.mut_arg("topic", |topic| topic.value_parser(names)))
}

/// Runs a subcommand, prints its error, and returns the exit code. `thresholds` loads the
/// thresholds of the ratings; its error says why the settings cannot be read.
pub fn run(
    command: Command,
    screen: impl FnOnce() -> AboutScreen,
    thresholds: impl FnOnce() -> Result<Thresholds, String>,
) -> ExitCode {
    match dispatch(command, screen, || thresholds().map_err(Error::Settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.exit(),
    }
}

fn dispatch(
    subcommand: Command,
    screen: impl FnOnce() -> AboutScreen,
    thresholds: impl FnOnce() -> Result<Thresholds, Error>,
) -> Result<(), Error> {
    match subcommand {
        Command::Inspect(inspect) => inspect.run(),
        Command::Calibrate(calibrate) => calibrate.run(),
        Command::Analyze(analyze) => analyze.run(&thresholds()?),
        Command::Show(show) => show.run(&thresholds()?),
        Command::Quantize(quantize) => quantize.run(&thresholds()?),
        Command::Dequantize(dequantize) => dequantize.run(&thresholds()?),
        Command::Join(join) => join.run(&thresholds()?, analysis),
        Command::Verify(verify) => verify.run(&thresholds()?),
        Command::Check(check) => check.run(),
        Command::Diff(diff) => diff.run(&thresholds()?),
        Command::Report(report) => report.run(&thresholds()?),
        Command::Help(help) => help.run(command(), &screen().keys),
        Command::Completions(completions) => completions.run(command()),
        Command::Config => output::print(&screen().settings),
        Command::Man => man::run(command(), &screen().keys),
    }
}
