//! Creates an output with several workers: each writes and verifies its share of the tensors, and
//! `join` combines the fragments.

use super::background_sync::with_background_sync;
use super::calibration::calibrate;
use super::entry_chunks::{EntryChunks, entry_chunks};
use super::save::SaveEvent;
use super::writers::{Writer, Writers};
use super::{Job, JobError, PendingJob, Progress, each_chunk, lock, verify};
use crate::checkpoint::Checkpoint;
use crate::export::partition::fragment::{
    Fragment, FragmentFile, FragmentPiece, FragmentRequest, FragmentTensor, Identity, Outcome,
    PartialDirectory, sums_text,
};
use crate::export::partition::identity::{digest_of, plan_identity, source_identity};
use crate::export::partition::shares::{Share, share, shares};
use crate::export::verify::file_verifier::compare_with_plan;
use crate::export::{
    self, AtomicOutput, ChunkEncoder, Comparison, KnownScales, MadeFrom, Match, OutFile,
    OutputPlan, Pairing, Partition, Receipt, Request, SaveError, Task, VerifiedAgainst,
    share_absmax,
};
use crate::path_error::IoContext;
use crate::tensor::TensorId;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The maximum number of bytes per digest. Pieces of this size let all cores compute digests.
const PIECE_BYTES: u64 = 64 << 20;

/// A worker's finished fragment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Made {
    /// The path of the fragment.
    pub path: PathBuf,
    /// Whether the fragment already existed.
    pub was_there: bool,
    /// The description of the fragment.
    pub fragment: Fragment,
}

/// Starts the job of a worker: writes and verifies the share of `partition` of an output, as a
/// fragment in `OUT.partial`.
pub(crate) fn start(
    checkpoint: Arc<Checkpoint>,
    request: Request,
    described: FragmentRequest,
    partition: Partition,
    threads: Option<usize>,
) -> std::io::Result<Job<SaveEvent<Made>>> {
    let job = PendingJob::new("partition", Arc::default(), move |progress, sender| {
        let phase = |name| _ = sender.send(SaveEvent::Phase(name));
        let worker =
            Worker { checkpoint: &checkpoint, request: &request, partition, threads, progress };
        let outcome = worker.run(described, &phase);
        let _ = sender.send(SaveEvent::Finished(Box::new(outcome)));
    });
    job.start()
}

/// Starts the job that combines the fragments of an output.
pub(crate) fn start_join(
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

/// One of several workers.
struct Worker<'w> {
    checkpoint: &'w Checkpoint,
    request: &'w Request,
    partition: Partition,
    threads: Option<usize>,
    progress: &'w Progress,
}

