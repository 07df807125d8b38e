//! Calibrates and measures every tensor of a checkpoint on all cores.
//!
//! Workers claim chunks from one queue, so one huge tensor still uses every core. The order of
//! the queue can be changed while they work, so the tensors on the screen come first.

use super::cache::Cache;
use super::chunk_store::{Chunk, ChunkStore};
use super::ordered_fold::OrderedFold;
use super::{Job, PendingJob, Progress, Stopped, lock, panic_message};
use crate::checkpoint::{Checkpoint, Problem, ReadError, Reader};
use crate::failpoints::{Failpoint, reach};
use crate::plan::rules::FusionUnits;
use crate::quantization::{
    Analysis, AnalysisSpec, AnalysisState, BothOrders, FirstPassResult, FurtherPassResult,
    HistogramBuilder, Rounding, SharedAbsmax, TensorAnalyzer, ValueHistogram,
};
use crate::tensor::{FloatType, TensorId};
use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::available_parallelism;

pub use super::scan_order::Order;

/// Consecutive chunks that a worker claims together, to reduce the cost of claiming.
const CHUNKS_PER_STEP: u64 = 4;

/// One tensor's result. A tensor without float elements has none.
pub type Finding = (TensorId, Result<Analysis, ReadError>);

/// Starts the job of [`prepare`] on a new thread.
pub fn start(
    checkpoint: Arc<Checkpoint>,
    spec: AnalysisSpec,
    order: Arc<Order>,
    threads: Option<usize>,
    cache: Option<Cache>,
) -> std::io::Result<Job<Finding>> {
    prepare(checkpoint, spec, order, threads, cache).start()
}

/// A job that measures tensors with `threads` workers, all cores if `None`. Known results are
/// read from `cache`, and new ones are added to it.
pub fn prepare(
    checkpoint: Arc<Checkpoint>,
    spec: AnalysisSpec,
    order: Arc<Order>,
    threads: Option<usize>,
    cache: Option<Cache>,
) -> PendingJob<Finding> {
    let total = float_bytes(&checkpoint, order.tensors().into_iter());
    PendingJob::new("scan", Arc::new(Progress::new(total)), move |progress, sender| {
        let report = |finding| {
            // The receiver was dropped, so the rest is not needed.
            if sender.send(finding).is_err() {
                progress.cancel();
            }
        };
        let entry = cache.and_then(|cache| cache.entry(&checkpoint, &spec));
        if let Some(entry) = &entry {
            entry.read_all(|id, found| {
                if order.take(id) {
                    progress.advance(float_bytes(&checkpoint, std::iter::once(id)));
                    report((id, Ok(found)));
                }
            });
        }
        let report = |finding: Finding| {
            if let (Some(entry), (id, Ok(found))) = (&entry, &finding) {
                entry.add(*id, found);
            }
            report(finding);
        };
        // The only error is cancellation, which the caller knows of.
        let _ = run(&checkpoint, &spec, &order, threads, progress, &report);
        if let Some(entry) = entry {
            entry.close();
        }
    })
}

/// Bytes of elements that a scan of `ids` reads.
pub fn float_bytes(checkpoint: &Checkpoint, ids: impl Iterator<Item = TensorId>) -> u64 {
    ids.filter_map(|id| {
        let size = checkpoint.float_type(id)?.size() as u64;
        checkpoint.tensor(id).parameters().checked_mul(size)
    })
    .fold(0, u64::saturating_add)
}

/// Measures the tensors of `order`. Calls `report` for each as it is finished.
pub fn run(
    checkpoint: &Checkpoint,
    spec: &AnalysisSpec,
    order: &Order,
    threads: Option<usize>,
    progress: &Progress,
    report: &(dyn Fn(Finding) + Sync),
) -> Result<(), Stopped> {
    let workers = threads.or_else(|| available_parallelism().ok().map(NonZero::get)).unwrap_or(1);
    let chunks = ChunkStore::new(workers);
    let both_orders = BothOrders::new(spec);
    let scan = Scan {
        checkpoint,
        chunks: &chunks,
        spec,
        both_orders: both_orders.as_ref(),
        order,
        progress,
        workers,
        open: Mutex::default(),
        ready: Condvar::new(),
        report: Mutex::new(report),
        panic: Mutex::default(),
    };
    super::on_all_cores(threads, || scan.work())?;
    if let Some(why) = scan.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        // The panic hook has printed it already.
        resume_unwind(Box::new(why));
    }
    progress.check()
}

