//! `completions`: prints the completion script of a shell.

use super::error::Error;
use super::output::output;
use clap::Args;
use clap_complete::{Shell, generate};
use std::io::Write;

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints the script for `command`.
    pub(super) fn run(self, mut command: clap::Command) -> Result<(), Error> {
        // `generate` panics on write errors, which cannot happen in memory.
        let mut script = Vec::new();
        generate(self.shell, &mut command, "quantscope", &mut script);
        let mut out = output();
        out.write_all(&script)?;
        Ok(out.flush()?)
    }
}
