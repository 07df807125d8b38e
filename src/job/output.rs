//! Measures output errors of layers on all cores.
//!
//! First the inputs of every layer are calibrated and the per-tensor scales of the weights are
//! computed. Then the products are computed for a few output channels at a time. A layer is
//! reported once all its channels are done. Sums are added in the order of the channels, so the
//! figures do not depend on the number of threads.

use super::ordered_fold::OrderedFold;
use super::scan::{self, Order};
use super::{Job, Progress, Stopped, each_chunk, lock, panic_message};
use crate::activations::{
    Activations, ActivationsError, ChannelQuantizer, ChannelRange, Layer, OutputError, OutputSums,
    Recording, Source, channel_ranges, input_scale,
};
use crate::checkpoint::{Checkpoint, Problem, ReadError};
use crate::plan::effective_quantizer;
use crate::plan::rules::FusionUnits;
use crate::quantization::ggml::Importance;
use crate::quantization::{
    Analysis, AnalysisSpec, Calibration, NotQuantizable, Preset, QuantizationScheme, Quantizer,
    Rounding, ScaleStorage,
};
use crate::tensor::{FloatType, TensorId};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

/// Which layers to measure, and how they are quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The weights whose layers are measured; those that were not recorded are skipped.
    pub tensors: Vec<TensorId>,
    /// An error is measured for each of these. If empty, inputs are calibrated and nothing is
    /// measured.
    pub quantizers: Vec<Quantizer>,
    /// How values halfway between two integers are rounded.
    pub rounding: Rounding,
    /// The type that scales are stored in.
    pub scale_storage: ScaleStorage,
    /// The calibration of the inputs.
    pub calibration: Calibration,
    /// The importance of the weights' elements, with which ggml's block types are quantized.
    pub importance: Importance,
}

/// The output errors of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerOutput {
    /// The calibrated scale of the layer's inputs; `None` if only mean squares were recorded.
    pub input_scale: Option<f32>,
    /// One result per quantizer, with the calibration that was used for this layer.
    pub errors: Vec<(Quantizer, Result<OutputError, NotQuantizable>)>,
}

impl LayerOutput {
    /// The error of a quantizer, if it was requested and could be measured.
    pub fn error(&self, quantizer: Quantizer) -> Option<&OutputError> {
        let (_, error) = self.errors.iter().find(|(other, _)| *other == quantizer)?;
        error.as_ref().ok()
    }
}

/// The result of one layer.
pub type Finding = (TensorId, Result<LayerOutput, ActivationsError>);

