//! `completions`: prints the completion script of a shell.

use super::Cli;
use super::error::Error;
use super::output::output;
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};
use std::io::Write;

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> Result<(), Error> {
        // `generate` panics on write errors, which cannot happen in memory.
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "quantscope", &mut script);
        let mut out = output();
        out.write_all(&script)?;
        Ok(out.flush()?)
    }
}
