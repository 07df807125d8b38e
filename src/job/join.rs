//! Combines the fragments that several workers left of an output.

use super::partition::{expected_pieces, file_path};
use super::save::SaveEvent;
use super::{Job, JobError, PendingJob, Progress, each_chunk};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::io::remote::forget_bucket;
use crate::export::partition::bucket_output::{BucketOutput, PlacedPiece};
use crate::export::partition::fragment::{
    Fragment, FragmentPiece, Identity, Outcome, PartialDirectory,
};
use crate::export::partition::identity::{digest_of, plan_identity, source_identity};
use crate::export::partition::shares::shares;
use crate::export::verify::file_verifier::compare_with_plan;
use crate::export::{
    self, AtomicOutput, Comparison, MadeFrom, OutFile, OutputPlan, Pairing, Partition, Receipt,
    Request, SaveError, VerifiedAgainst,
};
use crate::path_error::IoContext;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Starts the job that combines the fragments of an output.
pub(crate) fn start(
    checkpoint: Arc<Checkpoint>,
    request: Request,
    threads: Option<usize>,
) -> std::io::Result<Job<SaveEvent<Receipt>>> {
    let job = PendingJob::new("join", Arc::default(), move |progress, sender| {
        let phase = |name| _ = sender.send(SaveEvent::Phase(name));
        let outcome = join(&checkpoint, &request, threads, progress, &phase);
        let outcome = outcome.map_err(|error| match error {
            JobError::Stopped(why) => JobError::SaveStopped(why),
            error => error,
        });
        let _ = sender.send(SaveEvent::Finished(Box::new(outcome)));
    });
    job.start()
}

/// One piece of the output, and the file of a fragment that contains it.
struct JoinPiece<'j> {
    file: usize,
    partition: Partition,
    from: PathBuf,
    described: &'j FragmentPiece,
}

/// The maximum number of files of an output in a bucket that are written at a time. Each takes the
/// memory of a part and of a piece.
const MAX_UPLOADS: usize = 4;

