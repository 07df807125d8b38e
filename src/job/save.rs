//! Saves a checkpoint. All cores encode chunks and write them to their place; then the output
//! is reopened and compared with the source before it is renamed to OUT.
//!
//! A journal lists each written chunk with its digest. A save that finds the unfinished output of
//! an earlier save with the same journal resumes it. If the source is on a server, the output is
//! compared with the digests, because comparing it with the source would fetch the source again.

use super::background_sync::{BackgroundSync, with_background_sync};
use super::calibration::calibrate;
use super::entry_chunks::{EntryChunks, entry_chunks};
use super::finished_pieces::{FinishedPieces, Pieces};
use super::recorded_inputs::{WriteOrder, check_inputs};
use super::verify::{self, Verification, Verified};
use super::writers::{Writer, Writers};
use super::{Job, JobError, PendingJob, Progress};
use crate::checkpoint::Checkpoint;
use crate::export::journal::{CopyDigest, FinishedPiece, PieceDigest, Record};
use crate::export::verify::file_verifier::compare_with_plan;
use crate::export::{
    self, AtomicOutput, ChunkEncoder, Comparison, CompensatedTensors, KnownScales, Match,
    OutputComparison, OutputPlan, Pairing, Receipt, Request, SaveError, Sink, Task,
    VerifiedAgainst, share_absmax,
};
use crate::quantization::compensation::RecordedInputs;
use crate::quantization::{ErrorSums, OutputErrors, Quantizer};
use crate::tensor::TensorId;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// An event that a save, or a part of one, reports while it runs.
#[derive(Debug)]
pub enum SaveEvent<T = Receipt> {
    /// A new phase begins; the text names it, such as `writing`.
    Phase(&'static str),
    /// The job has ended, with its result or an error.
    Finished(Box<Result<T, JobError>>),
}

/// Starts the job of [`prepare`] on a new thread.
pub fn start(
    checkpoint: Arc<Checkpoint>,
    request: Request,
    known: KnownScales,
    against: Option<VerifiedAgainst>,
    threads: Option<usize>,
) -> std::io::Result<Job<SaveEvent>> {
    prepare(checkpoint, request, known, against, threads).start()
}

/// A job that saves. Its progress counts bytes read and written, including verification.
/// `known` has the scales of tensors that were calibrated before with the quantizers of the
/// request's plan; the others are calibrated first. The output is verified `against` the source or
/// the digests; `None` selects the digests if the source is on a server, and else the source.
pub fn prepare(
    checkpoint: Arc<Checkpoint>,
    request: Request,
    known: KnownScales,
    against: Option<VerifiedAgainst>,
    threads: Option<usize>,
) -> PendingJob<SaveEvent> {
    PendingJob::new("save", Arc::new(Progress::default()), move |progress, sender| {
        let phase = |name| _ = sender.send(SaveEvent::Phase(name));
        let (checkpoint, request) = (&*checkpoint, &request);
        let run = Run { checkpoint, request, against, threads, progress, phase: &phase };
        let outcome = run.save(known);
        let _ = sender.send(SaveEvent::Finished(Box::new(outcome)));
    })
}

/// Plans the output, writes, reopens, verifies and syncs it, and renames it to OUT. Calls
/// `phase` at the beginning of each phase.
pub fn run(
    checkpoint: &Checkpoint,
    request: &Request,
    threads: Option<usize>,
    progress: &Progress,
    phase: &dyn Fn(&'static str),
) -> Result<Receipt, JobError> {
    let run = Run { checkpoint, request, against: None, threads, progress, phase };
    run.save(KnownScales::new())
}

/// The parameters of a save.
struct Run<'r> {
    checkpoint: &'r Checkpoint,
    request: &'r Request,
    against: Option<VerifiedAgainst>,
    threads: Option<usize>,
    progress: &'r Progress,
    phase: &'r dyn Fn(&'static str),
}

