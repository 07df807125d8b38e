//! The formats that a model can be saved in, with their schemes.

use crate::checkpoint::Checkpoint;
use crate::export::OutputFormat;
use crate::plan::target::Container;

/// A format with its scheme, and whether the checkpoint can be saved in it.
#[derive(Clone, Debug, PartialEq)]
pub struct FormatFit {
    /// The container.
    pub container: Container,
    /// The format, or why this checkpoint cannot be saved in it, regardless of the marks.
    pub format: Result<OutputFormat, String>,
}

/// Reviews every format for a checkpoint. Reads its `config.json`, so this is for the runner.
pub(crate) fn review(checkpoint: &Checkpoint) -> Vec<FormatFit> {
    let fit = |container: Container| {
        let format = OutputFormat::of(container);
        let format = match (format.is_directory(), checkpoint.model_config()) {
            (true, Err(error)) => Err(error.to_string()),
            _ => format.unfit(checkpoint).map_or(Ok(format), Err),
        };
        FormatFit { container, format }
    };
    Container::ALL.into_iter().map(fit).collect()
}
