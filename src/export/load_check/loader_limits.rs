//! Applies the tables of loader limits to a saved model.

use crate::checkpoint::{Checkpoint, Result};
use crate::export::load_check::finding::Finding;
use crate::export::load_check::saved_format::SavedFormat;
use crate::plan::Plan;
use crate::plan::rules::TargetRules;
use crate::plan::target::{Container, Loader, Target};

/// Returns the findings for the given loaders; if there are none, for every loader whose limits are
/// reported by default.
pub(super) fn find(
    checkpoint: &Checkpoint,
    format: &SavedFormat,
    plan: &Plan,
    loaders: &[Loader],
) -> Result<Vec<Finding>> {
    let Some(container) = format.container else { return Ok(Vec::new()) };
    if loaders.is_empty() {
        let target = Target::format(container);
        return review(checkpoint, format, plan, &target);
    }
    let mut findings = Vec::new();
    for &loader in loaders {
        let loader = match (container, loader) {
            // transformers reads torchao's format with torchao.
            (Container::Torchao, Loader::Transformers | Loader::SentenceTransformers) => {
                Loader::Torchao
            }
            (_, loader) => loader,
        };
        let target = Target::for_loaders(&[loader], checkpoint.format());
        match target.and_then(|target| target.with_format(container)) {
            Ok(target) => findings.extend(review(checkpoint, format, plan, &target)?),
            Err(why) => findings.push(Finding::fails(why.to_string())),
        }
    }
    Ok(findings)
}

fn review(
    checkpoint: &Checkpoint,
    format: &SavedFormat,
    plan: &Plan,
    target: &Target,
) -> Result<Vec<Finding>> {
    let is_linear = matches!(target.container(), Container::CompressedTensors(_));
    let review = TargetRules::new(checkpoint, target)?.review_saved(
        checkpoint,
        plan,
        is_linear && format.is_int8,
    );
    let fails = review.refusals.into_iter().map(Finding::fails);
    Ok(fails.chain(review.warnings.into_iter().map(Finding::warns)).collect())
}