impl Run<'_> {
    fn save(&self, known: KnownScales) -> Result<Receipt, JobError> {
        let Run { checkpoint, request, .. } = *self;
        let planned = OutputPlan::new(checkpoint, request).and_then(|output_plan| {
            export::check(checkpoint, request, output_plan.bytes())?;
            check_inputs(checkpoint, request)?;
            let output = AtomicOutput::create(checkpoint, request, &output_plan)?;
            Ok((output_plan, output))
        });
        let (output_plan, output) = planned?;
        match self.write_and_verify(&output_plan, &output, known) {
            Ok(receipt) => {
                output.commit(request.force)?;
                Ok(Receipt { elapsed: self.progress.elapsed(), ..receipt })
            }
            Err(error) => Err(match (output.abandon(error.leaves_sound_output()), error) {
                (Some(kept), error) => JobError::Unfinished { error: Box::new(error), kept },
                (None, JobError::Stopped(why)) => JobError::SaveStopped(why),
                (None, error) => error,
            }),
        }
    }

    /// Writes, verifies and syncs the whole output.
    fn write_and_verify(
        &self,
        output_plan: &OutputPlan,
        output: &AtomicOutput,
        mut known: KnownScales,
    ) -> Result<Receipt, JobError> {
        let Run { checkpoint, request, threads, progress, phase, .. } = *self;
        let entries = entry_chunks(checkpoint, output_plan);
        progress.expect(2 * output_plan.bytes());
        let pieces = Pieces { output, output_plan, entries: &entries };
        let finished = match output.journal() {
            None => FinishedPieces::default(),
            Some(journal) => {
                phase("checking finished pieces");
                pieces.find_finished(journal, &mut known, threads, progress)?
            }
        };

        phase("calibrating");
        let rounding = output_plan.rounding;
        let wanted = entries.iter().filter_map(|piece| piece.calibrate);
        let wanted = wanted.map(|(id, quantizer)| (id, quantizer, rounding));
        calibrate(checkpoint, wanted, &mut known, threads, progress, &|id, scales| {
            if let Some(journal) = output.journal() {
                journal.append(&Record::Scales { tensor: id.0, scales: scales.to_vec() });
            }
        })?;
        share_absmax(&output_plan.scaled_together, &mut known);

        phase("writing");
        let against = self.against.unwrap_or(if checkpoint.is_remote() {
            VerifiedAgainst::Digests
        } else {
            VerifiedAgainst::Source
        });
        let saving = Saving {
            checkpoint,
            request,
            output_plan,
            output,
            pieces,
            against,
            finished: &finished,
            compensated: CompensatedTensors::default(),
            threads,
            progress,
        };
        let (verification, failed) = with_background_sync(|sync| {
            saving.write(&known, sync, phase)?;
            sync.all_written();
            let copied = saving.write_sidecars()?;
            // Verification runs while the disk still syncs.
            phase("verifying");
            saving.verify(known, &copied)
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        let verification = verification?;
        phase("syncing to disk");
        output.sync()?;
        progress.check()?;
        let mut receipt = saving.receipt(verification);
        receipt.resumed = finished.bytes;
        if let Some(why) = output.unfit() {
            receipt.warnings.push(format!(
                "the output of an unfinished earlier save was made {why}; it was not used"
            ));
        }
        Ok(receipt)
    }
}

/// The figures of an output error.
pub(super) fn output_comparison(error: OutputErrors) -> OutputComparison {
    let db = |noise: f64| 10.0 * (noise / error.signal).log10();
    OutputComparison {
        nearest_db: db(error.nearest),
        clipped_db: error.clipped.map(db),
        compensated_db: error.compensated.map(db),
    }
}

/// A save whose temporary output exists.
struct Saving<'s> {
    checkpoint: &'s Checkpoint,
    request: &'s Request,
    output_plan: &'s OutputPlan,
    output: &'s AtomicOutput,
    pieces: Pieces<'s>,
    against: VerifiedAgainst,
    /// Pieces that need not be written.
    finished: &'s FinishedPieces,
    /// The checksums of the rows written of tensors that are rounded for their inputs.
    compensated: CompensatedTensors,
    threads: Option<usize>,
    progress: &'s Progress,
}

