//! Saves a checkpoint. All cores encode chunks and write them to their place; then the output
//! is reopened and compared with the source before it is renamed to OUT.

use super::background_sync::{BackgroundSync, with_background_sync};
use super::writers::{Writer, Writers, failed_write};
use super::{Job, JobError, PendingJob, Progress, lock, scan, verify};
use crate::checkpoint::Checkpoint;
use crate::export::verify::file_verifier::compare_with_plan;
use crate::export::{
    self, AtomicOutput, ChunkEncoder, Comparison, KnownScales, Match, OutputPlan, Pairing, Receipt,
    Request, SaveError, Task, share_absmax,
};
use crate::quantization::{AnalysisSpec, Chunks, Preset, Quantizer, Rounding};
use crate::tensor::TensorId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What a save reports while it runs.
#[derive(Debug)]
pub enum SaveEvent {
    /// A new phase begins; the text names it, such as `writing`.
    Phase(&'static str),
    /// The save has ended, with its receipt or an error.
    Finished(Box<Result<Receipt, JobError>>),
}

/// Starts the job of [`prepare`] on a thread of its own.
pub fn start(
    checkpoint: Arc<Checkpoint>,
    request: Request,
    known: KnownScales,
    threads: Option<usize>,
) -> std::io::Result<Job<SaveEvent>> {
    prepare(checkpoint, request, known, threads).start()
}

/// A job that saves. Its progress counts bytes read and written, including verification.
/// `known` has the scales of tensors that were calibrated before with the quantizers of the
/// request's plan; the others are calibrated first.
pub fn prepare(
    checkpoint: Arc<Checkpoint>,
    request: Request,
    known: KnownScales,
    threads: Option<usize>,
) -> PendingJob<SaveEvent> {
    PendingJob::new("save", Arc::new(Progress::default()), move |progress, sender| {
        let phase = |name| _ = sender.send(SaveEvent::Phase(name));
        let outcome = run_with_scales(&checkpoint, &request, known, threads, progress, &phase);
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
    run_with_scales(checkpoint, request, KnownScales::new(), threads, progress, phase)
}

fn run_with_scales(
    checkpoint: &Checkpoint,
    request: &Request,
    known: KnownScales,
    threads: Option<usize>,
    progress: &Progress,
    phase: &dyn Fn(&'static str),
) -> Result<Receipt, JobError> {
    let saved = save(checkpoint, request, known, threads, progress, phase);
    saved.map_err(|error| match error {
        JobError::Stopped(why) => JobError::SaveStopped(why),
        error => error,
    })
}

fn save(
    checkpoint: &Checkpoint,
    request: &Request,
    mut known: KnownScales,
    threads: Option<usize>,
    progress: &Progress,
    phase: &dyn Fn(&'static str),
) -> Result<Receipt, JobError> {
    let output_plan = OutputPlan::new(checkpoint, request)?;
    export::check(checkpoint, request, output_plan.bytes())?;
    let pieces = pieces(checkpoint, &output_plan);
    progress.expect(2 * output_plan.bytes());

    phase("calibrating");
    let rounding = output_plan.rounding;
    let wanted = pieces.iter().filter_map(|piece| piece.calibrate);
    let wanted = wanted.map(|(id, quantizer)| (id, quantizer, rounding));
    calibrate(checkpoint, wanted, &mut known, threads, progress)?;
    share_absmax(&output_plan.scaled_together, &mut known);

    phase("writing");
    let output = AtomicOutput::create(request, &output_plan)?;
    let saving = Saving {
        checkpoint,
        request,
        output_plan: &output_plan,
        output: &output,
        threads,
        progress,
    };
    let (verification, failed) = with_background_sync(|sync| {
        saving.write(&pieces, &known, sync)?;
        sync.all_written();
        saving.write_sidecars()?;
        // Verification runs while the disk still syncs.
        phase("verifying");
        saving.verify(known)
    });
    if let Some((path, why)) = failed {
        return Err(failed_write(&path, why).into());
    }
    let verification = verification?;
    phase("syncing to disk");
    output.sync()?;
    progress.check()?;
    output.commit(request.force)?;
    Ok(receipt(checkpoint, request, &output_plan, verification, progress))
}

fn receipt(
    checkpoint: &Checkpoint,
    request: &Request,
    output_plan: &OutputPlan,
    verification: verify::Verification,
    progress: &Progress,
) -> Receipt {
    let scheme: HashMap<TensorId, Quantizer> = output_plan.quantized().collect();
    let quantized = verification.tensors.iter().filter_map(|tensor| {
        let error = tensor.error.as_ref()?;
        Some(Comparison {
            tensor: checkpoint.tensor(tensor.source).name.to_string(),
            scheme: scheme.get(&tensor.source)?.scheme.to_string(),
            on_disk: error.statistics(),
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
            Task::Dequantize { .. } => count(|how| matches!(how, Match::Dequantized(_))),
            Task::Quantize { .. } => 0,
        },
        unchanged: count(|how| *how == Match::Identical),
        sidecar_files: output_plan.sidecar_files.len(),
        left_out: output_plan.left_out.clone(),
        warnings: output_plan.warnings.clone(),
        elapsed: progress.elapsed(),
    }
}

/// One entry of an output file, whose chunks are to be encoded.
struct EntryChunks {
    file: usize,
    entry: usize,
    chunks: Chunks,
    /// The tensor whose scales must be found before the entry can be encoded.
    calibrate: Option<(TensorId, Quantizer)>,
}

fn pieces(checkpoint: &Checkpoint, output_plan: &OutputPlan) -> Vec<EntryChunks> {
    let mut pieces = Vec::new();
    for (file, out) in output_plan.files.iter().enumerate() {
        for (entry, described) in out.entries.iter().enumerate() {
            let Some(chunks) = described.chunks(checkpoint) else { continue };
            let calibrate = described.quantizer().filter(|(id, quantizer)| {
                let preset = quantizer.scheme.preset();
                preset.is_some_and(Preset::has_global_scale)
                    || !chunks
                        .hold(&quantizer.scheme.groups(described.grouped_shape(checkpoint, *id)))
            });
            pieces.push(EntryChunks { file, entry, chunks, calibrate });
        }
    }
    pieces
}

/// Finds the scales that are not known yet and must be before the elements are quantized.
pub(super) fn calibrate(
    checkpoint: &Checkpoint,
    wanted: impl Iterator<Item = (TensorId, Quantizer, Rounding)>,
    known: &mut KnownScales,
    threads: Option<usize>,
    progress: &Progress,
) -> Result<(), JobError> {
    let mut alike: Vec<((Quantizer, Rounding), Vec<TensorId>)> = Vec::new();
    for (id, quantizer, rounding) in wanted.filter(|(id, ..)| !known.contains_key(id)) {
        match alike.iter_mut().find(|(how, _)| *how == (quantizer, rounding)) {
            Some((_, ids)) => ids.push(id),
            None => alike.push(((quantizer, rounding), vec![id])),
        }
    }
    let calibrated = Mutex::new(known);
    let failed: Mutex<Option<SaveError>> = Mutex::new(None);
    for ((quantizer, rounding), ids) in alike {
        progress.expect(scan::float_bytes(checkpoint, ids.iter().copied()));
        let spec =
            AnalysisSpec { keep_scales: true, ..AnalysisSpec::scales(vec![quantizer], rounding) };
        let order = scan::Order::new(ids);
        scan::run(checkpoint, &spec, &order, threads, progress, &|(id, found)| {
            let scales = found.map_err(SaveError::from).and_then(|analysis| {
                let absmax = analysis.range.absmax() as f32;
                let has_global = quantizer.scheme.preset().is_some_and(Preset::has_global_scale);
                let result = analysis.outcomes.into_iter().next().map(|o| o.result);
                match result {
                    // All that is to be known of it is its largest magnitude.
                    Some(Ok(_)) if has_global => Ok(vec![absmax]),
                    Some(Ok(quantized)) => Ok(quantized.scales.all.unwrap_or_default()),
                    Some(Err(why)) => Err(SaveError::NotQuantizable {
                        path: checkpoint.path().to_owned(),
                        tensor: checkpoint.tensor(id).name.to_string(),
                        why,
                    }),
                    None => Ok(Vec::new()),
                }
            });
            match scales {
                Ok(scales) => _ = lock(&calibrated).insert(id, scales),
                Err(error) => _ = lock(&failed).get_or_insert(error),
            }
        })?;
    }
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// A save whose temporary output exists.
struct Saving<'s> {
    checkpoint: &'s Checkpoint,
    request: &'s Request,
    output_plan: &'s OutputPlan,
    output: &'s AtomicOutput,
    threads: Option<usize>,
    progress: &'s Progress,
}

impl Saving<'_> {
    fn write(
        &self,
        pieces: &[EntryChunks],
        known: &KnownScales,
        sync: &BackgroundSync,
    ) -> Result<(), JobError> {
        let writers = Writers::new(self.progress, sync);
        let counts = pieces.iter().map(|piece| piece.chunks.count());
        super::each_chunk(counts, self.threads, self.progress, || {
            let mut encoder = ChunkEncoder::new(self.checkpoint, self.output_plan, known);
            let mut open: Option<(usize, Arc<Writer>)> = None;
            let writers = &writers;
            move |number, k| {
                let Some(piece) = pieces.get(number) else { return Ok(()) };
                let Some(file) = self.output_plan.files.get(piece.file) else { return Ok(()) };
                let writer = match open.take() {
                    Some((number, writer)) if number == piece.file => writer,
                    _ => writers.open(&self.output.path_of(file))?,
                };
                let made = encoder.encode(file, piece.entry, &piece.chunks, k, &mut &*writer);
                open = Some((piece.file, writer));
                Ok(made?)
            }
        })
    }

    fn write_sidecars(&self) -> Result<(), JobError> {
        for text in &self.output_plan.texts {
            self.output.write_text(&text.name, &text.text)?;
        }
        for sidecar in &self.output_plan.sidecar_files {
            self.progress.check()?;
            self.output.copy(&sidecar.source, &sidecar.name, |bytes| {
                self.progress.advance(bytes);
                Ok::<(), JobError>(self.progress.check()?)
            })?;
        }
        Ok(())
    }

    /// Reopens the output, and compares all of it with the source.
    fn verify(&self, known: KnownScales) -> Result<verify::Verification, JobError> {
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
            let pairing = pairing.weighed_by(self.output_plan.importance.clone());
            let found = verify::tensors(&pairing, known, threads, progress)?;
            compare_with_plan(path, &self.request.task, self.output_plan, &|| {
                !progress.is_cancelled()
            })?;
            Ok(found)
        };
        verified().map_err(|e| match e {
            JobError::Save(e) => JobError::Save(e.renamed(path, &self.request.out)),
            stopped => stopped,
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::checkpoint::formats::safetensors::header_bytes;
    use crate::export::OutputFormat;
    use crate::export::Sink;
    use crate::plan::Plan;
    use crate::quantization::QuantizationScheme;
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
            let pieces = pieces(&checkpoint, &output_plan).into_iter();
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