/// Starts a job that sends a finding per recorded layer.
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
        // The only error is cancellation, which the caller knows of.
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
        // The products take longest: every channel range multiplies all inputs once per quantizer.
        let products = layers.iter().map(|(id, recording)| {
            let parts = channel_ranges(&checkpoint.tensor(*id).shape).len() as u64;
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
            Mutex::new(State::Waiting(MeasuredLayer {
                id: *id,
                recording,
                parts: channel_ranges(&checkpoint.tensor(*id).shape),
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
                State::Reported => return Ok(()),
            };
            let wanted = || !progress.is_cancelled();
            let calibrate = || input_scale(&mut stream, recording, request.calibration, &wanted);
            let found = catch_unwind(AssertUnwindSafe(calibrate))
                .unwrap_or_else(|panic| Err(work.panicked(id, panic.as_ref())));
            progress.advance(input_bytes(recording));
            match found {
                Ok(scale) if !measured => {
                    *lock(state) = State::Reported;
                    let found = LayerOutput { input_scale: scale, errors: Vec::new() };
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

    let counts =
        layers.iter().map(|(id, _)| channel_ranges(&checkpoint.tensor(*id).shape).len() as u64);
    stopped(each_chunk(counts, threads, progress, || {
        let mut stream = activations.stream();
        let mut reader = checkpoint.reader();
        let (work, prepared, report) = (&work, &prepared, &report);
        move |place, k| {
            let Some(state) = prepared.get(place) else { return Ok(()) };
            let (id, recording, part, scale) = match &*lock(state) {
                State::Reported => return Ok(()),
                State::Waiting(layer) => {
                    let Some(part) = layer.parts.get(k as usize) else { return Ok(()) };
                    (layer.id, layer.recording, part.clone(), layer.input_scale)
                }
            };
            let shape = &checkpoint.tensor(id).shape;
            let measure = || -> Result<_, ActivationsError> {
                let range = part.elements(shape);
                let Some((dtype, bytes)) = reader.elements(id, range)? else { return Ok(None) };
                let requested = work.requested(id);
                let mut layer = Layer { recording, shape, stream: &mut stream, input_scale: scale };
                let wanted = || !progress.is_cancelled();
                layer.sums(&part, (dtype, bytes), &requested, &wanted).map(Some)
            };
            let found = catch_unwind(AssertUnwindSafe(measure))
                .unwrap_or_else(|panic| Err(work.panicked(id, panic.as_ref())));
            let elements = part.elements(shape);
            let size = checkpoint.float_type(id).map_or(0, FloatType::size) as u64;
            let read_bytes = (elements.end - elements.start) * size;
            progress.advance(read_bytes + product_bytes(recording, request));
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
struct MeasuredLayer<'a> {
    id: TensorId,
    recording: &'a Recording,
    parts: Vec<ChannelRange>,
    input_scale: Option<f32>,
    sums: OrderedFold<Sums, Option<Sums>>,
}

/// One result per quantizer.
type Sums = Vec<Result<OutputSums, NotQuantizable>>;

enum State<'a> {
    Waiting(MeasuredLayer<'a>),
    /// The layer's result was reported.
    Reported,
}

struct Work<'a> {
    checkpoint: &'a Checkpoint,
    request: &'a Request,
    progress: &'a Progress,
    /// The scale of each per-tensor quantizer, by tensor and index of the quantizer.
    scales: HashMap<(TensorId, usize), f32>,
}

type Report<'r> = Mutex<&'r (dyn Fn(Finding) + Sync)>;

impl Work<'_> {
    fn requested(&self, id: TensorId) -> Vec<ChannelQuantizer<'_>> {
        let quantizers = self.request.quantizers.iter().enumerate();
        let requested = quantizers.map(|(place, &quantizer)| ChannelQuantizer {
            quantizer,
            rounding: self.request.rounding,
            scale_storage: self.request.scale_storage,
            scale: self.scales.get(&(id, place)).copied(),
            learned: self.checkpoint.learned(id),
            importance: self.request.importance.get(id),
        });
        requested.collect()
    }

    fn panicked(&self, id: TensorId, panic: &(dyn std::any::Any + Send)) -> ActivationsError {
        let name = &self.checkpoint.tensor(id).name;
        let problem = Problem::Panicked(panic_message(panic));
        ReadError::of_tensor(self.checkpoint.path(), name, problem).into()
    }

    /// Reports one layer as failed; the others continue.
    fn fail(&self, state: &Mutex<State>, id: TensorId, error: ActivationsError, report: &Report) {
        if self.progress.is_cancelled() {
            return;
        }
        let before = std::mem::replace(&mut *lock(state), State::Reported);
        if let State::Waiting(_) = before {
            lock(report)((id, Err(error)));
        }
    }

    fn add(&self, state: &Mutex<State>, k: u64, sums: Sums, report: &Report) {
        let mut held = lock(state);
        let State::Waiting(layer) = &mut *held else { return };
        let count = layer.parts.len() as u64;
        let Some(whole) = layer.sums.add(k, sums, count, merge).flatten() else { return };
        let (basis, known) = Layer::basis(layer.recording, layer.input_scale);
        let error = |sums: OutputSums| OutputError { basis, sums, known };
        let settled =
            |quantizer: &Quantizer| effective_quantizer(self.checkpoint, layer.id, *quantizer);
        let errors = self.request.quantizers.iter().map(settled).zip(whole);
        let errors = errors.map(|(quantizer, sums)| (quantizer, sums.map(error))).collect();
        let found = LayerOutput { input_scale: layer.input_scale, errors };
        let id = layer.id;
        *held = State::Reported;
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

/// The scales of the per-tensor quantizers.
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
    let spec = AnalysisSpec {
        scale_storage: request.scale_storage,
        ..AnalysisSpec::scales(quantizers, request.rounding)
    };
    progress.expect(scan::float_bytes(checkpoint, layers.iter().map(|(id, _)| *id)));
    let keep = |(id, analysis): scan::Finding| {
        // Tensors without a scale and read errors are reported when the channels are measured.
        let Ok(Analysis { outcomes, range, .. }) = analysis else { return };
        for (outcome, &place) in outcomes.iter().zip(&places) {
            if let Ok(quantized) = &outcome.result {
                let scale = if has_global(&outcome.quantizer) {
                    range.absmax() as f32
                } else {
                    quantized.scales.max
                };
                lock(&found).insert((id, place), scale);
            }
        }
    };
    scan::run(checkpoint, &spec, &order, threads, progress, &keep)?;
    let mut found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    // Layers that a loader merges share their global scales.
    let units = FusionUnits::of(checkpoint);
    for &place in &places {
        let preset = request.quantizers.get(place).and_then(|quantizer| quantizer.scheme.preset());
        if !preset.is_some_and(Preset::shares_global_scale) {
            continue;
        }
        let absmax = |id| found.get(&(id, place)).map(|&absmax| f64::from(absmax));
        let shared = units.shared_absmax(layers.iter().map(|(id, _)| *id), absmax);
        found.extend(shared.iter().map(|(&id, &absmax)| ((id, place), absmax as f32)));
    }
    Ok(found)
}

/// Bytes that calibrating a layer's inputs reads.
fn input_bytes(recording: &Recording) -> u64 {
    match &recording.source {
        Source::Inputs(inputs) => inputs.elements().saturating_mul(4),
        Source::Summary(_) => 0,
    }
}

/// Bytes of inputs that the products of one channel range read, once per quantizer.
fn product_bytes(recording: &Recording, request: &Request) -> u64 {
    input_bytes(recording).saturating_mul(request.quantizers.len() as u64)
}

/// Reduces the result of the workers to whether they were cancelled or could not start. Workers
/// report other failures themselves.
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
            scale_storage: ScaleStorage::F32,
            calibration,
            importance: Importance::default(),
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
    fn each_layer_is_reported_once_with_one_error_per_quantizer() {
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
        // Without quantizers only the inputs are calibrated.
        let (found, _) = findings(&request(&checkpoint, &[]), &Progress::default());
        assert_eq!(found.len(), 8);
    }

    #[test]
    fn a_cancelled_job_reports_nothing() {
        let checkpoint = demo();
        let progress = Progress::default();
        progress.cancel();
        let requested = request(&checkpoint, &[QuantizationScheme::PER_CHANNEL]);
        let (found, ended) = findings(&requested, &progress);
        assert!(found.is_empty());
        assert_eq!(ended, Err(Stopped::Cancelled));
    }
}
