//! The files that the inspector reads and writes, apart from the model: recipes and reports.

use crate::app::{NotWritten, PlanFix, Refusal, SavePreview};
use crate::checkpoint::Checkpoint;
use crate::demo;
use crate::export::{OutputPlan, Request, SaveError, Task, write_text};
use crate::plan::rules::TargetRules;
use crate::report::{Format, Report};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Resolves a typed path: replaces `~/` with the home directory, and makes relative paths relative
/// to `directory`. The name of the demo is not a path and is returned unchanged.
pub(super) fn resolve(path: &Path, directory: &Path) -> PathBuf {
    if path.as_os_str() == demo::WORD {
        return path.to_owned();
    }
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => directory.join(path),
    }
}

/// Computes what a save would write, or why it would fail.
pub(super) fn preview_save(
    checkpoint: &Checkpoint,
    request: &Request,
) -> Result<SavePreview, Refusal> {
    let output_plan = OutputPlan::new(checkpoint, request).map_err(|error| Refusal {
        why: error.to_string(),
        fix: fix(checkpoint, request).map(Box::new),
    })?;
    Ok(SavePreview {
        files: output_plan.files.len() + output_plan.texts.len() + output_plan.sidecar_files.len(),
        bytes: output_plan.bytes(),
        warnings: output_plan.warnings,
    })
}

/// Returns a change of the marks with which a refused save would work.
fn fix(checkpoint: &Checkpoint, request: &Request) -> Option<PlanFix> {
    let Task::Quantize { plan, format } = &request.task else { return None };
    let target = plan.target.clone().with_format(format.container()).ok()?;
    let fitted = TargetRules::new(checkpoint, &target).ok()?.fit(checkpoint, plan);
    if fitted.changes.is_empty() {
        return None;
    }
    let task = Task::Quantize { plan: fitted.plan.clone(), format: *format };
    OutputPlan::new(checkpoint, &Request { task, ..request.clone() }).ok()?;
    Some(PlanFix { plan: fitted.plan, what: fitted.changes.join("; ") })
}

/// Writes a recipe atomically.
pub(super) fn write_recipe(
    checkpoint: &Checkpoint,
    path: &Path,
    text: &str,
    replace: bool,
) -> Result<(), NotWritten> {
    let written = write_text(checkpoint, path, replace, |out| out.write_all(text.as_bytes()));
    written.map_err(not_written)
}

/// Writes a report atomically.
pub(super) fn write_report(
    report: &Report,
    path: &Path,
    format: Format,
    replace: bool,
) -> Result<(), NotWritten> {
    let write = |out: &mut dyn Write| report.write(format, out);
    write_text(&report.checkpoint, path, replace, write).map_err(not_written)
}

fn not_written(error: SaveError) -> NotWritten {
    match error {
        SaveError::Exists(_) => NotWritten::Exists,
        SaveError::NoParent { ref parent, .. } => {
            NotWritten::NoDirectory { parent: parent.clone(), why: error.to_string() }
        }
        error => NotWritten::Failed(error.to_string()),
    }
}