impl Saving<'_> {
    /// Writes all pieces.
    fn write(
        &self,
        known: &KnownScales,
        sync: &BackgroundSync,
        phase: &dyn Fn(&'static str),
    ) -> Result<(), JobError> {
        let writers = Writers::new(self.progress, sync);
        let Saving { checkpoint, request, output_plan, threads, progress, .. } = *self;
        let pieces = self.pieces.entries;
        let order = WriteOrder { checkpoint, request, output_plan, pieces, threads, progress };
        order.each(phase, |numbers, inputs| self.write_pieces(numbers, known, &writers, inputs))
    }

    /// Writes the pieces of these numbers.
    fn write_pieces(
        &self,
        numbers: &[usize],
        known: &KnownScales,
        writers: &Writers,
        inputs: Option<&RecordedInputs>,
    ) -> Result<(), JobError> {
        let pieces = self.pieces.entries;
        let counts = numbers.iter().filter_map(|&number| pieces.get(number));
        let counts = counts.map(|piece| piece.chunks.count());
        super::each_chunk(counts, self.threads, self.progress, || {
            let mut encoder = ChunkEncoder::new(self.checkpoint, self.output_plan, known);
            if let Some(inputs) = inputs {
                encoder = encoder.for_inputs(inputs, &self.compensated);
            }
            if self.against == VerifiedAgainst::Digests {
                encoder = encoder.measuring();
            }
            let mut open: Option<(usize, Arc<Writer>)> = None;
            move |at, k| {
                let Some(&number) = numbers.get(at) else { return Ok(()) };
                // An earlier save may have rounded for other inputs.
                if inputs.is_none() && self.finished.contains(number, k) {
                    return Ok(());
                }
                let Some(piece) = pieces.get(number) else { return Ok(()) };
                let Some(file) = self.output_plan.files.get(piece.file) else { return Ok(()) };
                let writer = match open.take() {
                    Some((number, writer)) if number == piece.file => writer,
                    _ => writers.open(&self.output.path_of(file))?,
                };
                let mut sink = DigestingSink::new(&writer);
                encoder.encode(file, piece.entry, &piece.chunks, k, &mut sink)?;
                let digest = sink.digest;
                open = Some((piece.file, writer));
                self.record_finished(piece, k, digest, encoder.take_error());
                Ok(())
            }
        })
    }

    /// Adds a piece to the journal.
    fn record_finished(
        &self,
        piece: &EntryChunks,
        chunk: u64,
        digest: Option<PieceDigest>,
        error: Option<ErrorSums>,
    ) {
        let (Some(journal), Some(digest)) = (self.output.journal(), digest) else { return };
        let (ranges, digest) = digest.finish();
        let (file, entry) = (piece.file as u32, piece.entry as u32);
        let piece = FinishedPiece { file, entry, chunk, ranges, digest, error };
        journal.append(&Record::Piece(piece));
    }

    /// Writes the text files and copies the sidecar files. Returns the digests of the copies.
    fn write_sidecars(&self) -> Result<HashMap<PathBuf, u128>, JobError> {
        let mut digests = HashMap::new();
        for text in &self.output_plan.texts {
            self.output.write_text(&text.name, &text.text)?;
        }
        for sidecar in &self.output_plan.sidecar_files {
            self.progress.check()?;
            let mut digest = CopyDigest::default();
            self.output.copy(&sidecar.source, &sidecar.name, |bytes| {
                digest.add(bytes);
                self.progress.advance(bytes.len() as u64);
                Ok::<(), JobError>(self.progress.check()?)
            })?;
            digests.insert(sidecar.name.clone(), digest.finish());
        }
        Ok(digests)
    }

    fn receipt(&self, (verification, against): (Verification, VerifiedAgainst)) -> Receipt {
        let Saving { checkpoint, request, output_plan, progress, .. } = *self;
        let scheme: HashMap<TensorId, Quantizer> = output_plan.quantized().collect();
        let quantized = verification.tensors.iter().filter_map(|tensor| {
            let error = tensor.error.as_ref()?;
            Some(Comparison {
                tensor: checkpoint.tensor(tensor.source).name.to_string(),
                scheme: scheme.get(&tensor.source)?.scheme.to_string(),
                on_disk: error.statistics(),
                output: self.compensated.error(tensor.source).map(output_comparison),
            })
        });
        let count =
            |is: fn(&Match) -> bool| verification.tensors.iter().filter(|t| is(&t.matched)).count();
        Receipt {
            out: request.out.clone(),
            files: output_plan.files.len(),
            before: checkpoint.total_bytes(),
            written: output_plan.bytes(),
            quantized: quantized.collect(),
            dequantized: match request.task {
                Task::Dequantize { .. } => {
                    count(|matched| matches!(matched, Match::Dequantized(_)))
                }
                Task::Quantize { .. } => 0,
            },
            unchanged: count(|matched| *matched == Match::Identical),
            texts: output_plan.texts.len(),
            sidecar_files: output_plan.sidecar_files.len(),
            left_out: output_plan.left_out.clone(),
            against,
            resumed: 0,
            warnings: output_plan.warnings.clone(),
            elapsed: progress.elapsed(),
        }
    }

    /// Reopens the output, and compares all of it with the source, or with the digests that were
    /// taken while it was written. `copied` has those of the sidecar files.
    fn verify(
        &self,
        known: KnownScales,
        copied: &HashMap<PathBuf, u128>,
    ) -> Result<(Verification, VerifiedAgainst), JobError> {
        let Saving { threads, progress, .. } = *self;
        let path = self.output.path();
        let written = match self.output_plan.entry_point() {
            // The directory may hold other weights too, which the user asked to have copied.
            Some(name) => Checkpoint::open(&path.join(name)),
            None => Checkpoint::open(path),
        };
        let written = written.map_err(SaveError::from)?;
        let verified = || {
            let pairing = Pairing::new(&written, self.checkpoint)?;
            let pairing = pairing
                .with_importance(self.output_plan.importance.clone())
                .with_written(&self.compensated);
            let (found, against) = match self.verify_digests(&pairing)? {
                Some(found) => (found, VerifiedAgainst::Digests),
                None => {
                    let found = verify::tensors(&pairing, None, known, threads, progress)?;
                    (found, VerifiedAgainst::Source)
                }
            };
            let none = HashMap::new();
            let copied = if against == VerifiedAgainst::Digests { copied } else { &none };
            let task = &self.request.task;
            compare_with_plan(path, task, self.output_plan, copied, &|| !progress.is_cancelled())?;
            Ok((found, against))
        };
        verified().map_err(|e| match e {
            JobError::Save(e) => JobError::Save(e.renamed(path, &self.request.out)),
            stopped => stopped,
        })
    }

    /// Compares the files with the digests computed while writing. Returns `None` if the save is
    /// verified against the source, or if some digests are missing.
    fn verify_digests(&self, pairing: &Pairing) -> Result<Option<Verification>, JobError> {
        let journal = self.output.journal();
        let Some(journal) = journal.filter(|_| self.against == VerifiedAgainst::Digests) else {
            return Ok(None);
        };
        let found = self.pieces.verify(journal, self.threads, self.progress)?;
        let Some(mut errors) = found else { return Ok(None) };
        let tensors = pairing.pairs.iter().map(|pair| Verified {
            out: pair.out,
            source: pair.source,
            matched: pair.matched.clone(),
            quantizer: pairing.quantizer(pair).map(|(quantizer, _)| quantizer),
            error: errors.remove(&pair.source),
        });
        Ok(Some(Verification { tensors: tensors.collect() }))
    }
}