impl Worker<'_> {
    fn run(
        &self,
        described: FragmentRequest,
        phase: &dyn Fn(&'static str),
    ) -> Result<Made, JobError> {
        let Worker { checkpoint, request, partition, threads, progress } = *self;
        if let Task::Quantize { plan, .. } = &request.task
            && !plan.compensation.tensors().is_empty()
        {
            let why = "errors are compensated on one machine only: leave --partition out";
            let (path, why) = (request.out.clone(), why.to_owned());
            return Err(SaveError::Unfit { path, why }.into());
        }
        let output_plan = OutputPlan::new(checkpoint, request)?;
        let share = share(checkpoint, &output_plan, partition);
        let bytes = share.bytes(&output_plan);
        export::check(checkpoint, request, bytes)?;
        let directory = PartialDirectory::of(&request.out)?;
        let identity =
            Identity { source: source_identity(checkpoint), plan: plan_identity(&output_plan) };
        let found = directory.read()?;
        directory.check_others(&found, partition, &identity)?;
        let path = directory.path_of(partition);
        if let Some((_, fragment)) = found.into_iter().find(|(other, _)| *other == partition) {
            return Ok(Made { path, was_there: true, fragment });
        }
        progress.expect(2 * bytes);

        phase("calibrating");
        let mine: HashSet<(usize, usize)> = share.entries.iter().copied().collect();
        let all = entry_chunks(checkpoint, &output_plan);
        let (known, pieces) = self.calibrate(&output_plan, &share, all, &mine)?;

        phase("writing");
        let unfinished = directory.begin(partition)?;
        let files = FragmentFiles { data: unfinished.data(), request, output_plan: &output_plan };
        files.create()?;
        files.write(checkpoint, &pieces, &known, threads, progress)?;
        progress.check()?;

        phase("verifying");
        let tensors = self.verify(&files, &share, known)?;
        files.remove_others(&share)?;
        let pieces = files.pieces(&share);
        let digests = digests(&pieces, threads, progress)?;
        let fragment = Fragment {
            quantscope: env!("CARGO_PKG_VERSION").to_owned(),
            partition: partition.to_string(),
            identity,
            request: described,
            files: files.described(&pieces, digests),
            tensors,
        };
        phase("syncing to disk");
        progress.check()?;
        let first = unfinished.commit(&directory, partition, &fragment)?;
        Ok(Made { path, was_there: !first, fragment })
    }

    /// Computes the scales that the worker's tensors need before they are quantized, and selects the
    /// pieces that the worker writes: its entries, and those that depend only on the plan.
    fn calibrate(
        &self,
        output_plan: &OutputPlan,
        share: &Share,
        all: Vec<EntryChunks>,
        mine: &HashSet<(usize, usize)>,
    ) -> Result<(KnownScales, Vec<EntryChunks>), JobError> {
        // A global scale depends on all tensors that share it, even if other workers write them.
        let related: HashSet<TensorId> = output_plan
            .scaled_together
            .iter()
            .filter(|unit| unit.iter().any(|id| share.tensors.contains(id)))
            .flatten()
            .chain(&share.tensors)
            .copied()
            .collect();
        let wanted = all.iter().filter_map(|piece| piece.calibrate);
        let wanted = wanted.filter(|(id, _)| related.contains(id));
        let wanted = wanted.map(|(id, quantizer)| (id, quantizer, output_plan.rounding));
        let mut known = KnownScales::new();
        calibrate(self.checkpoint, wanted, &mut known, self.threads, self.progress, &|_, _| {})?;
        share_absmax(&output_plan.scaled_together, &mut known);
        let is_literal = |piece: &EntryChunks| {
            let file = output_plan.files.get(piece.file);
            let entry = file.and_then(|file| file.entries.get(piece.entry));
            entry.is_some_and(|entry| matches!(entry.made_from, MadeFrom::Literal(_)))
        };
        let kept = all
            .into_iter()
            .filter(|piece| mine.contains(&(piece.file, piece.entry)) || is_literal(piece));
        Ok((known, kept.collect()))
    }

    /// Reopens the worker's files and compares its tensors with the source.
    fn verify(
        &self,
        files: &FragmentFiles,
        share: &Share,
        known: KnownScales,
    ) -> Result<Vec<FragmentTensor>, JobError> {
        let checkpoint = self.checkpoint;
        let written = Checkpoint::open(&files.entry_point()).map_err(SaveError::from)?;
        let pairing = Pairing::new(&written, checkpoint)?;
        let tensors = Some(&share.tensors);
        let verification = verify::tensors(&pairing, tensors, known, self.threads, self.progress)?;
        let tensors = verification.tensors.iter().map(|verified| {
            let outcome = match verified.matched {
                Match::Identical => Outcome::Unchanged,
                Match::Dequantized(_) => Outcome::Dequantized,
                _ => Outcome::Quantized,
            };
            let sqnr_db = verified.error.map(|error| error.statistics().sqnr_db);
            FragmentTensor {
                name: checkpoint.tensor(verified.source).name.to_string(),
                outcome,
                scheme: verified.quantizer.map(|quantizer| quantizer.scheme.to_string()),
                sqnr_db: sqnr_db.filter(|db| db.is_finite()),
                sums: verified.error.as_ref().and_then(sums_text),
            }
        });
        Ok(tensors.collect())
    }
}

