//! Runs all checks on a saved model.

use crate::checkpoint::{Checkpoint, Config, Format, Result, Shard};
use crate::export::load_check::finding::{Finding, Severity};
use crate::export::load_check::saved_format::{COMPRESSED_TENSORS, SavedFormat, plan_of};
use crate::export::load_check::{
    config_groups, file_names, loader_limits, missing_parts, stale_copies, unexpected,
};
use crate::plan::rules::TargetRules;
use crate::plan::target::{Container, LinearScheme, Loader, Target};

/// The findings about a saved model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadCheck {
    /// The name of its format.
    pub format: String,
    /// The loaders to check for; empty for all.
    pub loaders: Vec<Loader>,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of quantized tensors.
    pub quantized: usize,
    /// Sorted by severity, most severe first.
    pub findings: Vec<Finding>,
}

impl LoadCheck {
    /// Checks a saved model for the given loaders, or in general if there are none.
    ///
    /// # Errors
    ///
    /// `config.json` cannot be read.
    pub fn new(checkpoint: &Checkpoint, loaders: &[Loader]) -> Result<LoadCheck> {
        let config = checkpoint.model_config()?;
        let format = SavedFormat::of(checkpoint, config.as_ref());
        let plan = plan_of(checkpoint, config.as_ref());
        let mut findings = missing_parts::find(checkpoint, &format);
        if format.method.as_deref() == Some(COMPRESSED_TENSORS) {
            let target = Target::format(Container::CompressedTensors(LinearScheme::default()));
            let rules = TargetRules::new(checkpoint, &target)?;
            findings.extend(config_groups::find(checkpoint, config.as_ref(), &rules));
            findings.extend(no_framework(checkpoint));
        }
        if format.container == Some(Container::Safetensors) {
            findings.push(Finding::warns(
                "its int8 values have the names of the weights, and its scales '<name>_scale': a program that does not multiply by them computes garbage".to_owned(),
            ));
        }
        if format.container.is_none() {
            findings.extend(unnamed_method(config.as_ref(), &format, plan.len()));
        }
        findings.extend(loader_limits::find(checkpoint, &format, &plan, loaders)?);
        findings.extend(file_names::find(checkpoint, config.as_ref(), loaders));
        findings.extend(unexpected::find(checkpoint));
        findings.extend(stale_copies::find(checkpoint));
        findings.sort_by_key(|finding| finding.severity);
        let mut kept: Vec<Finding> = Vec::new();
        for finding in findings {
            if !kept.contains(&finding) {
                kept.push(finding);
            }
        }
        Ok(LoadCheck {
            format: format.name(),
            loaders: loaders.to_vec(),
            tensors: checkpoint.tensors().len(),
            quantized: plan.len(),
            findings: kept,
        })
    }

    /// Returns whether nothing was found that prevents loading.
    pub fn loads(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Fails)
    }

    /// The result as a sentence.
    pub fn conclusion(&self) -> String {
        let names: Vec<&str> = self.loaders.iter().map(|loader| loader.title()).collect();
        let loaders =
            if names.is_empty() { String::new() } else { format!(" in {}", names.join(", ")) };
        if self.loads() {
            format!("nothing found that keeps it from loading{loaders}")
        } else {
            format!("it will not load{loaders}")
        }
    }
}

/// Reports a loader that does not recognize how tensors are quantized, or finds none of them.
fn unnamed_method(
    config: Option<&Config>,
    format: &SavedFormat,
    quantized: usize,
) -> Option<Finding> {
    match (&format.method, quantized) {
        (Some(method), 0) => Some(Finding::fails(format!(
            "config.json says that it is quantized by '{}', and no tensor is",
            method.escape_debug()
        ))),
        (None, 1..) if config.is_some_and(|config| config.quantization().is_none()) => Some(Finding::warns(
            "config.json does not say how its tensors are quantized, which loaders of directories need"
                .to_owned(),
        )),
        _ => None,
    }
}

/// Reports files that do not name their framework, which transformers before version 5 rejects.
fn no_framework(checkpoint: &Checkpoint) -> Option<Finding> {
    let names_it = |shard: &Shard| shard.metadata("format").is_some();
    let lacks =
        checkpoint.format() == Format::Safetensors && !checkpoint.shards().iter().all(names_it);
    lacks.then(|| {
        Finding::warns(
            "its metadata does not have 'format': 'pt', without which transformers before version 5 opens no file"
                .to_owned(),
        )
    })
}