/// The largest magnitudes of the tensors among `ids` that loaders merge, for presets whose
/// global scale they share. Reads these tensors.
pub fn shared_absmax(
    checkpoint: &Checkpoint,
    ids: &[TensorId],
    threads: Option<usize>,
    progress: &Progress,
) -> Result<SharedAbsmax, Stopped> {
    let units = FusionUnits::of(checkpoint);
    let merged = units.grouped(ids.iter().copied()).into_iter().filter(|unit| unit.len() > 1);
    let merged: Vec<TensorId> = merged.flatten().collect();
    let spec = AnalysisSpec::scales(Vec::new(), Rounding::default());
    progress.expect(float_bytes(checkpoint, merged.iter().copied()));
    let known = Mutex::new(HashMap::new());
    let keep = |(id, found): Finding| {
        // What cannot be read is reported when it is measured.
        if let Ok(analysis) = found {
            lock(&known).insert(id, analysis.range.absmax());
        }
    };
    run(checkpoint, &spec, &Order::new(merged.clone()), threads, progress, &keep)?;
    let known = known.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(units.shared_absmax(merged, |id| known.get(&id).copied()))
}

struct Scan<'a> {
    checkpoint: &'a Checkpoint,
    spec: &'a AnalysisSpec,
    /// The spec for tensors whose output channels are not contiguous, if it depends on them.
    both_orders: Option<&'a BothOrders>,
    order: &'a Order,
    progress: &'a Progress,
    chunks: &'a ChunkStore,
    /// The number of workers.
    workers: usize,
    /// Tensors of several chunks that workers share now, oldest first.
    open: Mutex<VecDeque<Arc<SharedTensor<'a>>>>,
    /// Signals that a pass over one of them has ended.
    ready: Condvar,
    report: Mutex<&'a (dyn Fn(Finding) + Sync)>,
    /// The message of the first panic.
    panic: Mutex<Option<String>>,
}

/// The state of one worker. Buffers are not shared between workers, because a recently used buffer
/// is still in the cache of its core.
struct Worker<'a> {
    reader: Reader<'a>,
    /// Buffers and empty histogram builders, for reuse.
    buffers: Vec<Vec<u8>>,
    builders: Vec<HistogramBuilder>,
}

impl Worker<'_> {
    /// An empty histogram builder.
    fn builder(&mut self, dtype: FloatType) -> HistogramBuilder {
        let mut builder = self.builders.pop().unwrap_or_else(|| HistogramBuilder::new(dtype));
        builder.reset_type(dtype);
        builder
    }
}

/// The order in which elements are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ElementOrder {
    Stored,
    /// With the axes of output channels first.
    ChannelMajor,
}

/// The two analyses of a tensor that is measured in both orders of its elements.
struct BothOrderResults<'a> {
    orders: &'a BothOrders,
    /// The analyses in storage order and in channel-major order, as far as they are finished.
    found: Mutex<[Option<Analysis>; 2]>,
    failed: AtomicBool,
}

/// A tensor of several chunks, measured by several workers.
struct SharedTensor<'a> {
    id: TensorId,
    order: ElementOrder,
    /// Present if the tensor is measured in the other order too.
    both: Option<Arc<BothOrderResults<'a>>>,
    measurement: TensorAnalyzer<'a>,
    steps: Mutex<ClaimedSteps>,
    /// Chunks that are kept for the next pass.
    kept: Mutex<HashMap<u64, Chunk<'a>>>,
    first: Mutex<OrderedFold<FirstPassResult, AnalysisState>>,
    /// Histogram builders that no worker uses now.
    builders: Mutex<Vec<HistogramBuilder>>,
    /// The state after each pass but the last.
    known: Vec<OnceLock<AnalysisState>>,
    /// The results of each pass after the first.
    found: Vec<Mutex<OrderedFold<FurtherPassResult, FurtherPassResult>>>,
    failed: Mutex<bool>,
}

/// The chunks of a tensor that were claimed, counted over all passes.
#[derive(Debug, Default)]
struct ClaimedSteps {
    claimed: u64,
    /// The number of finished passes.
    finished: u64,
}