/// A sink that digests everything an encoder writes.
struct DigestingSink<'w, 's> {
    writer: &'w Writer<'s>,
    /// `None` after blocks were shared, because their bytes were not read.
    digest: Option<PieceDigest>,
}

impl<'w, 's> DigestingSink<'w, 's> {
    fn new(writer: &'w Writer<'s>) -> Self {
        DigestingSink { writer, digest: Some(PieceDigest::default()) }
    }
}

impl Sink for DigestingSink<'_, '_> {
    fn write(&mut self, at: u64, bytes: &mut Vec<u8>) -> Result<(), SaveError> {
        if let Some(digest) = &mut self.digest {
            digest.add(at, bytes);
        }
        (&mut &*self.writer).write(at, bytes)
    }

    fn share(&mut self, at: u64, from: &File, start: u64, length: u64) -> Range<u64> {
        let shared = (&mut &*self.writer).share(at, from, start, length);
        if !shared.is_empty() {
            self.digest = None;
        }
        shared
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::checkpoint::formats::safetensors::header_bytes;
    use crate::export::OutputFormat;
    use crate::export::Sink;
    use crate::plan::Plan;
    use crate::quantization::{QuantizationScheme, Rounding};
    use crate::tensor::{DType, Shape};
    use std::fs::File;
    use std::ops::Range;

    /// If the file system cannot share blocks the range is copied, so this runs anywhere.
    #[test]
    fn an_output_with_shared_blocks_has_the_same_bytes() {
        let directory = tempfile::tempdir().expect("a directory");
        let name = |number: u32| format!("m-0000{number}-of-00002.safetensors");
        let shard = |number| directory.path().join(name(number));
        let sizes = [3, 500_001, 70_000, 3_000_000];
        let names: Vec<String> = sizes.iter().map(|size| format!("bytes.{size}")).collect();
        let shapes = sizes.map(Shape::vector);
        let tensors = names.iter().zip(sizes).zip(&shapes);
        let listed = tensors.map(|((n, size), shape)| (&**n, &DType::U8, shape, size));
        let mut bytes = header_bytes(&[("format".to_owned(), "pt".to_owned())], listed);
        bytes.extend((0..sizes.iter().sum::<u64>()).map(|n| (n % 251) as u8));
        std::fs::write(shard(1), &bytes).expect("writes");
        let matrix = Shape::new([2, 2]).expect("fits");
        let mut other = header_bytes(&[], [("weight", &DType::F32, &matrix, 16)]);
        other.extend([0; 16]);
        std::fs::write(shard(2), other).expect("writes");
        let names = names.iter().map(|name| (&**name, 1)).chain([("weight", 2)]);
        let map: serde_json::Map<_, _> =
            names.map(|(tensor, number)| (tensor.to_owned(), name(number).into())).collect();
        let index = serde_json::json!({ "weight_map": map }).to_string();
        std::fs::write(directory.path().join("model.safetensors.index.json"), index)
            .expect("writes");

        let checkpoint = Checkpoint::open(directory.path()).expect("opens");
        let plan = Plan::uniform(
            checkpoint.find("weight"),
            QuantizationScheme::PER_TENSOR,
            Rounding::default(),
        );
        let task = Task::Quantize { plan, format: OutputFormat::Safetensors };
        let request =
            Request { task, out: directory.path().join("out"), force: false, copy: Vec::new() };
        let output_plan = OutputPlan::new(&checkpoint, &request).expect("laid out");
        let file = &output_plan.files[0];
        let out = directory.path().join("made");
        std::fs::write(&out, &file.head).expect("writes");
        let (progress, known) = (Progress::default(), KnownScales::new());
        let mut shared = 0;
        let (done, failed) = with_background_sync(|sync| {
            let mut encoder = ChunkEncoder::new(&checkpoint, &output_plan, &known);
            let mut writer = Writer::open(&out, &progress, sync)?;
            writer.shares_blocks = true;
            let mut sink = Counting { writer: &writer, shared: &mut shared };
            let pieces = entry_chunks(&checkpoint, &output_plan).into_iter();
            for piece in pieces.filter(|piece| piece.file == 0) {
                for k in 0..piece.chunks.count() {
                    encoder.encode(file, piece.entry, &piece.chunks, k, &mut sink)?;
                }
            }
            Ok::<(), SaveError>(())
        });
        assert!(done.is_ok() && failed.is_none(), "{done:?} {failed:?}");
        assert_eq!(std::fs::read(&out).expect("reads"), bytes);
        assert_eq!(progress.done(), sizes.iter().sum::<u64>());
        assert!(shared > 3_400_000 && shared % 4096 == 0, "{shared}");
    }

    struct Counting<'s> {
        writer: &'s Writer<'s>,
        shared: &'s mut u64,
    }

    impl Sink for Counting<'_> {
        fn write(&mut self, at: u64, bytes: &mut Vec<u8>) -> Result<(), SaveError> {
            self.writer.write(at, bytes)
        }

        fn share(&mut self, at: u64, from: &File, start: u64, length: u64) -> Range<u64> {
            let shared = self.writer.share(at, from, start, length);
            *self.shared += shared.end - shared.start;
            shared
        }
    }
}
