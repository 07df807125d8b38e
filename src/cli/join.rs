//! `join`: combines the shares of several workers into an output.

use super::error::Error;
use super::options::{OutputArgs, WorkArgs, opened};
use super::receipt;
use super::report::ReportArgs;
use super::save::finish;
use super::target::output_format;
use crate::checkpoint::Checkpoint;
use crate::demo;
use crate::export::partition::fragment::{FragmentRequest, PartialDirectory};
use crate::export::{LoadCheck, Request, SaveError, Task, WeightLayout};
use crate::job::join;
use crate::plan::recipe;
use crate::quantization::Thresholds;
use crate::quantization::ggml::ImportanceOrigin;
use crate::tensor::FloatType;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quantscope quantize my-model -o small --partition 1/2\n  \
    quantscope quantize my-model -o small --partition 2/2\n  \
    quantscope join small")]
pub struct Join {
    /// The output that the workers were given with -o; their shares are in OUT.partial
    out: PathBuf,
    /// The source, if it is not where the workers read it
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,
    #[command(flatten, next_help_heading = "Output")]
    output: OutputArgs,
    #[command(flatten, next_help_heading = "Execution")]
    work: WorkArgs,
}

impl Join {
    /// Joins the shares. `parse` parses the arguments of an analysis.
    pub(super) fn run(
        self,
        thresholds: &Thresholds,
        parse: impl FnOnce(&[String]) -> Option<ReportArgs>,
    ) -> Result<(), Error> {
        let directory = PartialDirectory::of(&self.out)?;
        let Some((_, described)) = directory.first()? else {
            let why = if directory.path().is_dir() {
                "holds no finished share"
            } else {
                "does not exist"
            };
            let why = format!("{why}; workers make shares with quantize or dequantize --partition");
            return Err(SaveError::Unfit { path: directory.path().to_owned(), why }.into());
        };
        let model = self.model.clone().unwrap_or_else(|| PathBuf::from(&described.model));
        if !described.analysis.is_empty() {
            let why = "its fragments hold arguments that are not those of an analysis".to_owned();
            let unknown = || SaveError::Unfit { path: directory.path().to_owned(), why };
            let analysis = parse(&described.analysis).ok_or_else(unknown)?;
            return analysis.join(model, self.out, self.force, thresholds);
        }
        let checkpoint = if described.training_state {
            demo::open_model(&model)?.keeping_training_state()
        } else {
            demo::open_model(&model)?
        };
        let checkpoint = opened(&model, checkpoint);
        let task = task(&checkpoint, directory.path(), &described)?;
        let target = match &task {
            Task::Quantize { plan, .. } => Some(plan.target.clone()),
            Task::Dequantize { .. } => None,
        };
        let request =
            Request { task, out: self.out, force: self.force, copy: described.copy.clone() };
        let job = || join::start(checkpoint.clone(), request, self.work.threads());
        let receipt = finish(job, &self.work)?;
        let checked = match target.filter(|target| !target.is_default()) {
            Some(target) => {
                let saved = Checkpoint::open(&receipt.out)?;
                Some(LoadCheck::new(&saved, target.loaders())?)
            }
            None => None,
        };
        receipt::print(&receipt, checked.as_ref(), None, self.output.json, thresholds)?;
        match checked.filter(|checked| !checked.loads()) {
            None => Ok(()),
            Some(checked) => {
                Err(Error::WontLoad { path: receipt.out, conclusion: checked.conclusion() })
            }
        }
    }
}

/// The request that the workers carried out.
fn task(
    checkpoint: &Checkpoint,
    directory: &Path,
    described: &FragmentRequest,
) -> Result<Task, Error> {
    let unknown = |what: &str, name: &str| {
        let why = format!("its fragments name an unknown {what} '{}'", name.escape_debug());
        Error::from(SaveError::Unfit { path: directory.to_owned(), why })
    };
    let Some(recipe) = &described.recipe else {
        let to = described.to.as_ref().map(|name| {
            let known = FloatType::ALL.into_iter().find(|to| to.dtype().name() == name);
            known.ok_or_else(|| unknown("float type", name))
        });
        return Ok(Task::Dequantize { to: to.transpose()? });
    };
    let mut plan = recipe::from_toml(directory, recipe, checkpoint)?;
    if let Some(file) = plan.importance.missing().map(str::to_owned) {
        let files: Vec<PathBuf> = described.activations.iter().map(PathBuf::from).collect();
        let found = demo::open_activations(&files, checkpoint)?.importance(checkpoint);
        // The output names the file as the workers did.
        let origin = found.origin().cloned().unwrap_or_default();
        plan.importance = found.with_origin(ImportanceOrigin { file, ..origin });
    }
    let layout = described.layout.as_ref().map(|name| {
        let known = WeightLayout::ALL.into_iter().find(|layout| layout.name() == name);
        known.ok_or_else(|| unknown("layout", name))
    });
    let format = output_format(checkpoint, &plan.target, layout.transpose()?)?;
    Ok(Task::Quantize { plan, format })
}
