//! The debug log: one line for each event and each effect.

use color_eyre::eyre::Context;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Writes to the log file, if there is one.
#[derive(Debug, Default)]
pub(super) struct Log {
    file: Option<File>,
}

impl Log {
    /// Longer lines are cut: the findings of a scan would hide everything else.
    const MAX_LINE_CHARS: usize = 200;

    /// Creates the file at `path`; without a path nothing is logged.
    pub(super) fn create(path: Option<&Path>) -> color_eyre::Result<Log> {
        let create = |path: &Path| {
            File::create(path)
                .wrap_err_with(|| format!("{}: the log cannot be written", path.display()))
        };
        Ok(Log { file: path.map(create).transpose()? })
    }

    /// Writes one line. A failed write is ignored: a full disk must not end the program.
    pub(super) fn write(&mut self, time: Duration, kind: &str, value: &impl std::fmt::Debug) {
        let Some(file) = &mut self.file else { return };
        let text: String = format!("{value:?}").chars().take(Self::MAX_LINE_CHARS).collect();
        let seconds = time.as_secs_f64();
        let _ = writeln!(file, "{seconds:10.3} {kind} {}", text.replace('\n', " "));
    }
}