/// The files of a fragment. Every file of the output has its full length, but only the worker's
/// part is written; the rest is sparse on most file systems.
struct FragmentFiles<'f> {
    data: PathBuf,
    request: &'f Request,
    output_plan: &'f OutputPlan,
}

/// A range of a file that one digest covers.
struct Piece {
    file: usize,
    path: PathBuf,
    range: Range<u64>,
}

impl FragmentFiles<'_> {
    fn path_of(&self, file: &OutFile) -> PathBuf {
        file_path(&self.data, self.request, self.output_plan, file)
    }

    /// The path that opens the files as one checkpoint.
    fn entry_point(&self) -> PathBuf {
        match (self.output_plan.entry_point(), self.output_plan.files.first()) {
            (Some(name), _) => self.data.join(name),
            (None, Some(file)) if !self.output_plan.directory => self.path_of(file),
            (None, _) => self.data.clone(),
        }
    }

    fn create(&self) -> Result<(), SaveError> {
        for file in &self.output_plan.files {
            let path = self.path_of(file);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).context(parent)?;
            }
            let created = File::create(&path).and_then(|mut handle| {
                handle.write_all(&file.head)?;
                handle.set_len(file.size())
            });
            created.context(&path)?;
        }
        for text in &self.output_plan.texts {
            let path = self.data.join(&text.name);
            fs::write(&path, &text.text).context(&path)?;
        }
        Ok(())
    }

    fn write(
        &self,
        checkpoint: &Checkpoint,
        pieces: &[EntryChunks],
        known: &KnownScales,
        threads: Option<usize>,
        progress: &Progress,
    ) -> Result<(), JobError> {
        let (written, failed) = with_background_sync(|sync| {
            let writers = Writers::new(progress, sync);
            let written =
                write_pieces(self, checkpoint, pieces, known, &writers, threads, progress);
            sync.all_written();
            written
        });
        match failed {
            Some(error) => Err(error.into()),
            None => written,
        }
    }

    /// Removes the files that contain no part of the worker's share.
    fn remove_others(&self, share: &Share) -> Result<(), SaveError> {
        for (number, file) in self.output_plan.files.iter().enumerate() {
            let path = self.path_of(file);
            if !share.entries.iter().any(|(of, _)| *of == number) {
                fs::remove_file(&path).context(&path)?;
            }
        }
        for text in &self.output_plan.texts {
            let path = self.data.join(&text.name);
            fs::remove_file(&path).context(&path)?;
        }
        Ok(())
    }

    /// The ranges of the worker's entries, divided into pieces of one digest each.
    fn pieces(&self, share: &Share) -> Vec<Piece> {
        let files = self.output_plan.files.iter().enumerate();
        files
            .flat_map(|(file, out)| {
                let path = self.path_of(out);
                let ranges = expected_pieces(share, self.output_plan, file);
                ranges.into_iter().map(move |range| Piece { file, path: path.clone(), range })
            })
            .collect()
    }

    fn described(&self, pieces: &[Piece], digests: Vec<String>) -> Vec<FragmentFile> {
        let mut described: Vec<FragmentFile> = Vec::new();
        let mut last = None;
        for (piece, digest) in pieces.iter().zip(digests) {
            let Some(file) = self.output_plan.files.get(piece.file) else { continue };
            if last != Some(piece.file) {
                let (name, bytes) = (file.name.clone(), file.size());
                described.push(FragmentFile { name, bytes, pieces: Vec::new() });
                last = Some(piece.file);
            }
            let (start, bytes) = (piece.range.start, piece.range.end - piece.range.start);
            if let Some(file) = described.last_mut() {
                file.pieces.push(FragmentPiece { start, bytes, digest });
            }
        }
        described
    }
}

