//! `--partition`: one worker's share of an output.

use super::error::Error;
use super::job_runner::JobRunner;
use super::options::WorkArgs;
use super::output::output;
use crate::checkpoint::Checkpoint;
use crate::demo;
use crate::export::partition::fragment::{FragmentRequest, FragmentTensor, Outcome};
use crate::export::{OutputFormat, Partition, Request, Task};
use crate::job::partition::{self, Made, PartitionEvent};
use crate::job::{Job, JobError, Stopped};
use crate::plan::recipe;
use crate::quantization::Thresholds;
use crate::text::{figures, names, shell};
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, Args)]
pub(super) struct PartitionArgs {
    /// Do only worker I's share of the work, of N workers that share a file system. The share
    /// goes to OUT.partial; `quantscope join OUT` puts all shares together. `env` takes I and N
    /// from Slurm's job array, `env/N` I from Slurm or Kubernetes
    #[arg(long, value_name = "I/N")]
    pub partition: Option<Partition>,
}

/// Makes a worker's share of an output and prints what it is.
pub(super) fn make(
    checkpoint: &Arc<Checkpoint>,
    request: Request,
    partition: Partition,
    training_state: bool,
    json: bool,
    work: &WorkArgs,
    thresholds: &Thresholds,
) -> Result<(), Error> {
    let described = described(checkpoint, &request, training_state);
    let out = request.out.clone();
    let job =
        || partition::start(checkpoint.clone(), request, described, partition, work.threads());
    let made = finish(job, work)?;
    print(&made, &out, json, thresholds)
}

/// Runs a job of [`partition`] to its end.
pub(super) fn finish<T: Send + 'static>(
    job: impl FnOnce() -> io::Result<Job<PartitionEvent<T>>>,
    work: &WorkArgs,
) -> Result<T, Error> {
    let mut runner = JobRunner::start(job, "preparing", work.quiet)?;
    let mut finished = None;
    loop {
        match runner.next() {
            Ok(Some(PartitionEvent::Phase(doing))) => runner.set_phase(doing),
            Ok(Some(PartitionEvent::Finished(outcome))) => finished = Some(outcome),
            Ok(None) => break,
            // The job was complete before the signal arrived.
            Err(interrupted) => match finished {
                Some(outcome) if outcome.is_ok() => return Ok((*outcome)?),
                _ => {
                    return Err(match interrupted {
                        Error::Interrupted { signal } => {
                            Error::SaveInterrupted { signal, unfinished: None }
                        }
                        other => other,
                    });
                }
            },
        }
    }
    match finished {
        Some(outcome) => Ok((*outcome)?),
        None => Err(JobError::SaveStopped(Stopped::Cancelled).into()),
    }
}

fn described(checkpoint: &Checkpoint, request: &Request, training_state: bool) -> FragmentRequest {
    let (recipe, layout, to) = match &request.task {
        Task::Quantize { plan, format } => {
            let layout = match format {
                OutputFormat::Burn(layout) => Some(layout.name().to_owned()),
                _ => None,
            };
            (Some(recipe::to_toml(plan, checkpoint)), layout, None)
        }
        Task::Dequantize { to } => (None, None, to.map(|to| to.dtype().name().to_owned())),
    };
    FragmentRequest {
        model: model(checkpoint.path()),
        recipe,
        layout,
        to,
        training_state,
        copy: request.copy.clone(),
        command: command(std::env::args().skip(1)),
    }
}

/// The path of a model for a command that may run in another directory.
fn model(path: &Path) -> String {
    let is_file = path.as_os_str() != demo::WORD && path.exists();
    let absolute = is_file.then(|| std::path::absolute(path).ok()).flatten();
    absolute.as_deref().unwrap_or(path).to_string_lossy().into_owned()
}

/// The command line without `--partition`, quoted for a shell.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--partition" => _ = arguments.next(),
            _ if argument.starts_with("--partition=") => {}
            _ => words.push(shell::quoted(&argument)),
        }
    }
    words.join(" ")
}

#[derive(Serialize)]
struct Document<'a> {
    partition: &'a str,
    fragment: std::borrow::Cow<'a, str>,
    /// Whether an earlier run had made it.
    was_there: bool,
    bytes: u64,
    quantized: usize,
    dequantized: usize,
    unchanged: usize,
}

fn print(made: &Made, out: &Path, json: bool, thresholds: &Thresholds) -> Result<(), Error> {
    let fragment = &made.fragment;
    let count = |outcome| fragment.tensors.iter().filter(|t| t.outcome == outcome).count();
    let document = Document {
        partition: &fragment.partition,
        fragment: made.path.to_string_lossy(),
        was_there: made.was_there,
        bytes: fragment.files.iter().flat_map(|f| &f.pieces).map(|piece| piece.bytes).sum(),
        quantized: count(Outcome::Quantized),
        dequantized: count(Outcome::Dequantized),
        unchanged: count(Outcome::Unchanged),
    };
    let mut to = output();
    if json {
        crate::text::json::write(&mut to, &document)?;
        writeln!(to)?;
        return Ok(to.flush()?);
    }
    let Document { quantized, dequantized, unchanged, bytes, .. } = document;
    let (path, partition) = (names::visible(&document.fragment), &fragment.partition);
    match made.was_there {
        true => writeln!(to, "partition {partition} is in {path} already")?,
        false => writeln!(to, "wrote partition {partition} to {path}")?,
    }
    writeln!(
        to,
        "{quantized} tensors quantized, {dequantized} dequantized, {unchanged} bit for bit as they were, {}",
        figures::bytes(bytes)
    )?;
    if let Some((db, name)) = worst(&fragment.tensors) {
        let (db, name) = (figures::rated(db, thresholds), names::visible(name));
        writeln!(to, "reopened and measured from the file: worst {db}, {name}")?;
    }
    let out = shell::quoted(&out.to_string_lossy());
    writeln!(to, "when all partitions are there: quantscope join {}", names::visible(&out))?;
    Ok(to.flush()?)
}

/// The quantized tensor with the largest error.
fn worst(tensors: &[FragmentTensor]) -> Option<(f64, &str)> {
    let measured = tensors.iter().filter_map(|tensor| {
        Some((tensor.error_sums()?.statistics().sqnr_db, tensor.name.as_str()))
    });
    measured.min_by(|(a, _), (b, _)| a.total_cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_of_a_fragment_leaves_the_partition_out() {
        let words = ["quantize", "my model", "--partition", "1/2", "-o", "out"];
        let command_of = |words: &[&str]| command(words.iter().map(|&word| word.to_owned()));
        assert_eq!(command_of(&words), "quantize 'my model' -o out");
        assert_eq!(command_of(&["quantize", "--partition=env", "m"]), "quantize m");
    }
}
