//! Parse, run, exit code; the work is in the library.

use clap::Parser;
use color_eyre::config::HookBuilder;
use color_eyre::eyre::bail;
use quantscope::cli::{self, Cli};
use quantscope::{demo, terminal};
use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    // The hooks are for panics: errors are sentences, printed by `cli`.
    if let Err(error) = HookBuilder::default().display_env_section(false).install() {
        return cli::fail(&error);
    }
    let Cli { model, command } = Cli::parse();
    match command {
        Some(command) => cli::run(command),
        None => match inspector(model.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => cli::fail(&error),
        },
    }
}

/// Opens the screen on a checkpoint, on the demo if none is named.
fn inspector(model: Option<&Path>) -> color_eyre::Result<()> {
    let model = model.unwrap_or(Path::new(demo::WORD));
    let checkpoint = demo::open_model(model)?;
    if !stdout().is_terminal() {
        bail!("the inspector needs a terminal; for plain text use: quantscope analyze MODEL");
    }
    terminal::run(Arc::new(checkpoint), terminal::Options::default())
}
