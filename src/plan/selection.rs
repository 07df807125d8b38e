//! Selecting tensors by glob patterns over their whole names.

use crate::checkpoint::Checkpoint;
use crate::plan::eligibility::{Obstacle, obstacle};
use crate::tensor::TensorId;
use globset::{GlobBuilder, GlobMatcher};
use std::path::PathBuf;

/// Patterns as a person gives them. `*` crosses dots.
///
/// A pattern with a wildcard selects the quantizable tensors among its matches. A plain
/// name selects that tensor even if it is a vector, an embedding or a norm, and is an
/// error if it cannot be quantized.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Empty: every quantizable tensor.
    pub include: Vec<String>,
    pub exclude: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    #[error("the pattern '{pattern}' is not a glob: {why}")]
    Pattern { pattern: String, why: String },
    #[error("{}: the pattern '{pattern}' matches no tensor{}", path.display(), .nearest.as_ref().map(|n| format!("; the nearest name is '{}'", n.escape_debug())).unwrap_or_default())]
    NoMatch { path: PathBuf, pattern: String, nearest: Option<String> },
    #[error("{}: the pattern '{pattern}' matches {matches} tensors, none of them quantizable; '{}': {why}", path.display(), first.escape_debug())]
    NoneQuantizable { path: PathBuf, pattern: String, matches: usize, first: String, why: Obstacle },
    #[error("{}, tensor '{}': {why}", path.display(), tensor.escape_debug())]
    NotQuantizable { path: PathBuf, tensor: String, why: Obstacle },
    #[error("{}: nothing to quantize: no tensor is quantizable{}", path.display(), if *excluded { " and not excluded" } else { "" })]
    Nothing { path: PathBuf, excluded: bool },
}

impl Selection {
    /// The tensors selected, in the checkpoint's order.
    pub fn resolve(&self, checkpoint: &Checkpoint) -> Result<Vec<TensorId>, SelectionError> {
        let path = || checkpoint.path().to_owned();
        let mut selected = vec![self.include.is_empty(); checkpoint.tensors().len()];
        if self.include.is_empty() {
            for id in checkpoint.ids() {
                selected[id.index()] = obstacle(checkpoint, id).is_none();
            }
        }
        for pattern in &self.include {
            let matched = matches(checkpoint, pattern)?;
            if is_plain(pattern) {
                for &id in &matched {
                    if let Some(why) = obstacle(checkpoint, id).filter(|o| !o.can_be_overruled()) {
                        let tensor = checkpoint.tensor(id).name.to_string();
                        return Err(SelectionError::NotQuantizable { path: path(), tensor, why });
                    }
                    selected[id.index()] = true;
                }
                continue;
            }
            let mut why_not = None;
            let mut any = false;
            for &id in &matched {
                match obstacle(checkpoint, id) {
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

    /// The tensors whose names the patterns match, quantizable or not, in the checkpoint's
    /// order: what to look at rather than what to change.
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

    /// Whether a tensor is one of those the patterns name without a wildcard.
    pub fn names(&self, name: &str) -> bool {
        self.include.iter().any(|pattern| is_plain(pattern) && pattern == name)
    }
}

fn is_plain(pattern: &str) -> bool {
    !pattern.contains(['*', '?', '[', '{', '\\'])
}

/// The tensors a pattern matches; matching none is an error, for it is a misspelling.
pub(super) fn matches(
    checkpoint: &Checkpoint,
    pattern: &str,
) -> Result<Vec<TensorId>, SelectionError> {
    let found: Vec<TensorId> = if is_plain(pattern) {
        checkpoint.find(pattern).into_iter().collect()
    } else {
        let glob = matcher(pattern)?;
        checkpoint.ids().filter(|&id| glob.is_match(checkpoint.tensor(id).name.as_str())).collect()
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

/// The tensor whose name comes nearest to a misspelt pattern, if any is near.
fn nearest(checkpoint: &Checkpoint, pattern: &str) -> Option<String> {
    use nucleo_matcher::pattern::{AtomKind, CaseMatching, Normalization, Pattern};
    let plain: String = pattern.chars().filter(|c| c.is_alphanumeric() || *c == '.').collect();
    let wanted = Pattern::new(&plain, CaseMatching::Ignore, Normalization::Smart, AtomKind::Fuzzy);
    let mut matcher = nucleo_matcher::Matcher::default();
    let names = checkpoint.tensors().iter().map(|t| t.name.as_str());
    wanted.match_list(names, &mut matcher).first().map(|(name, _)| (*name).to_owned())
}