#[allow(clippy::large_enum_variant, reason = "only a few exist at a time")]
enum Step<'a> {
    Small(TensorId, TensorAnalyzer<'a>),
    /// A small tensor whose output channels are not contiguous.
    SmallInBothOrders(TensorId, [TensorAnalyzer<'a>; 2], &'a BothOrders),
    Chunks {
        of: Arc<SharedTensor<'a>>,
        pass: u64,
        chunks: Range<u64>,
    },
}

/// The next tensor of the order.
#[allow(clippy::large_enum_variant, reason = "only a few exist at a time")]
enum Next<'a> {
    OneOrder(TensorId, TensorAnalyzer<'a>),
    BothOrders(TensorId, [TensorAnalyzer<'a>; 2], &'a BothOrders),
}

impl<'a> Scan<'a> {
    fn work(&self) {
        let reader = self.checkpoint.reader();
        let mut worker = Worker { reader, buffers: Vec::new(), builders: Vec::new() };
        let mut last = None;
        while let Some(step) = self.claim(last.as_ref()) {
            // After a panic only this tensor is lost. The reader may be in an inconsistent
            // state, so it is replaced.
            match step {
                Step::Small(id, measurement) => {
                    self.alone(&mut worker, id, |worker| {
                        self.measure_small(worker, id, &measurement, ElementOrder::Stored)
                    });
                }
                Step::SmallInBothOrders(id, [stored, channel_major], orders) => {
                    self.alone(&mut worker, id, |worker| {
                        let order = ElementOrder::Stored;
                        let stored = self.measure_small(worker, id, &stored, order)?;
                        let order = ElementOrder::ChannelMajor;
                        let in_channels = self.measure_small(worker, id, &channel_major, order)?;
                        Ok(orders.join(stored, in_channels))
                    });
                }
                Step::Chunks { of, pass, chunks } => {
                    let visit = || match (self.reached(of.id), pass) {
                        (Err(error), _) => self.fail(&of, error),
                        (Ok(()), 0) => self.first_pass(&mut worker, &of, chunks),
                        (Ok(()), _) => self.further_pass(&mut worker, &of, pass, chunks),
                    };
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(visit)) {
                        worker.reader = self.checkpoint.reader();
                        self.fail(&of, self.panicked(of.id, panic.as_ref()));
                    }
                    last = Some(of);
                }
            }
        }
        // Workers that wait for a pass that will not come must notice.
        self.wake();
    }

    /// Measures a tensor that no other worker helps with.
    fn alone(
        &self,
        worker: &mut Worker<'a>,
        id: TensorId,
        measure: impl FnOnce(&mut Worker<'a>) -> Result<Analysis, ReadError>,
    ) {
        let measured = || self.reached(id).and_then(|()| measure(&mut *worker));
        let found = catch_unwind(AssertUnwindSafe(measured)).unwrap_or_else(|panic| {
            worker.reader = self.checkpoint.reader();
            Err(self.panicked(id, panic.as_ref()))
        });
        self.finish(id, found);
    }

    /// The failpoint at the beginning of a step.
    fn reached(&self, id: TensorId) -> Result<(), ReadError> {
        reach(Failpoint::Scan).map_err(|error| self.error(id, error))
    }

    fn error(&self, id: TensorId, problem: impl Into<Problem>) -> ReadError {
        ReadError::of_tensor(self.checkpoint.path(), &self.checkpoint.tensor(id).name, problem)
    }

    /// The error of a tensor whose measurement panicked. The first panic is raised again at the
    /// end of the scan.
    fn panicked(&self, id: TensorId, panic: &(dyn Any + Send)) -> ReadError {
        let why = panic_message(panic);
        lock(&self.panic).get_or_insert_with(|| why.clone());
        self.error(id, Problem::Panicked(why))
    }

    /// Returns the next step for a worker whose last step was on tensor `last`. In order of
    /// preference, the worker continues with that tensor, so that fewer histograms need to be merged;
    /// begins a new tensor, if fewer tensors are open than there are workers; or helps with the oldest
    /// open tensor. It blocks if there is no step now.
    fn claim(&self, last: Option<&Arc<SharedTensor<'a>>>) -> Option<Step<'a>> {
        if let Some(step) =
            last.filter(|_| !self.progress.is_cancelled()).and_then(SharedTensor::step)
        {
            return Some(step);
        }
        let mut open = lock(&self.open);
        while !self.progress.is_cancelled() {
            open.retain(|shared| !shared.is_claimed());
            let may_begin = open.len() < self.workers;
            let begin = may_begin.then(|| self.next()).flatten();
            if begin.is_none()
                && let Some(step) = open.iter().find_map(SharedTensor::step)
            {
                return Some(step);
            }
            match begin.or_else(|| self.next()) {
                Some(Next::BothOrders(id, analyzers, orders)) => {
                    if analyzers.iter().all(|analyzer| analyzer.chunks() <= 1) {
                        return Some(Step::SmallInBothOrders(id, analyzers, orders));
                    }
                    let both = SharedTensor::in_both_orders(id, analyzers, orders);
                    let step = both.iter().find_map(SharedTensor::step);
                    open.extend(both);
                    return step;
                }
                Some(Next::OneOrder(id, measurement)) if measurement.chunks() <= 1 => {
                    return Some(Step::Small(id, measurement));
                }
                Some(Next::OneOrder(id, measurement)) => {
                    let order = ElementOrder::Stored;
                    let shared = Arc::new(SharedTensor::new(id, measurement, order, None));
                    let step = SharedTensor::step(&shared);
                    open.push_back(shared);
                    return step;
                }
                None if open.is_empty() => return None,
                None => open = self.ready.wait(open).unwrap_or_else(PoisonError::into_inner),
            }
        }
        None
    }

    /// The next tensor of the order that has float elements.
    fn next(&self) -> Option<Next<'a>> {
        loop {
            let id = self.order.next()?;
            let Some(dtype) = self.checkpoint.float_type(id) else { continue };
            if let Some(orders) = self.both_orders
                && let Some((shape, _)) = self.checkpoint.channel_major(id)
            {
                let learned = self.checkpoint.learned(id);
                let stored = self.analyzer(&orders.stored, id, dtype);
                let major = TensorAnalyzer::new(&orders.channel_major, dtype, &shape, learned);
                return Some(Next::BothOrders(id, [stored, major], orders));
            }
            return Some(Next::OneOrder(id, self.analyzer(self.spec, id, dtype)));
        }
    }

    /// The analysis of a tensor in storage order.
    fn analyzer<'s>(
        &self,
        spec: &'s AnalysisSpec,
        id: TensorId,
        dtype: FloatType,
    ) -> TensorAnalyzer<'s>
    where
        'a: 's,
    {
        let shape = self.checkpoint.tensor(id).shape.with_contiguous_channels();
        let importance = spec.importance.of_rows(id, &shape);
        let strided = self.checkpoint.channel_major(id).is_some();
        let learned = self.checkpoint.learned(id);
        let learned = learned.filter(|it| it.scales.len() <= 1 || !strided);
        let shared = spec.shared_absmax.get(&id).copied();
        TensorAnalyzer::new(spec, dtype, &shape, learned)
            .with_importance(importance)
            .with_shared_absmax(shared)
    }

    /// Wakes workers that wait for a tensor's next pass.
    fn wake(&self) {
        // Taking the lock ensures that a worker that found no step is already waiting.
        drop(lock(&self.open));
        self.ready.notify_all();
    }

    fn measure_small(
        &self,
        worker: &mut Worker,
        id: TensorId,
        m: &TensorAnalyzer,
        order: ElementOrder,
    ) -> Result<Analysis, ReadError> {
        let mut builder = m.histogram_type().map(|dtype| worker.builder(dtype));
        let mut read_bytes = 0;
        let found = m.run(builder.as_mut(), |elements, visit| {
            let read = |_, bytes: &[u8]| {
                read_bytes += bytes.len() as u64;
                visit(bytes);
            };
            let seen = match order {
                ElementOrder::Stored => worker.reader.with_bytes(id, elements, read),
                ElementOrder::ChannelMajor => {
                    worker.reader.with_channel_major_bytes(id, elements, read)
                }
            };
            seen.map(drop)
        });
        // Bytes that are measured in both orders are counted once.
        if order == ElementOrder::Stored {
            self.progress.advance(read_bytes / m.passes());
        }
        // After an error the builder is not empty, so it is dropped.
        worker.builders.extend(builder.filter(|_| found.is_ok()));
        found
    }

    fn first_pass(&self, worker: &mut Worker<'a>, shared: &SharedTensor<'a>, chunks: Range<u64>) {
        let m = &shared.measurement;
        let mut builder = m.histogram_type().map(|dtype| {
            let waiting = lock(&shared.builders).pop();
            waiting.unwrap_or_else(|| worker.builder(dtype))
        });
        let visit = |k, bytes: &[u8]| m.first_pass(k, bytes, builder.as_mut());
        let results = self.visit_chunks(worker, shared, 0, chunks.clone(), visit);
        // Before the chunks are added, so that all builders are there after the last chunk.
        lock(&shared.builders).extend(builder);
        let results = match results {
            Ok(results) => results,
            Err(error) => return self.fail(shared, error),
        };
        let calibrate = |all: &mut AnalysisState, next| m.add_first(all, next);
        let whole = lock(&shared.first).add_all(chunks.zip(results), m.chunks(), calibrate);
        let Some(mut known) = whole else { return };
        m.end_first_pass(&mut known, merged_histogram(worker, shared));
        self.end_pass(shared, 0, known);
    }

    fn further_pass(
        &self,
        worker: &mut Worker<'a>,
        shared: &SharedTensor<'a>,
        pass: u64,
        chunks: Range<u64>,
    ) {
        let m = &shared.measurement;
        let known = shared.known.get(pass as usize - 1).and_then(OnceLock::get);
        let Some(known) = known else { return };
        let visit = |k, bytes: &[u8]| m.further_pass(known, pass, k, bytes);
        let results = match self.visit_chunks(worker, shared, pass, chunks.clone(), visit) {
            Ok(results) => results,
            Err(error) => return self.fail(shared, error),
        };
        let Some(found) = shared.found.get(pass as usize - 1) else { return };
        let whole =
            lock(found).add_all(chunks.zip(results), m.chunks(), TensorAnalyzer::add_further);
        if let Some(found) = whole {
            let mut known = known.clone();
            m.end_pass(&mut known, pass, found);
            self.end_pass(shared, pass, known);
        }
    }

    fn end_pass(&self, shared: &SharedTensor, pass: u64, known: AnalysisState) {
        match shared.known.get(pass as usize) {
            Some(place) => {
                let _ = place.set(known);
                lock(&shared.steps).finished = pass + 1;
                self.wake();
            }
            None => self.finish_order(shared, shared.measurement.finish(known)),
        }
    }

    /// Calls `visit` with each chunk of a tensor: mapped in place if possible, and otherwise read
    /// into a buffer, which is kept if a later pass needs it.
    fn visit_chunks<T>(
        &self,
        worker: &mut Worker<'a>,
        shared: &SharedTensor<'a>,
        pass: u64,
        chunks: Range<u64>,
        mut visit: impl FnMut(u64, &[u8]) -> T,
    ) -> Result<Vec<T>, ReadError> {
        let m = &shared.measurement;
        // Progress counts each byte once, however many passes or orders there are.
        let counts = shared.order == ElementOrder::Stored;
        let mut visit = |k, bytes: &[u8]| {
            if counts {
                self.progress.advance(bytes.len() as u64 / m.passes());
            }
            visit(k, bytes)
        };
        let kept: Vec<_> = {
            let mut kept = lock(&shared.kept);
            chunks.clone().map(|k| kept.remove(&k)).collect()
        };
        if shared.order == ElementOrder::Stored && kept.iter().all(Option::is_none) {
            let first = chunks.start;
            let elements = m.chunk(first).start..m.chunk(chunks.end.saturating_sub(1)).end;
            if let Some(borrowed) = worker.reader.borrow_bytes(shared.id, elements)? {
                return borrowed.with_bytes(|bytes| {
                    let chunk = |k| bytes.get(m.chunk_bytes(first, k)).unwrap_or_default();
                    chunks.map(|k| visit(k, chunk(k))).collect()
                });
            }
        }
        let results = chunks.zip(kept).map(|(k, kept)| {
            let chunk = match kept {
                Some(chunk) => chunk,
                None => {
                    let mut chunk = self.chunks.chunk(worker.buffers.pop().unwrap_or_default());
                    let (reader, id, bytes) = (&mut worker.reader, shared.id, &mut chunk.bytes);
                    match shared.order {
                        ElementOrder::Stored => reader.elements_into(id, m.chunk(k), bytes)?,
                        ElementOrder::ChannelMajor => {
                            reader.channel_major_into(id, m.chunk(k), bytes)?
                        }
                    };
                    chunk
                }
            };
            let seen = visit(k, &chunk.bytes);
            match chunk.kept_if(pass + 1 < m.passes()) {
                Ok(chunk) => drop(lock(&shared.kept).insert(k, chunk)),
                Err(buffer) => worker.buffers.push(buffer),
            }
            Ok(seen)
        });
        results.collect()
    }

    /// Abandons a tensor, and reports its first error.
    fn fail(&self, shared: &SharedTensor, error: ReadError) {
        lock(&shared.steps).claimed = u64::MAX;
        let first = !std::mem::replace(&mut *lock(&shared.failed), true);
        let of_tensor = |both: &Arc<BothOrderResults>| !both.failed.swap(true, Ordering::AcqRel);
        if first && shared.both.as_ref().is_none_or(of_tensor) {
            self.finish(shared.id, Err(error));
        }
        self.wake();
    }

    /// Reports a tensor, or keeps its analysis until it is measured in the other order too.
    fn finish_order(&self, shared: &SharedTensor, analysis: Analysis) {
        let Some(results) = &shared.both else { return self.finish(shared.id, Ok(analysis)) };
        let both = {
            let mut found = lock(&results.found);
            let [stored, channel_major] = &mut *found;
            match shared.order {
                ElementOrder::Stored => *stored = Some(analysis),
                ElementOrder::ChannelMajor => *channel_major = Some(analysis),
            }
            match (stored.take(), channel_major.take()) {
                (Some(stored), Some(channel_major)) => Some((stored, channel_major)),
                (first, second) => {
                    *found = [first, second];
                    None
                }
            }
        };
        if let Some((stored, channel_major)) = both {
            self.finish(shared.id, Ok(results.orders.join(stored, channel_major)));
        }
    }

    fn finish(&self, id: TensorId, found: Result<Analysis, ReadError>) {
        lock(&self.report)((id, found));
    }
}

/// The histogram of a tensor, merged from all workers.
fn merged_histogram(worker: &mut Worker, shared: &SharedTensor) -> Option<ValueHistogram> {
    let mut builders = std::mem::take(&mut *lock(&shared.builders));
    let (whole, parts) = builders.split_first_mut()?;
    parts.iter_mut().for_each(|part| whole.merge(part));
    let counted = whole.take();
    worker.builders.append(&mut builders);
    Some(counted)
}

impl<'a> SharedTensor<'a> {
    /// The same tensor twice: in storage order and in channel-major order.
    fn in_both_orders(
        id: TensorId,
        [stored, channel_major]: [TensorAnalyzer<'a>; 2],
        orders: &'a BothOrders,
    ) -> [Arc<Self>; 2] {
        let (found, failed) = (Mutex::default(), AtomicBool::new(false));
        let both = Arc::new(BothOrderResults { orders, found, failed });
        let shared = |measurement, order| {
            Arc::new(SharedTensor::new(id, measurement, order, Some(both.clone())))
        };
        let stored = shared(stored, ElementOrder::Stored);
        [stored, shared(channel_major, ElementOrder::ChannelMajor)]
    }

    fn new(
        id: TensorId,
        measurement: TensorAnalyzer<'a>,
        order: ElementOrder,
        both: Option<Arc<BothOrderResults<'a>>>,
    ) -> Self {
        let further = measurement.passes() as usize - 1;
        SharedTensor {
            id,
            order,
            both,
            steps: Mutex::default(),
            kept: Mutex::default(),
            first: Mutex::new(OrderedFold::new(measurement.start())),
            builders: Mutex::default(),
            known: (0..further).map(|_| OnceLock::new()).collect(),
            found: (0..further)
                .map(|_| Mutex::new(OrderedFold::new(FurtherPassResult::default())))
                .collect(),
            failed: Mutex::new(false),
            measurement,
        }
    }

    /// Claims the next step; `None` if all are claimed, or if the next pass must wait for others
    /// to finish the current one.
    fn step(shared: &Arc<Self>) -> Option<Step<'a>> {
        let mut steps = lock(&shared.steps);
        let chunks = shared.measurement.chunks();
        let (pass, k) = (steps.claimed / chunks, steps.claimed % chunks);
        if pass > steps.finished || pass >= shared.measurement.passes() {
            return None;
        }
        let chunks = k..chunks.min(k + CHUNKS_PER_STEP);
        steps.claimed += chunks.end - chunks.start;
        Some(Step::Chunks { of: shared.clone(), pass, chunks })
    }

    /// Whether no step is left.
    fn is_claimed(&self) -> bool {
        let claimed = lock(&self.steps).claimed;
        claimed / self.measurement.chunks() >= self.measurement.passes()
    }
}