/// Checks that all fragments of an output exist and fit, combines them, verifies the output, and
/// renames it to OUT. Then removes the fragments.
fn join(
    checkpoint: &Checkpoint,
    request: &Request,
    threads: Option<usize>,
    progress: &Progress,
    phase: &dyn Fn(&'static str),
) -> Result<Receipt, JobError> {
    let output_plan = OutputPlan::new(checkpoint, request)?;
    let directory = PartialDirectory::of(&request.out)?;
    let first = directory.first()?;
    let identity = Identity {
        source: source_identity(checkpoint),
        plan: plan_identity(&output_plan),
        // The workers agree on these; `join` needs no recorded inputs.
        inputs: first.and_then(|(origin, _)| origin.identity.inputs),
    };
    let fragments = directory.complete(&identity)?;
    let pieces = join_pieces(checkpoint, request, &output_plan, &directory, &fragments)?;
    if directory.is_in_bucket() {
        join_in_bucket(checkpoint, request, &output_plan, (&directory, &pieces), progress, phase)?;
        // The output is complete. If this fails, the user can remove the remaining fragments.
        let _ = directory.remove();
        return Ok(receipt(checkpoint, request, &output_plan, &fragments, progress));
    }
    let links = links(&output_plan, &pieces);
    let copied = |piece: &&JoinPiece| links.get(piece.file).is_none_or(Option::is_none);
    let bytes: u64 = pieces.iter().map(|piece| piece.described.bytes).sum();
    let copied_bytes = pieces.iter().filter(copied).map(|piece| piece.described.bytes).sum();
    export::check(checkpoint, request, copied_bytes)?;
    progress.expect(bytes);

    phase("joining");
    let (output, linked) = AtomicOutput::create_with_links(request, &output_plan, &links)?;
    let is_linked = |file: usize| linked.get(file).copied().unwrap_or(false);
    let to = |piece: &JoinPiece| {
        let file = output_plan.files.get(piece.file).filter(|_| !is_linked(piece.file));
        file.map(|file| output.path_of(file))
    };
    let (pieces, to) = (&pieces, &to);
    each_chunk(pieces.iter().map(|_| 1), threads, progress, || {
        move |number, _| {
            let Some(piece) = pieces.get(number) else { return Ok(()) };
            Ok(join_piece(piece, to(piece).as_deref(), progress)?)
        }
    })?;
    for (number, file) in output_plan.files.iter().enumerate() {
        if !is_linked(number) {
            write_literals(file, &output.path_of(file))?;
        }
    }
    for text in &output_plan.texts {
        output.write_text(&text.name, &text.text)?;
    }
    for sidecar in &output_plan.sidecar_files {
        output.copy(&sidecar.source, &sidecar.name, |_| Ok::<(), JobError>(progress.check()?))?;
    }
    phase("verifying");
    let verified = || {
        let path = output.path();
        let written = match output_plan.entry_point() {
            Some(name) => Checkpoint::open(&path.join(name)),
            None => Checkpoint::open(path),
        };
        Pairing::new(&written?, checkpoint)?;
        compare_with_plan(path, &request.task, &output_plan, &HashMap::new(), &|| {
            !progress.is_cancelled()
        })
    };
    verified().map_err(|e: SaveError| e.renamed(output.path(), &request.out))?;
    progress.check()?;
    phase("syncing to disk");
    output.sync()?;
    progress.check()?;
    output.commit(request.force)?;
    // The output is complete. If this fails, the user can remove the remaining fragments.
    let _ = directory.remove();
    Ok(receipt(checkpoint, request, &output_plan, &fragments, progress))
}

/// All pieces of all fragments.
///
/// # Errors
/// Fails if a fragment does not contain exactly the pieces of its share.
fn join_pieces<'j>(
    checkpoint: &Checkpoint,
    request: &Request,
    output_plan: &OutputPlan,
    directory: &PartialDirectory,
    fragments: &'j [(Partition, Fragment)],
) -> Result<Vec<JoinPiece<'j>>, SaveError> {
    let count = fragments.first().map_or(1, |(partition, _)| partition.count());
    let shares = shares(checkpoint, output_plan, count);
    let mut pieces = Vec::new();
    for ((partition, fragment), share) in fragments.iter().zip(&shares) {
        let path = directory.path_of(*partition);
        let data = PartialDirectory::data(&path);
        let unfit = || SaveError::Unfit {
            path: path.clone(),
            why: "does not hold its part of the output; remove it and make it again".to_owned(),
        };
        let mut described = fragment.content.files.iter().peekable();
        for (number, file) in output_plan.files.iter().enumerate() {
            let expected = expected_pieces(share, output_plan, number);
            if expected.is_empty() {
                continue;
            }
            let found = described.next().ok_or_else(unfit)?;
            let ranges = found.pieces.iter().map(|piece| piece.start..piece.start + piece.bytes);
            if (found.name.as_str(), found.bytes) != (file.name.as_str(), file.size())
                || !ranges.eq(expected)
            {
                return Err(unfit());
            }
            let from = file_path(&data, request, output_plan, file);
            if !directory.is_in_bucket() {
                let length = fs::metadata(&from).context(&from)?.len();
                if length != file.size() {
                    let why = format!("it has {length} bytes, expected {}", file.size());
                    return Err(SaveError::FileDiffers { path: from, why });
                }
            }
            let of_file = found.pieces.iter();
            pieces.extend(of_file.map(|described| JoinPiece {
                file: number,
                partition: *partition,
                from: from.clone(),
                described,
            }));
        }
        if described.peek().is_some() {
            return Err(unfit());
        }
    }
    Ok(pieces)
}

/// For each file of a directory, the file of a fragment that contains all of it, if any.
fn links(output_plan: &OutputPlan, pieces: &[JoinPiece]) -> Vec<Option<PathBuf>> {
    let mut links: Vec<Option<PathBuf>> = vec![None; output_plan.files.len()];
    if !output_plan.directory {
        return links;
    }
    let mut shared = HashSet::new();
    for piece in pieces {
        let Some(link) = links.get_mut(piece.file) else { continue };
        match link {
            Some(from) if *from != piece.from => _ = shared.insert(piece.file),
            Some(_) => {}
            None => *link = Some(piece.from.clone()),
        }
    }
    for file in shared {
        if let Some(link) = links.get_mut(file) {
            *link = None;
        }
    }
    links
}

/// Compares a piece with its digest, and writes it to `to`, unless `to` is `None` because it is
/// already in place.
fn join_piece(piece: &JoinPiece, to: Option<&Path>, progress: &Progress) -> Result<(), SaveError> {
    let JoinPiece { from, described, .. } = piece;
    let mut file = File::open(from).context(from)?;
    file.seek(SeekFrom::Start(described.start)).context(from)?;
    let mut out = match to {
        Some(path) => {
            let mut out = File::options().write(true).open(path).context(path)?;
            out.seek(SeekFrom::Start(described.start)).context(path)?;
            Some(out)
        }
        None => None,
    };
    let digest = digest_of(&mut file.take(described.bytes), |bytes| {
        progress.advance(bytes.len() as u64);
        out.as_mut().map_or(Ok(()), |out| out.write_all(bytes))
    });
    compare_digest(piece, &digest.context(to.unwrap_or(from))?)
}

