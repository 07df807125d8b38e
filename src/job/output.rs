//! Measuring what quantizing loses in the layers' outputs, on all cores: first every
//! layer's inputs are calibrated and the weights' single scales found, then the products are
//! formed, some output channels at a time. A layer is reported once all its channels are
//! done; sums are added in the order of the channels, so that figures do not depend on the
//! number of threads.

use super::ordered_fold::OrderedFold;
use super::scan::{self, Order};
use super::{Job, Progress, Stopped, each_chunk, lock, panic_message};
use crate::activations::{
    Activations, ActivationsError, Layer, OutputError, OutputSums, Part, PartQuantizer, Recording,
    Source, input_scale, parts,
};
use crate::checkpoint::{Checkpoint, CheckpointError, Problem};
use crate::plan::effective_quantizer;
use crate::quantization::{
    Analysis, AnalysisSpec, Calibration, NotQuantizable, Preset, QuantizationScheme, Quantizer,
    Rounding,
};
use crate::tensor::{FloatType, TensorId};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The weights whose layers are measured, of those that were recorded.
    pub tensors: Vec<TensorId>,
    /// An error for each of these; none: inputs are calibrated and nothing is measured.
    pub quantizers: Vec<Quantizer>,
    pub rounding: Rounding,
    /// Of the inputs.
    pub calibration: Calibration,
}

/// What was found out about one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The scale of its inputs by the calibration; `None` if only mean squares are known.
    pub input_scale: Option<f32>,
    /// For each of the quantizers, as it was settled for this layer.
    pub errors: Vec<(Quantizer, Result<OutputError, NotQuantizable>)>,
}

impl Found {
    /// The error of a quantizer, if it was asked for and has one.
    pub fn error(&self, quantizer: Quantizer) -> Option<&OutputError> {
        let (_, error) = self.errors.iter().find(|(other, _)| *other == quantizer)?;
        error.as_ref().ok()
    }
}

pub type Finding = (TensorId, Result<Found, ActivationsError>);

/// Starts in the background.
pub fn start(
    checkpoint: Arc<Checkpoint>,
    activations: Arc<Activations>,
    request: Request,
    threads: Option<usize>,
) -> std::io::Result<Job<Finding>> {
    Job::start("output", Arc::new(Progress::default()), move |progress, sender| {
        let report = |finding| {
            if sender.send(finding).is_err() {
                progress.cancel();
            }
        };
        // Cancellation needs no word: whoever cancelled knows.
        let _ = run(&checkpoint, &activations, &request, threads, progress, &report);
    })
}

/// Measures every layer that was recorded, and reports each as it is finished.
pub fn run(
    checkpoint: &Checkpoint,
    activations: &Activations,
    request: &Request,
    threads: Option<usize>,
    progress: &Progress,
    report: &(dyn Fn(Finding) + Sync),
) -> Result<(), Stopped> {
    let recorded = |id: &TensorId| Some((*id, activations.get(*id)?));
    let layers: Vec<_> = request.tensors.iter().filter_map(recorded).collect();
    let measured = !request.quantizers.is_empty();
    progress.expect(layers.iter().map(|(_, recording)| input_bytes(recording)).sum());
    if measured {
        progress.expect(scan::float_bytes(checkpoint, layers.iter().map(|(id, _)| *id)));
        // The products take longest: every part goes through the inputs for every quantizer.
        let products = layers.iter().map(|(id, recording)| {
            let parts = parts(&checkpoint.tensor(*id).shape).len() as u64;
            product_bytes(recording, request).saturating_mul(parts)
        });
        progress.expect(products.sum());
    }
    let scales = scales(checkpoint, request, &layers, threads, progress)?;
    let work = Work { checkpoint, request, progress, scales };
    let report = Mutex::new(report);
    let prepared: Vec<Mutex<State>> = layers
        .iter()
        .map(|(id, recording)| {
            Mutex::new(State::Waiting(Layered {
                id: *id,
                recording,
                parts: parts(&checkpoint.tensor(*id).shape),
                input_scale: None,
                sums: OrderedFold::new(None),
            }))
        })
        .collect();

    stopped(each_chunk(layers.iter().map(|_| 1), threads, progress, || {
        let mut stream = activations.stream();
        let (work, prepared, report) = (&work, &prepared, &report);
        move |place, _| {
            let Some(state) = prepared.get(place) else { return Ok(()) };
            let (id, recording) = match &*lock(state) {
                State::Waiting(layer) => (layer.id, layer.recording),
                State::DoneLatch => return Ok(()),
            };
            let wanted = || !progress.is_cancelled();
            let calibrate = || input_scale(&mut stream, recording, request.calibration, &wanted);
            let found = catch_unwind(AssertUnwindSafe(calibrate))
                .unwrap_or_else(|panic| Err(work.panicked(id, panic.as_ref())));
            progress.advance(input_bytes(recording));
            match found {
                Ok(scale) if !measured => {
                    *lock(state) = State::DoneLatch;
                    let found = Found { input_scale: scale, errors: Vec::new() };
                    lock(report)((id, Ok(found)));
                }
                Ok(scale) => {
                    if let State::Waiting(layer) = &mut *lock(state) {
                        layer.input_scale = scale;
                    }
                }
                Err(error) => work.fail(state, id, error, report),
            }
            Ok(())
        }
    }))?;
    if !measured {
        return progress.check();
    }

    let counts = layers.iter().map(|(id, _)| parts(&checkpoint.tensor(*id).shape).len() as u64);
    stopped(each_chunk(counts, threads, progress, || {
        let mut stream = activations.stream();
        let mut reader = checkpoint.reader();
        let (work, prepared, report) = (&work, &prepared, &report);
        move |place, k| {
            let Some(state) = prepared.get(place) else { return Ok(()) };
            let (id, recording, part, scale) = match &*lock(state) {
                State::DoneLatch => return Ok(()),
                State::Waiting(layer) => {
                    let Some(part) = layer.parts.get(k as usize) else { return Ok(()) };
                    (layer.id, layer.recording, part.clone(), layer.input_scale)
                }
            };
            let shape = &checkpoint.tensor(id).shape;
            let measure = || -> Result<_, ActivationsError> {
                let range = part.elements(shape);
                let Some((dtype, bytes)) = reader.elements(id, range)? else { return Ok(None) };
                let asked = work.asked(id);
                let mut layer = Layer { recording, shape, stream: &mut stream, input_scale: scale };
                let wanted = || !progress.is_cancelled();
                layer.sums(&part, (dtype, bytes), &asked, &wanted).map(Some)
            };
            let found = catch_unwind(AssertUnwindSafe(measure))
                .unwrap_or_else(|panic| Err(work.panicked(id, panic.as_ref())));
            let elements = part.elements(shape);
            let size = checkpoint.float_type(id).map_or(0, FloatType::size) as u64;
            let looked_at = (elements.end - elements.start) * size;
            progress.advance(looked_at + product_bytes(recording, request));
            match found {
                Ok(Some(sums)) => work.add(state, k, sums, report),
                Ok(None) => {}
                Err(error) => work.fail(state, id, error, report),
            }
            Ok(())
        }
    }))
}