fn write_pieces<'s>(
    files: &FragmentFiles,
    checkpoint: &Checkpoint,
    pieces: &[EntryChunks],
    known: &KnownScales,
    writers: &Writers<'s>,
    threads: Option<usize>,
    progress: &Progress,
) -> Result<(), JobError> {
    let counts = pieces.iter().map(|piece| piece.chunks.count());
    each_chunk(counts, threads, progress, || {
        let mut encoder = ChunkEncoder::new(checkpoint, files.output_plan, known);
        let mut open: Option<(usize, Arc<Writer<'s>>)> = None;
        move |number, k| {
            let Some(piece) = pieces.get(number) else { return Ok(()) };
            let Some(file) = files.output_plan.files.get(piece.file) else { return Ok(()) };
            let writer = match open.take() {
                Some((number, writer)) if number == piece.file => writer,
                _ => writers.open(&files.path_of(file))?,
            };
            let made = encoder.encode(file, piece.entry, &piece.chunks, k, &mut &*writer);
            open = Some((piece.file, writer));
            Ok(made?)
        }
    })
}

/// The path of an output file inside a fragment.
fn file_path(data: &Path, request: &Request, output_plan: &OutputPlan, file: &OutFile) -> PathBuf {
    if output_plan.directory {
        data.join(&file.name)
    } else {
        // The extension determines the format with which the file is opened.
        data.join(request.out.file_name().unwrap_or_default())
    }
}

/// The pieces of a file that belong to a share's fragment.
fn expected_pieces(share: &Share, output_plan: &OutputPlan, file: usize) -> Vec<Range<u64>> {
    let ranges = share.ranges(output_plan, file);
    let cut = |range: Range<u64>| {
        let starts = (range.start..range.end).step_by(PIECE_BYTES as usize);
        starts.map(move |start| start..range.end.min(start + PIECE_BYTES))
    };
    ranges.into_iter().flat_map(cut).collect()
}

/// The digest of each piece, computed on all cores.
fn digests(
    pieces: &[Piece],
    threads: Option<usize>,
    progress: &Progress,
) -> Result<Vec<String>, JobError> {
    let digests = Mutex::new(vec![String::new(); pieces.len()]);
    let found = &digests;
    each_chunk(pieces.iter().map(|_| 1), threads, progress, || {
        move |number, _| {
            let Some(Piece { path, range, .. }) = pieces.get(number) else { return Ok(()) };
            let mut file = File::open(path).context(path)?;
            file.seek(SeekFrom::Start(range.start)).context(path)?;
            let digest = digest_of(&mut file.take(range.end - range.start), |_| Ok(()));
            let digest = digest.context(path)?;
            if let Some(place) = lock(found).get_mut(number) {
                *place = digest;
            }
            Ok(())
        }
    })?;
    Ok(digests.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// One piece of the output, and the file of a fragment that contains it.
struct JoinPiece<'j> {
    file: usize,
    from: PathBuf,
    described: &'j FragmentPiece,
}

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
    let identity =
        Identity { source: source_identity(checkpoint), plan: plan_identity(&output_plan) };
    let fragments = directory.complete(&identity)?;
    let pieces = join_pieces(checkpoint, request, &output_plan, &directory, &fragments)?;
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
    let _ = fs::remove_dir_all(directory.path());
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
        let mut described = fragment.files.iter().peekable();
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
            let length = fs::metadata(&from).context(&from)?.len();
            if length != file.size() {
                let why = format!("it has {length} bytes, expected {}", file.size());
                return Err(SaveError::FileDiffers { path: from, why });
            }
            let of_file = found.pieces.iter();
            pieces.extend(of_file.map(|described| JoinPiece {
                file: number,
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
    let digest = digest.context(to.unwrap_or(from))?;
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
    let tensors = || fragments.iter().flat_map(|(_, fragment)| &fragment.tensors);
    let count = |outcome| tensors().filter(|tensor| tensor.outcome == outcome).count();
    let quantized = tensors().filter_map(|tensor| {
        Some(Comparison {
            tensor: tensor.name.clone(),
            scheme: tensor.scheme.clone()?,
            on_disk: tensor.error_sums()?.statistics(),
            output: None,
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
