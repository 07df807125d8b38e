//! Parse, run, exit code; the work is in the library.

use clap::Parser;
use color_eyre::config::HookBuilder;
use quantscope::cli::{self, Cli};
use quantscope::job::cache::Cache;
use quantscope::{demo, terminal};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    // The hooks are for panics: errors are sentences, printed by `cli`.
    if let Err(error) = HookBuilder::default().display_env_section(false).install() {
        return cli::fail(&error);
    }
    let Cli { model, threads, cache, command } = Cli::parse();
    match command {
        Some(command) => cli::run(command),
        None => match inspector(model.as_deref(), threads.map(usize::from), cache.cache()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => cli::fail(&format!("{error:#}")),
        },
    }
}

/// Opens the screen on a checkpoint, on the demo if none is named.
fn inspector(
    model: Option<&Path>,
    threads: Option<usize>,
    cache: Option<Cache>,
) -> color_eyre::Result<()> {
    let checkpoint = demo::open_model(model.unwrap_or(Path::new(demo::WORD)))?;
    terminal::run(Arc::new(checkpoint), terminal::Options { threads, cache })
}
