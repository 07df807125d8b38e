//! `--partition`: writes one worker's share of an output.

use super::error::Error;
use super::options::WorkArgs;
use super::output::output;
use super::save::finish;
use super::scan::Scan;
use crate::checkpoint::Checkpoint;
use crate::demo;
use crate::export::partition::fragment::{
    Fragment, FragmentContent, FragmentOrigin, FragmentRequest, FragmentTensor, Identity, Outcome,
    PartialDirectory,
};
use crate::export::partition::identity::{analysis_identity, source_identity};
use crate::export::partition::shares::assign;
use crate::export::{OutputFormat, Partition, Request, Task};
use crate::job::cache::Cache;
use crate::job::partition::{self, Made};
use crate::plan::recipe;
use crate::quantization::{AnalysisSpec, Thresholds};
use crate::tensor::TensorId;
use crate::text::{figures, names, shell};
use clap::Args;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, Args)]
pub(super) struct PartitionArgs {
    /// Do only worker I's share of the work, of N workers that share a file system or bucket. The
    /// share goes to OUT.partial; `quantscope join OUT` puts all shares together. `env` takes I and
    /// N from Slurm's job array, `env/N` I from Slurm or Kubernetes
    #[arg(long, value_name = "I/N")]
    pub partition: Option<Partition>,
}

/// A worker's share of an output, written and verified.
pub(super) struct WrittenShare {
    made: Made,
    /// The output that the share is for.
    out: PathBuf,
}

impl WrittenShare {
    /// Writes the share of one worker. `training_state` says whether the output keeps the training
    /// state; `activations` are the files of recorded inputs.
    pub(super) fn write(
        checkpoint: &Arc<Checkpoint>,
        request: Request,
        partition: Partition,
        training_state: bool,
        activations: &[PathBuf],
        work: &WorkArgs,
    ) -> Result<Self, Error> {
        let described = FragmentRequest {
            activations: activations.iter().map(|path| absolute(path)).collect(),
            ..described(checkpoint, &request, training_state)
        };
        let (described, out) = ((described, command()), request.out.clone());
        let job =
            || partition::start(checkpoint.clone(), request, described, partition, work.threads());
        Ok(WrittenShare { made: finish(job, work)?, out })
    }

    /// Prints a summary.
    pub(super) fn print(&self, json: bool, thresholds: &Thresholds) -> Result<(), Error> {
        let made = &self.made;
        let Fragment { origin, content } = &made.fragment;
        let count = |outcome| content.tensors.iter().filter(|t| t.outcome == outcome).count();
        let document = Document {
            partition: &origin.partition,
            fragment: made.path.to_string_lossy(),
            was_there: made.was_there,
            bytes: content.files.iter().flat_map(|f| &f.pieces).map(|piece| piece.bytes).sum(),
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
        let (path, partition) = (names::visible(&document.fragment), &origin.partition);
        if made.was_there {
            writeln!(to, "partition {partition} is in {path} already")?
        } else {
            writeln!(to, "wrote partition {partition} to {path}")?
        }
        writeln!(
            to,
            "{} quantized, {dequantized} dequantized, {unchanged} bit for bit as they were, {}",
            figures::counted(quantized, "tensor"),
            figures::bytes(bytes)
        )?;
        if let Some((db, name)) = worst(&content.tensors) {
            let (db, name) = (figures::rated(db, thresholds), names::visible(name));
            writeln!(to, "reopened and measured from the file: worst {db}, {name}")?;
        }
        let out = shell::quoted(&self.out.to_string_lossy());
        writeln!(to, "when all partitions are there: quantscope join {}", names::visible(&out))?;
        Ok(to.flush()?)
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
        recipe,
        layout,
        to,
        training_state,
        copy: request.copy.clone(),
        ..described_analysis(checkpoint, Vec::new())
    }
}

/// Describes an analysis with these arguments for `join`.
fn described_analysis(checkpoint: &Checkpoint, analysis: Vec<String>) -> FragmentRequest {
    FragmentRequest {
        model: model(checkpoint),
        recipe: None,
        analysis,
        layout: None,
        to: None,
        training_state: false,
        activations: Vec::new(),
        copy: Vec::new(),
    }
}

/// This run's subcommand and options without `--partition`.
fn command() -> String {
    shell_command(&arguments(std::env::args().skip(1)))
}

/// Returns the argument that opens a model from any directory: an absolute path, an address, or the
/// demo's word.
fn model(checkpoint: &Checkpoint) -> String {
    if demo::is(checkpoint) {
        return demo::WORD.to_owned();
    }
    absolute(checkpoint.path())
}

/// Returns the absolute path of a file that exists, and anything else as it is.
fn absolute(path: &Path) -> String {
    let absolute = path.exists().then(|| std::path::absolute(path).ok()).flatten();
    absolute.as_deref().unwrap_or(path).to_string_lossy().into_owned()
}

/// The arguments of this run without `--partition`.
fn arguments(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut words = Vec::new();
    let mut all = all;
    while let Some(argument) = all.next() {
        match argument.as_str() {
            "--partition" => _ = all.next(),
            _ if argument.starts_with("--partition=") => {}
            _ => words.push(argument),
        }
    }
    words
}

/// Quotes and joins arguments to a command line for a shell.
fn shell_command(arguments: &[String]) -> String {
    let quoted: Vec<String> = arguments.iter().map(|word| shell::quoted(word)).collect();
    quoted.join(" ")
}

/// One worker's share of an analysis.
pub(super) struct AnalysisShare<'a> {
    pub checkpoint: &'a Arc<Checkpoint>,
    /// The report that `join` writes.
    pub out: &'a Path,
    pub partition: Partition,
    pub spec: AnalysisSpec,
    /// All tensors of the analysis.
    pub tensors: Vec<TensorId>,
}

