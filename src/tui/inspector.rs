//! Runs the inspector on a terminal: enters it, runs the event loop, and restores it.

use crate::checkpoint::Checkpoint;
use crate::job::ThreadExecutor;
use crate::tui::appearance::{require_terminal, theme};
use crate::tui::guard::{TerminalGuard, restore_terminal_on_panic};
use crate::tui::log::Log;
use crate::tui::options::Options;
use crate::tui::runner::Runner;
use crate::tui::signals::Signals;
use crate::tui::{event_loop, session};
use color_eyre::eyre::Context;
use std::io::{Write, stderr, stdout};
use std::sync::Arc;
use std::time::Instant;

/// Opens the inspector on a checkpoint and returns when the user quits. Prints the receipts of all
/// saves.
///
/// # Errors
///
/// Fails if there is no terminal, if the log cannot be written, or if the terminal fails.
pub fn run(checkpoint: Arc<Checkpoint>, options: Options) -> color_eyre::Result<()> {
    require_terminal()?;
    let theme = theme(&options.settings);
    let log = Log::create(options.log.as_deref())?;
    let signals = Signals::register().wrap_err("signals cannot be watched")?;
    restore_terminal_on_panic();
    let screen = TerminalGuard::enter(options.settings.mouse)
        .wrap_err("the terminal cannot be prepared for drawing")?;
    let started = Instant::now();
    let clock = Box::new(move || started.elapsed());
    let mut runner = Runner::new(checkpoint, options, theme, screen, ThreadExecutor, clock);
    runner.log = log;
    let ended = event_loop::run(&mut runner, &signals);
    let Runner { app, screen, jobs, options, .. } = runner;
    drop(screen);
    jobs.finish();
    if let Some(path) = &options.session
        && let Err(error) = session::keep(&app, path)
    {
        let path = path.display();
        let _ = writeln!(stderr(), "{path}: the session could not be written: {error}");
    }
    for receipt in app.receipts() {
        // The terminal may be gone by now.
        let _ = writeln!(stdout(), "{receipt}");
    }
    if let Some(signal) = signals.end() {
        // The parent process sees that this one ended by the signal.
        signal_hook::low_level::emulate_default_handler(signal)?;
    }
    ended
}