/// A layer that is being measured.
struct Layered<'a> {
    id: TensorId,
    recording: &'a Recording,
    parts: Vec<Part>,
    input_scale: Option<f32>,
    sums: OrderedFold<Sums, Option<Sums>>,
}

/// For each of the quantizers.
type Sums = Vec<Result<OutputSums, NotQuantizable>>;

enum State<'a> {
    Waiting(Layered<'a>),
    /// It was reported.
    DoneLatch,
}

struct Work<'a> {
    checkpoint: &'a Checkpoint,
    request: &'a Request,
    progress: &'a Progress,
    /// The scale of each quantizer that has one for the whole tensor.
    scales: HashMap<(TensorId, usize), f32>,
}

type Report<'r> = Mutex<&'r (dyn Fn(Finding) + Sync)>;

impl Work<'_> {
    fn asked(&self, id: TensorId) -> Vec<PartQuantizer<'_>> {
        let quantizers = self.request.quantizers.iter().enumerate();
        let asked = quantizers.map(|(place, &quantizer)| PartQuantizer {
            quantizer,
            rounding: self.request.rounding,
            scale: self.scales.get(&(id, place)).copied(),
            learned: self.checkpoint.learned(id),
        });
        asked.collect()
    }

    fn panicked(&self, id: TensorId, panic: &(dyn std::any::Any + Send)) -> ActivationsError {
        let name = &self.checkpoint.tensor(id).name;
        let problem = Problem::Panicked(panic_message(panic));
        CheckpointError::of_tensor(self.checkpoint.path(), name, problem).into()
    }

    /// One layer is told as failed; the others go on.
    fn fail(&self, state: &Mutex<State>, id: TensorId, error: ActivationsError, report: &Report) {
        if self.progress.is_cancelled() {
            return;
        }
        let before = std::mem::replace(&mut *lock(state), State::DoneLatch);
        if let State::Waiting(_) = before {
            lock(report)((id, Err(error)));
        }
    }

    fn add(&self, state: &Mutex<State>, k: u64, sums: Sums, report: &Report) {
        let mut held = lock(state);
        let State::Waiting(layer) = &mut *held else { return };
        let count = layer.parts.len() as u64;
        let Some(whole) = layer.sums.add(k, sums, count, merge).flatten() else { return };
        let (basis, knows) = Layer::basis(layer.recording, layer.input_scale);
        let error = |sums: OutputSums| OutputError { basis, sums, knows };
        let settled =
            |quantizer: &Quantizer| effective_quantizer(self.checkpoint, layer.id, *quantizer);
        let errors = self.request.quantizers.iter().map(settled).zip(whole);
        let errors = errors.map(|(quantizer, sums)| (quantizer, sums.map(error))).collect();
        let found = Found { input_scale: layer.input_scale, errors };
        let id = layer.id;
        *held = State::DoneLatch;
        drop(held);
        lock(report)((id, Ok(found)));
    }
}

