//! The state of an output that several workers make, read from its directory `OUT.partial`.

use crate::export::error::SaveError;
use crate::export::partition::Partition;
use crate::export::partition::disk_bytes::bytes_below;
use crate::export::partition::fragment::{Fragment, Outcome, PartialDirectory};
use std::path::{Path, PathBuf};

/// The shares of an output.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    /// The output that `join` writes.
    pub out: PathBuf,
    /// The subcommand and options of the workers, without `--partition`; `None` until a share is
    /// finished.
    pub command: Option<String>,
    /// Every share, in order.
    pub shares: Vec<ShareState>,
    /// Shares that belong to another division of the output, in words.
    pub problem: Option<String>,
}

/// One worker's share.
#[derive(Clone, Debug, PartialEq)]
pub struct ShareState {
    /// The number of its worker.
    pub partition: Partition,
    /// How far it is.
    pub progress: ShareProgress,
}

/// How far a share is.
#[derive(Clone, Debug, PartialEq)]
pub enum ShareProgress {
    /// Finished and verified.
    Done {
        /// Bytes of the output that the share holds.
        bytes: u64,
        /// Tensors that were quantized or dequantized.
        changed: usize,
        /// Tensors that were copied.
        unchanged: usize,
    },
    /// A worker holds its lock.
    Running {
        /// Bytes that are on the disk now.
        bytes: u64,
    },
    /// Begun by a worker that no longer runs.
    Stopped,
    /// Not begun.
    Missing,
    /// Finished, but its description cannot be read.
    Damaged(String),
}

impl Survey {
    /// Reads the directory of an output's shares; `None` if it has none. Finished shares are taken
    /// from the survey before, because they do not change.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn read(directory: &Path, before: Option<&Survey>) -> Result<Option<Survey>, SaveError> {
        let Some(partial) = PartialDirectory::at(directory) else { return Ok(None) };
        let finished = partial.finished()?;
        let running = partial.running_now();
        let begun = partial.begun();
        let first = finished.first().or(running.first()).or(begun.first());
        let Some(&first) = first else { return Ok(None) };
        let others: Vec<&Partition> =
            finished.iter().filter(|partition| partition.count() != first.count()).collect();
        let problem = others.first().map(|other| {
            format!("there are shares of two divisions, such as {first} and {other}: remove those of one")
        });
        let mut command = before.and_then(|before| before.command.clone());
        let mut share = |partition: Partition| {
            let known = before.and_then(|before| before.of(partition));
            let is_done = matches!(known, Some(ShareProgress::Done { .. }));
            let progress = match (finished.contains(&partition), known) {
                (true, Some(known)) if is_done => known.clone(),
                (true, _) => match partial.describe(partition) {
                    Ok(fragment) => {
                        command.get_or_insert_with(|| fragment.origin.command.clone());
                        done(&fragment, &PartialDirectory::data(&partial.path_of(partition)))
                    }
                    Err(error) => ShareProgress::Damaged(error.to_string()),
                },
                (false, _) if running.contains(&partition) => {
                    ShareProgress::Running { bytes: partial.written(partition) }
                }
                (false, _) if begun.contains(&partition) => ShareProgress::Stopped,
                (false, _) => ShareProgress::Missing,
            };
            ShareState { partition, progress }
        };
        let shares = first.all().map(&mut share).collect();
        Ok(Some(Survey { out: partial.out(), command, shares, problem }))
    }

    fn of(&self, partition: Partition) -> Option<&ShareProgress> {
        let mut shares = self.shares.iter();
        shares.find(|share| share.partition == partition).map(|share| &share.progress)
    }

    /// The number of finished shares.
    pub fn done(&self) -> usize {
        self.shares.iter().filter(|share| share.progress.is_done()).count()
    }

    /// Bytes of the finished shares.
    pub fn done_bytes(&self) -> u64 {
        let bytes = |share: &ShareState| match share.progress {
            ShareProgress::Done { bytes, .. } => bytes,
            _ => 0,
        };
        self.shares.iter().map(bytes).sum()
    }

    /// The command that makes a share; `None` until the options are known.
    pub fn command_of(&self, partition: Partition) -> Option<String> {
        let command = self.command.as_ref()?;
        Some(format!("quantscope {command} --partition {partition}"))
    }
}

impl ShareProgress {
    /// Whether the share is finished.
    pub fn is_done(&self) -> bool {
        matches!(self, ShareProgress::Done { .. })
    }

    /// One word for the state.
    pub fn word(&self) -> &'static str {
        match self {
            ShareProgress::Done { .. } => "done",
            ShareProgress::Running { .. } => "running",
            ShareProgress::Stopped => "stopped",
            ShareProgress::Missing => "missing",
            ShareProgress::Damaged(_) => "damaged",
        }
    }
}

fn done(fragment: &Fragment, data: &Path) -> ShareProgress {
    let Fragment { content, .. } = fragment;
    let pieces = content.files.iter().flat_map(|file| &file.pieces);
    let unchanged =
        content.tensors.iter().filter(|tensor| tensor.outcome == Outcome::Unchanged).count();
    // The results of an analysis are not parts of an output.
    let bytes = if content.files.is_empty() {
        bytes_below(data, false)
    } else {
        pieces.map(|piece| piece.bytes).sum()
    };
    ShareProgress::Done { bytes, changed: content.tensors.len() - unchanged, unchanged }
}