impl AnalysisShare<'_> {
    /// The identity of the analysis, which the shares of all workers have in common.
    pub(super) fn identity(
        checkpoint: &Checkpoint,
        spec: &AnalysisSpec,
        tensors: &[TensorId],
    ) -> Identity {
        let plan = analysis_identity(&(spec, tensors));
        Identity { source: source_identity(checkpoint), plan, inputs: None }
    }

    /// Measures the share, writes the results to `OUT.partial`, and prints a summary.
    pub(super) fn make(self, work: &WorkArgs) -> Result<(), Error> {
        let AnalysisShare { checkpoint, out, partition, spec, tensors } = self;
        let identity = AnalysisShare::identity(checkpoint, &spec, &tensors);
        let directory = PartialDirectory::of(out)?;
        let found = directory.origins()?;
        directory.check_others(&found, partition, &identity)?;
        let path = directory.path_of(partition);
        let was_there = found.iter().any(|(other, _)| *other == partition);
        let bytes: Vec<u64> = tensors.iter().map(|&id| checkpoint.bytes(id)).collect();
        let workers = assign(&bytes, partition.count());
        let mine = tensors.iter().zip(&bytes).zip(workers);
        let mine = mine.filter(|(_, worker)| worker + 1 == partition.index() as usize);
        let (mine, bytes): (Vec<TensorId>, Vec<u64>) =
            mine.map(|((id, bytes), _)| (*id, bytes)).unzip();
        let count = mine.len();
        let mut was_first = true;
        if !was_there {
            let unfinished = directory.begin(partition)?;
            let cache = Some(Cache::at(unfinished.data()));
            for result in Scan::start(checkpoint, mine, spec, "measuring", work, cache)? {
                // A tensor that cannot be read is an error of the row that `join` writes.
                let (_, _found) = result?;
            }
            let origin = FragmentOrigin::new(partition, identity, command());
            let content = FragmentContent { files: Vec::new(), tensors: Vec::new() };
            let fragment = Fragment { origin, content };
            let request = described_analysis(checkpoint, arguments(std::env::args().skip(1)));
            was_first = unfinished.commit(&directory, partition, &fragment, &request)?;
        }
        let mut to = output();
        let path = path.to_string_lossy();
        let path = names::visible(&path);
        if was_there || !was_first {
            writeln!(to, "partition {partition} is in {path} already")?
        } else {
            writeln!(to, "wrote partition {partition} to {path}")?
        }
        let tensors = figures::counted(count, "tensor");
        writeln!(to, "{tensors} measured, {}", figures::bytes(bytes.iter().sum()))?;
        let out = shell::quoted(&out.to_string_lossy());
        writeln!(to, "when all partitions are there: quantscope join {}", names::visible(&out))?;
        Ok(to.flush()?)
    }
}

#[derive(Serialize)]
struct Document<'a> {
    partition: &'a str,
    fragment: std::borrow::Cow<'a, str>,
    /// Whether an earlier run wrote it.
    was_there: bool,
    bytes: u64,
    quantized: usize,
    dequantized: usize,
    unchanged: usize,
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
        let command_of =
            |words: &[&str]| shell_command(&arguments(words.iter().map(|&word| word.to_owned())));
        assert_eq!(command_of(&words), "quantize 'my model' -o out");
        assert_eq!(command_of(&["quantize", "--partition=env", "m"]), "quantize m");
    }
}
