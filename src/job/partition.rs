//! Writes and verifies the share of one of several workers in an output, as a fragment. `join`
//! combines it with the others.

use super::background_sync::with_background_sync;
use super::calibration::calibrate;
use super::entry_chunks::{EntryChunks, entry_chunks};
use super::recorded_inputs::{WriteOrder, check_inputs};
use super::save::{SaveEvent, output_comparison};
use super::writers::{Writer, Writers};
use super::{Job, JobError, PendingJob, Progress, each_chunk, lock, verify};
use crate::checkpoint::Checkpoint;
use crate::export::partition::bucket_output::BucketOutput;
use crate::export::partition::fragment::{
    Fragment, FragmentContent, FragmentFile, FragmentOrigin, FragmentPiece, FragmentRequest,
    FragmentTensor, Identity, Outcome, PartialDirectory, sums_text,
};
use crate::export::partition::identity::{
    digest_of, plan_identity, recordings_identity, source_identity,
};
use crate::export::partition::shares::{Share, share};
use crate::export::{
    self, ChunkEncoder, CompensatedTensors, KnownScales, MadeFrom, Match, OutFile,
    OutputComparison, OutputPlan, Pairing, Partition, Request, SaveError, Task, TextFile,
    share_absmax,
};
use crate::path_error::IoContext;
use crate::quantization::compensation::RecordedInputs;
use crate::tensor::TensorId;
use std::collections::HashSet;
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
/// fragment in `OUT.partial`. `described` is what `join` needs, and the command for messages.
pub(crate) fn start(
    checkpoint: Arc<Checkpoint>,
    request: Request,
    described: (FragmentRequest, String),
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
        (described, command): (FragmentRequest, String),
        phase: &dyn Fn(&'static str),
    ) -> Result<Made, JobError> {
        let Worker { checkpoint, request, partition, threads, progress } = *self;
        let directory = PartialDirectory::of(&request.out)?;
        let output_plan = OutputPlan::new(checkpoint, request)?;
        let share = share(checkpoint, &output_plan, partition);
        let bytes = share.bytes(&output_plan);
        if directory.is_in_bucket() {
            BucketOutput::new(&request.out, &output_plan)?.check_room(bytes)?;
        } else {
            export::check(checkpoint, request, bytes)?;
        }
        check_inputs(checkpoint, request)?;
        let identity = Identity {
            source: source_identity(checkpoint),
            plan: plan_identity(&output_plan),
            inputs: inputs_identity(request),
        };
        let found = directory.origins()?;
        directory.check_others(&found, partition, &identity)?;
        let path = directory.path_of(partition);
        if found.iter().any(|(other, _)| *other == partition) {
            let fragment = directory.describe(partition)?;
            return Ok(Made { path, was_there: true, fragment });
        }
        progress.expect(2 * bytes);

        phase("calibrating");
        let mine: HashSet<(usize, usize)> = share.entries.iter().copied().collect();
        let all = entry_chunks(checkpoint, &output_plan);
        let (known, pieces) = self.calibrate(&output_plan, &share, all, &mine)?;

        phase("writing");
        let unfinished = directory.begin(partition)?;
        let (data, share) = (unfinished.data(), &share);
        let files = FragmentFiles { data, request, output_plan: &output_plan, share };
        files.create()?;
        let compensated = CompensatedTensors::default();
        let order = WriteOrder {
            checkpoint,
            request,
            output_plan: &output_plan,
            pieces: &pieces,
            threads,
            progress,
        };
        files.write(&order, &known, &compensated, phase)?;
        progress.check()?;

        phase("verifying");
        let tensors = self.verify(&files, known, &compensated)?;
        files.remove_others()?;
        let pieces = files.pieces();
        let digests = digests(&pieces, threads, progress)?;
        let content = FragmentContent { files: files.described(&pieces, digests), tensors };
        let origin = FragmentOrigin::new(partition, identity, command);
        let fragment = Fragment { origin, content };
        phase(if directory.is_in_bucket() { "uploading" } else { "syncing to disk" });
        progress.check()?;
        let first = unfinished.commit(&directory, partition, &fragment, &described)?;
        Ok(Made { path, was_there: !first, fragment })
    }

    /// Computes the scales that the worker's tensors need before they are quantized, and selects the
    /// pieces that the worker writes: its entries, and those of its files that depend only on the
    /// plan.
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
        let files: HashSet<usize> = share.entries.iter().map(|(file, _)| *file).collect();
        let is_kept = |piece: &EntryChunks| {
            let is_literal = || files.contains(&piece.file) && is_literal(piece);
            mine.contains(&(piece.file, piece.entry)) || is_literal()
        };
        let kept = all.into_iter().filter(is_kept);
        Ok((known, kept.collect()))
    }

    /// Reopens the worker's files and compares its tensors with the source.
    fn verify(
        &self,
        files: &FragmentFiles,
        known: KnownScales,
        compensated: &CompensatedTensors,
    ) -> Result<Vec<FragmentTensor>, JobError> {
        let checkpoint = self.checkpoint;
        let written = files.open()?;
        let pairing = Pairing::of_share(&written, checkpoint, &files.share.tensors)?
            .with_importance(files.output_plan.importance.clone())
            .with_written(compensated);
        let tensors = Some(&files.share.tensors);
        let verification = verify::tensors(&pairing, tensors, known, self.threads, self.progress)?;
        let tensors = verification.tensors.iter().map(|verified| {
            let outcome = match verified.matched {
                Match::Identical => Outcome::Unchanged,
                Match::Dequantized(_) => Outcome::Dequantized,
                _ => Outcome::Quantized,
            };
            let sqnr_db = verified.error.map(|error| error.statistics().sqnr_db);
            let output = compensated.error(verified.source).map(output_comparison);
            let is_finite =
                |found: &OutputComparison| (found.nearest_db + found.saved_db()).is_finite();
            FragmentTensor {
                name: checkpoint.tensor(verified.source).name.to_string(),
                outcome,
                scheme: verified.quantizer.map(|quantizer| quantizer.scheme.to_string()),
                sqnr_db: sqnr_db.filter(|db| db.is_finite()),
                sums: verified.error.as_ref().and_then(sums_text),
                // JSON has no infinities.
                output: output.filter(is_finite),
            }
        });
        Ok(tensors.collect())
    }
}

