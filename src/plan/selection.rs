//! Selecting tensors by glob patterns over their whole names.

use crate::checkpoint::{Checkpoint, ReadError};
use crate::plan::rules::{Eligibility, Reason, TargetRules};
use crate::plan::target::Target;
use crate::tensor::TensorId;
use crate::text::figures;
use globset::{GlobBuilder, GlobMatcher};
use std::path::PathBuf;

/// Patterns that include and exclude tensors by name. `*` also matches dots.
///
/// A pattern with a wildcard selects those of its matches that are quantized by default. A
/// tensor's whole name selects that tensor, even if the name looks like a pattern, and even if
/// the tensor is a vector, an embedding or a norm. It is an error if the tensor cannot be
/// quantized.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Empty: every quantizable tensor.
    pub include: Vec<String>,
    /// Tensors that are left out, even if they are included.
    pub exclude: Vec<String>,
}

/// Why patterns select no tensor that can be quantized.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum SelectionError {
    #[error("invalid glob pattern '{pattern}': {why}")]
    Pattern { pattern: String, why: String },
    #[error("{}: the pattern '{pattern}' matches no tensor{}", path.display(), .nearest.as_ref().map(|n| format!("; the nearest name is '{}'", n.escape_debug())).unwrap_or_default())]
    NoMatch { path: PathBuf, pattern: String, nearest: Option<String> },
    #[error("{}: the pattern '{pattern}' matches {}, none quantizable; '{}': {why}", path.display(), figures::counted(*matches, "tensor"), first.escape_debug())]
    NoneQuantizable { path: PathBuf, pattern: String, matches: usize, first: String, why: Reason },
    #[error("{}, tensor '{}': {why}", path.display(), tensor.escape_debug())]
    NotQuantizable { path: PathBuf, tensor: String, why: Reason },
    #[error("{}, tensor '{}': it cannot be int8 in {format}: {why}; leave it out, or choose the format safetensors", path.display(), tensor.escape_debug())]
    NotHeld { path: PathBuf, tensor: String, format: String, why: Reason },
    #[error("{0}")]
    Config(ReadError),
    #[error("{}: nothing to quantize: no tensor is quantizable{}", path.display(), if *excluded { " and not excluded" } else { "" })]
    Nothing { path: PathBuf, excluded: bool },
}

impl Selection {
    /// Returns the selected tensors for the default target, in the checkpoint's order.
    pub fn resolve(&self, checkpoint: &Checkpoint) -> Result<Vec<TensorId>, SelectionError> {
        let rules = TargetRules::new(checkpoint, &Target::default());
        self.resolve_for(checkpoint, &rules.map_err(SelectionError::Config)?)
    }

    /// Returns the selected tensors for a target, in the checkpoint's order.
    pub fn resolve_for(
        &self,
        checkpoint: &Checkpoint,
        rules: &TargetRules,
    ) -> Result<Vec<TensorId>, SelectionError> {
        let path = || checkpoint.path().to_owned();
        let by_default = |id| rules.eligibility(checkpoint, id) == Eligibility::ByDefault;
        let mut selected = vec![false; checkpoint.tensors().len()];
        if self.include.is_empty() {
            for id in checkpoint.ids() {
                selected[id.index()] = by_default(id);
            }
        }
        for pattern in &self.include {
            if let Some(id) = checkpoint.find(pattern) {
                if let Eligibility::Never(why) = rules.eligibility(checkpoint, id) {
                    let tensor = checkpoint.tensor(id).name.to_string();
                    let path = path();
                    if !rules.holds_linear_only() {
                        return Err(SelectionError::NotQuantizable { path, tensor, why });
                    }
                    let format = rules.target().to_string();
                    return Err(SelectionError::NotHeld { path, tensor, format, why });
                }
                selected[id.index()] = true;
                continue;
            }
            let matched = matches(checkpoint, pattern)?;
            let mut why_not = None;
            let mut any = false;
            for &id in &matched {
                match rules.reason(checkpoint, id) {
                    None => {
                        selected[id.index()] = true;
                        any = true;
                    }
                    Some(why) => _ = why_not.get_or_insert((id, why)),
                }
            }
            if let (false, Some((id, why))) = (any, why_not) {
                return Err(SelectionError::NoneQuantizable {
                    path: path(),
                    pattern: pattern.clone(),
                    matches: matched.len(),
                    first: checkpoint.tensor(id).name.to_string(),
                    why,
                });
            }
        }
        for pattern in &self.exclude {
            for id in matches(checkpoint, pattern)? {
                selected[id.index()] = false;
            }
        }
        let ids: Vec<_> = checkpoint.ids().filter(|id| selected[id.index()]).collect();
        if ids.is_empty() {
            Err(SelectionError::Nothing { path: path(), excluded: !self.exclude.is_empty() })
        } else {
            Ok(ids)
        }
    }

    /// Returns the tensors whose names the patterns match, quantizable or not, in the
    /// checkpoint's order. For commands that only show tensors.
    pub fn matching(&self, checkpoint: &Checkpoint) -> Result<Vec<TensorId>, SelectionError> {
        let mut chosen = vec![self.include.is_empty(); checkpoint.tensors().len()];
        for (patterns, choose) in [(&self.include, true), (&self.exclude, false)] {
            for pattern in patterns {
                for id in matches(checkpoint, pattern)? {
                    chosen[id.index()] = choose;
                }
            }
        }
        Ok(checkpoint.ids().filter(|id| chosen[id.index()]).collect())
    }

    /// Returns whether `name` is included by its whole name.
    pub fn names(&self, name: &str) -> bool {
        self.include.iter().any(|pattern| pattern == name)
    }
}

fn is_plain(pattern: &str) -> bool {
    !pattern.contains(['*', '?', '[', '{', '\\'])
}

/// Returns the tensors that a pattern matches. No match is an error: the pattern is probably
/// misspelt.
pub(super) fn matches(
    checkpoint: &Checkpoint,
    pattern: &str,
) -> Result<Vec<TensorId>, SelectionError> {
    let found: Vec<TensorId> = match checkpoint.find(pattern) {
        Some(id) => vec![id],
        None if is_plain(pattern) => Vec::new(),
        None => {
            let glob = matcher(pattern)?;
            let is_match = |id: &TensorId| glob.is_match(checkpoint.tensor(*id).name.as_str());
            checkpoint.ids().filter(is_match).collect()
        }
    };
    if found.is_empty() {
        return Err(SelectionError::NoMatch {
            path: checkpoint.path().to_owned(),
            pattern: pattern.to_owned(),
            nearest: nearest(checkpoint, pattern),
        });
    }
    Ok(found)
}

fn matcher(pattern: &str) -> Result<GlobMatcher, SelectionError> {
    GlobBuilder::new(pattern)
        .literal_separator(false)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|e| SelectionError::Pattern {
            pattern: pattern.to_owned(),
            why: e.kind().to_string(),
        })
}

/// Returns the name that is most similar to a misspelt pattern, if any is similar.
fn nearest(checkpoint: &Checkpoint, pattern: &str) -> Option<String> {
    use nucleo_matcher::pattern::{AtomKind, CaseMatching, Normalization, Pattern};
    let plain: String = pattern.chars().filter(|c| c.is_alphanumeric() || *c == '.').collect();
    let wanted = Pattern::new(&plain, CaseMatching::Ignore, Normalization::Smart, AtomKind::Fuzzy);
    let mut matcher = nucleo_matcher::Matcher::default();
    let names = checkpoint.tensors().iter().map(|t| t.name.as_str());
    wanted.match_list(names, &mut matcher).first().map(|(name, _)| (*name).to_owned())
}