fn compare_digest(piece: &JoinPiece, digest: &str) -> Result<(), SaveError> {
    let JoinPiece { from, described, .. } = piece;
    if digest == described.digest {
        Ok(())
    } else {
        Err(SaveError::FileDiffers {
            path: from.clone(),
            why: format!(
                "the bytes from {} on are not those that its worker verified; remove the fragment and make it again",
                described.start
            ),
        })
    }
}

/// Writes the output to a bucket, piece by piece, reopens it and verifies everything but the pieces.
/// A piece that differs from its digest is never written.
fn join_in_bucket(
    checkpoint: &Checkpoint,
    request: &Request,
    output_plan: &OutputPlan,
    (directory, pieces): (&PartialDirectory, &[JoinPiece]),
    progress: &Progress,
    phase: &dyn Fn(&'static str),
) -> Result<(), JobError> {
    let output = &BucketOutput::new(&request.out, output_plan)?;
    progress.expect(pieces.iter().map(|piece| piece.described.bytes).sum());
    phase("joining");
    let read = |piece: &&JoinPiece| -> Result<Vec<u8>, JobError> {
        progress.check()?;
        let name = output_plan.files.get(piece.file).map_or("", |file| file.name.as_str());
        let bytes = directory.piece(piece.partition, name, piece.described)?;
        let digest = digest_of(&mut bytes.as_slice(), |_| Ok(())).context(&piece.from)?;
        compare_digest(piece, &digest)?;
        progress.advance(bytes.len() as u64);
        Ok(bytes)
    };
    let read = &read;
    let uploads = Some(MAX_UPLOADS.min(output_plan.files.len()).max(1));
    each_chunk(output_plan.files.iter().map(|_| 1), uploads, progress, || {
        move |number, _| {
            let Some(file) = output_plan.files.get(number) else { return Ok(()) };
            let of_file = pieces.iter().filter(|piece| piece.file == number);
            let placed = of_file.map(|piece| {
                let FragmentPiece { start, bytes, .. } = *piece.described;
                PlacedPiece { start, bytes, piece }
            });
            output.write_file(file, placed.collect(), read)
        }
    })?;
    progress.check()?;
    output.write_others(|_| Ok::<(), JobError>(progress.check()?))?;
    phase("verifying");
    forget_bucket(&request.out);
    let written = Checkpoint::open(&output.entry_point()).map_err(SaveError::from)?;
    Pairing::new(&written, checkpoint)?;
    let is_wanted = || !progress.is_cancelled();
    compare_with_plan(&request.out, &request.task, output_plan, &HashMap::new(), &is_wanted)?;
    Ok(progress.check()?)
}

/// Writes the entries that depend only on the plan.
fn write_literals(file: &OutFile, path: &Path) -> Result<(), SaveError> {
    let mut out = File::options().write(true).open(path).context(path)?;
    for (entry, &offset) in file.entries.iter().zip(&file.offsets) {
        if let MadeFrom::Literal(bytes) = &entry.made_from {
            let written = out.seek(SeekFrom::Start(offset)).and_then(|_| out.write_all(bytes));
            written.context(path)?;
        }
    }
    Ok(())
}

fn receipt(
    checkpoint: &Checkpoint,
    request: &Request,
    output_plan: &OutputPlan,
    fragments: &[(Partition, Fragment)],
    progress: &Progress,
) -> Receipt {
    let tensors = || fragments.iter().flat_map(|(_, fragment)| &fragment.content.tensors);
    let count = |outcome| tensors().filter(|tensor| tensor.outcome == outcome).count();
    let quantized = tensors().filter_map(|tensor| {
        Some(Comparison {
            tensor: tensor.name.clone(),
            scheme: tensor.scheme.clone()?,
            on_disk: tensor.error_sums()?.statistics(),
            output: tensor.output,
        })
    });
    Receipt {
        out: request.out.clone(),
        files: output_plan.files.len(),
        before: checkpoint.total_bytes(),
        written: output_plan.bytes(),
        quantized: quantized.collect(),
        dequantized: count(Outcome::Dequantized),
        unchanged: count(Outcome::Unchanged),
        texts: output_plan.texts.len(),
        sidecar_files: output_plan.sidecar_files.len(),
        left_out: output_plan.left_out.clone(),
        warnings: output_plan.warnings.clone(),
        elapsed: progress.elapsed(),
        against: VerifiedAgainst::Source,
        resumed: 0,
    }
}