/// Identifies the recorded inputs that tensors are rounded for; `None` if there are none.
fn inputs_identity(request: &Request) -> Option<String> {
    let Task::Quantize { plan, .. } = &request.task else { return None };
    let by_inputs = Some(&plan.by_inputs).filter(|found| !found.is_empty());
    by_inputs?.activations().map(|activations| recordings_identity(activations))
}

/// The files of a fragment: those of the output that hold entries of the worker. Every file has its
/// full length, but only the worker's part is written; the rest is sparse on most file systems.
struct FragmentFiles<'f> {
    data: PathBuf,
    request: &'f Request,
    output_plan: &'f OutputPlan,
    share: &'f Share,
}

/// Whether a file of an output directory is a part of a split GGUF.
fn is_split_part(file: &OutFile) -> bool {
    file.name.ends_with(".gguf")
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

    /// The output's files that hold entries of the worker. The parts of a split GGUF open only
    /// together.
    fn files(&self) -> impl Iterator<Item = &OutFile> {
        let with_entries: HashSet<usize> =
            self.share.entries.iter().map(|(file, _)| *file).collect();
        let is_needed =
            move |number, file: &OutFile| with_entries.contains(&number) || is_split_part(file);
        let files = self.output_plan.files.iter().enumerate();
        files.filter(move |(number, file)| is_needed(*number, file)).map(|(_, file)| file)
    }

    /// Opens the files as one checkpoint.
    fn open(&self) -> Result<Checkpoint, SaveError> {
        let OutputPlan { directory, files, .. } = self.output_plan;
        let opened = match files.first() {
            Some(file) if !directory || is_split_part(file) => {
                Checkpoint::open(&self.path_of(file))
            }
            _ => {
                let names: Vec<&str> = self.files().map(|file| file.name.as_str()).collect();
                Checkpoint::open_shards(&self.data, &names)
            }
        };
        Ok(opened?)
    }

    /// The text files without the index of all shards.
    fn texts(&self) -> impl Iterator<Item = &TextFile> {
        let texts = self.output_plan.texts.iter();
        texts.filter(|text| !text.name.ends_with(".index.json"))
    }

    fn create(&self) -> Result<(), SaveError> {
        for file in self.files() {
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
        for text in self.texts() {
            let path = self.data.join(&text.name);
            fs::write(&path, &text.text).context(&path)?;
        }
        Ok(())
    }

    /// Writes the worker's pieces, and records what is written of compensated tensors.
    fn write(
        &self,
        order: &WriteOrder,
        known: &KnownScales,
        compensated: &CompensatedTensors,
        phase: &dyn Fn(&'static str),
    ) -> Result<(), JobError> {
        let (written, failed) = with_background_sync(|sync| {
            let writers = Writers::new(order.progress, sync);
            let written = order.each(phase, |numbers, inputs| {
                let inputs = inputs.map(|inputs| (inputs, compensated));
                write_pieces(self, order, numbers, known, inputs, &writers)
            });
            sync.all_written();
            written
        });
        match failed {
            Some(error) => Err(error.into()),
            None => written,
        }
    }

    /// Removes the files that contain no part of the worker's share.
    fn remove_others(&self) -> Result<(), SaveError> {
        let with_entries: HashSet<usize> =
            self.share.entries.iter().map(|(file, _)| *file).collect();
        for (number, file) in self.output_plan.files.iter().enumerate() {
            let path = self.path_of(file);
            if is_split_part(file) && !with_entries.contains(&number) {
                fs::remove_file(&path).context(&path)?;
            }
        }
        for text in self.texts() {
            let path = self.data.join(&text.name);
            fs::remove_file(&path).context(&path)?;
        }
        Ok(())
    }

    /// The ranges of the worker's entries, divided into pieces of one digest each.
    fn pieces(&self) -> Vec<Piece> {
        let files = self.output_plan.files.iter().enumerate();
        files
            .flat_map(|(file, out)| {
                let path = self.path_of(out);
                let ranges = expected_pieces(self.share, self.output_plan, file);
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
    order: &WriteOrder,
    numbers: &[usize],
    known: &KnownScales,
    inputs: Option<(&RecordedInputs, &CompensatedTensors)>,
    writers: &Writers<'s>,
) -> Result<(), JobError> {
    let WriteOrder { checkpoint, pieces, threads, progress, .. } = *order;
    let counts = numbers.iter().filter_map(|&number| pieces.get(number));
    let counts = counts.map(|piece| piece.chunks.count());
    each_chunk(counts, threads, progress, || {
        let mut encoder = ChunkEncoder::new(checkpoint, files.output_plan, known);
        if let Some((inputs, written)) = inputs {
            encoder = encoder.for_inputs(inputs, written);
        }
        let mut open: Option<(usize, Arc<Writer<'s>>)> = None;
        move |at, k| {
            let Some(piece) = numbers.get(at).and_then(|&number| pieces.get(number)) else {
                return Ok(());
            };
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
pub(super) fn file_path(
    data: &Path,
    request: &Request,
    output_plan: &OutputPlan,
    file: &OutFile,
) -> PathBuf {
    if output_plan.directory {
        data.join(&file.name)
    } else {
        // The extension determines the format with which the file is opened.
        data.join(request.out.file_name().unwrap_or_default())
    }
}

/// The pieces of a file that belong to a share's fragment.
pub(super) fn expected_pieces(
    share: &Share,
    output_plan: &OutputPlan,
    file: usize,
) -> Vec<Range<u64>> {
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