fn merge(whole: &mut Option<Sums>, next: Sums) {
    let Some(whole) = whole else {
        *whole = Some(next);
        return;
    };
    for (sums, next) in whole.iter_mut().zip(next) {
        match (&mut *sums, next) {
            (Ok(sums), Ok(next)) => sums.merge(&next),
            (Ok(_), Err(why)) => *sums = Err(why),
            (Err(_), _) => {}
        }
    }
}

/// The scales of weights that have one each.
fn scales(
    checkpoint: &Checkpoint,
    request: &Request,
    layers: &[(TensorId, &Recording)],
    threads: Option<usize>,
    progress: &Progress,
) -> Result<HashMap<(TensorId, usize), f32>, Stopped> {
    let has_global =
        |quantizer: &Quantizer| quantizer.scheme.preset().is_some_and(Preset::has_global_scale);
    let single = |quantizer: &Quantizer| {
        matches!(quantizer.scheme, QuantizationScheme::PerTensor(..)) || has_global(quantizer)
    };
    let places: Vec<usize> = (0..request.quantizers.len())
        .filter(|&place| request.quantizers.get(place).is_some_and(single))
        .collect();
    let quantizers: Vec<_> = request.quantizers.iter().copied().filter(single).collect();
    let found = Mutex::new(HashMap::new());
    if quantizers.is_empty() {
        return Ok(HashMap::new());
    }
    let order = Order::new(layers.iter().map(|(id, _)| *id).collect());
    let questions = AnalysisSpec::scales(quantizers, request.rounding);
    progress.expect(scan::float_bytes(checkpoint, layers.iter().map(|(id, _)| *id)));
    let keep = |(id, analysis): scan::Finding| {
        // What has no scale or cannot be read is told when its channels are measured.
        let Ok(Analysis { outcomes, range, .. }) = analysis else { return };
        for (outcome, &place) in outcomes.iter().zip(&places) {
            if let Ok(quantized) = &outcome.result {
                let scale = match has_global(&outcome.quantizer) {
                    true => range.absmax() as f32,
                    false => quantized.scales.max,
                };
                lock(&found).insert((id, place), scale);
            }
        }
    };
    scan::run(checkpoint, &questions, &order, threads, progress, &keep)?;
    Ok(found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Bytes that calibrating a layer's inputs looks at.
fn input_bytes(recording: &Recording) -> u64 {
    match &recording.source {
        Source::Inputs(inputs) => inputs.elements().saturating_mul(4),
        Source::Summary(_) => 0,
    }
}

/// Bytes that the products of one part go through, once for each quantizer.
fn product_bytes(recording: &Recording, request: &Request) -> u64 {
    input_bytes(recording).saturating_mul(request.quantizers.len() as u64)
}

/// Chunks report their own failures, so nothing else can end the work.
fn stopped(done: Result<(), super::JobError>) -> Result<(), Stopped> {
    match done {
        Err(super::JobError::Stopped(stopped)) => Err(stopped),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn demo() -> Checkpoint {
        Checkpoint::open(Path::new("assets/demo.safetensors")).expect("opens")
    }

    fn request(checkpoint: &Checkpoint, schemes: &[QuantizationScheme]) -> Request {
        let calibration = Calibration::MinMax;
        Request {
            tensors: checkpoint.ids().collect(),
            quantizers: schemes.iter().map(|&scheme| Quantizer { calibration, scheme }).collect(),
            rounding: Rounding::HalfEven,
            calibration,
        }
    }

    fn findings(request: &Request, progress: &Progress) -> (Vec<Finding>, Result<(), Stopped>) {
        let checkpoint = demo();
        let path = PathBuf::from("assets/demo_activations.safetensors");
        let captures = Activations::open(&[path], &checkpoint).expect("opens");
        let found = Mutex::new(Vec::new());
        let keep = |finding: Finding| lock(&found).push(finding);
        let ended = run(&checkpoint, &captures, request, Some(2), progress, &keep);
        (found.into_inner().expect("whole"), ended)
    }

    #[test]
    fn a_layer_is_told_once_with_an_error_for_each_quantizer() {
        let checkpoint = demo();
        let schemes = [QuantizationScheme::PER_TENSOR, QuantizationScheme::per_block(32)];
        let progress = Progress::default();
        let (found, ended) = findings(&request(&checkpoint, &schemes), &progress);
        assert_eq!((found.len(), ended), (8, Ok(())));
        assert_eq!(progress.done(), progress.total());
        for (_, found) in found {
            let found = found.expect("measured");
            assert_eq!(found.errors.len(), 2);
            assert!(found.input_scale.is_some_and(|scale| scale > 0.0));
        }
        // Without quantizers inputs are calibrated and nothing else is done.
        let (found, _) = findings(&request(&checkpoint, &[]), &Progress::default());
        assert_eq!(found.len(), 8);
    }

    #[test]
    fn what_was_cancelled_tells_nothing() {
        let checkpoint = demo();
        let progress = Progress::default();
        progress.cancel();
        let asked = request(&checkpoint, &[QuantizationScheme::PER_CHANNEL]);
        let (found, ended) = findings(&asked, &progress);
        assert!(found.is_empty());
        assert_eq!(ended, Err(Stopped::Cancelled));
    }
}
