//! Calibrating and measuring every tensor of a checkpoint on all cores.
//!
//! Workers claim chunks from one queue, in an order that can be changed while they work,
//! so that what a person looks at comes first and one huge tensor still uses every core.

use super::cache::Cache;
use super::chunk_store::{Chunk, ChunkStore};
use super::ordered_fold::OrderedFold;
use super::{Job, PendingJob, Progress, Stopped, lock, panic_message};
use crate::checkpoint::{Checkpoint, CheckpointError, Problem, Reader};
use crate::failpoints::{Failpoint, reach};
use crate::quantization::{
    Analysis, AnalysisSpec, AnalysisState, FirstPassResult, FurtherPassResult, HistogramBuilder,
    TensorAnalyzer, ValueHistogram,
};
use crate::tensor::{FloatType, TensorId};
use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::available_parallelism;

/// Chunks that are looked at together, for it takes time to begin a look.
const TOGETHER: u64 = 4;

/// One tensor's result. A tensor without float elements has none.
pub type Finding = (TensorId, Result<Analysis, CheckpointError>);

/// The order in which tensors are looked at; shared with whoever may change it.
#[derive(Debug, Default)]
pub struct Order {
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    waiting: VecDeque<TensorId>,
    taken: Vec<bool>,
    urgent: VecDeque<TensorId>,
}

impl Order {
    pub fn new(tensors: Vec<TensorId>) -> Order {
        let length = tensors.iter().map(|id| id.index() + 1).max().unwrap_or(0);
        let mut taken = vec![true; length];
        tensors.iter().for_each(|id| taken[id.index()] = false);
        let pending = Pending { waiting: tensors.into(), taken, urgent: VecDeque::new() };
        Order { pending: Mutex::new(pending) }
    }

    /// Asks for these tensors to be looked at next.
    pub fn hurry(&self, tensors: impl IntoIterator<Item = TensorId>) {
        let mut pending = lock(&self.pending);
        pending.urgent = tensors.into_iter().collect();
    }

    /// Takes a tensor out; false if it is not waiting.
    fn take(&self, id: TensorId) -> bool {
        let mut pending = lock(&self.pending);
        let taken = pending.taken.get_mut(id.index());
        taken.is_some_and(|taken| !std::mem::replace(taken, true))
    }

    fn next(&self) -> Option<TensorId> {
        let mut pending = lock(&self.pending);
        loop {
            let id = match pending.urgent.pop_front() {
                Some(id) => id,
                None => pending.waiting.pop_front()?,
            };
            if let Some(taken @ false) = pending.taken.get_mut(id.index()) {
                *taken = true;
                return Some(id);
            }
        }
    }
}

/// Starts the job of [`prepare`] on a thread of its own.
pub fn start(
    checkpoint: Arc<Checkpoint>,
    questions: AnalysisSpec,
    order: Arc<Order>,
    threads: Option<usize>,
    cache: Option<Cache>,
) -> std::io::Result<Job<Finding>> {
    prepare(checkpoint, questions, order, threads, cache).start()
}

/// A job that measures tensors. `threads`: how many workers, all cores if `None`; `cache`:
/// where earlier findings are read from and new ones are kept.
pub fn prepare(
    checkpoint: Arc<Checkpoint>,
    questions: AnalysisSpec,
    order: Arc<Order>,
    threads: Option<usize>,
    cache: Option<Cache>,
) -> PendingJob<Finding> {
    let total = float_bytes(&checkpoint, lock(&order.pending).waiting.iter().copied());
    PendingJob::new("scan", Arc::new(Progress::new(total)), move |progress, sender| {
        let report = |finding| {
            // A receiver that is gone means that nobody wants the rest.
            if sender.send(finding).is_err() {
                progress.cancel();
            }
        };
        let memory = cache.and_then(|cache| cache.memory(&checkpoint, &questions));
        if let Some(memory) = &memory {
            memory.recall(|id, found| {
                if order.take(id) {
                    progress.advance(float_bytes(&checkpoint, std::iter::once(id)));
                    report((id, Ok(found)));
                }
            });
        }
        let report = |finding: Finding| {
            if let (Some(memory), (id, Ok(found))) = (&memory, &finding) {
                memory.keep(*id, found);
            }
            report(finding);
        };
        // Cancellation needs no word: whoever cancelled knows.
        let _ = run(&checkpoint, &questions, &order, threads, progress, &report);
        if let Some(memory) = memory {
            memory.close();
        }
    })
}

/// Bytes of elements that a scan of `ids` looks at.
pub fn float_bytes(checkpoint: &Checkpoint, ids: impl Iterator<Item = TensorId>) -> u64 {
    ids.filter_map(|id| {
        let size = checkpoint.float_type(id)?.size() as u64;
        checkpoint.tensor(id).parameters().checked_mul(size)
    })
    .fold(0, u64::saturating_add)
}

/// Measures the tensors of `order`, reporting each as it is finished, and returns when all
/// are.
pub fn run(
    checkpoint: &Checkpoint,
    questions: &AnalysisSpec,
    order: &Order,
    threads: Option<usize>,
    progress: &Progress,
    report: &(dyn Fn(Finding) + Sync),
) -> Result<(), Stopped> {
    let workers = threads.or_else(|| available_parallelism().ok().map(NonZero::get)).unwrap_or(1);
    let chunks = ChunkStore::new(workers);
    let scan = Scan {
        checkpoint,
        chunks: &chunks,
        questions,
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
        // Reported already when it happened.
        resume_unwind(Box::new(why));
    }
    progress.check()
}

struct Scan<'a> {
    checkpoint: &'a Checkpoint,
    questions: &'a AnalysisSpec,
    order: &'a Order,
    progress: &'a Progress,
    chunks: &'a ChunkStore,
    /// How many there are.
    workers: usize,
    /// The large tensors that workers share now, the first begun first.
    open: Mutex<VecDeque<Arc<Shared<'a>>>>,
    /// Tells that a pass over one of them has ended.
    ready: Condvar,
    report: Mutex<&'a (dyn Fn(Finding) + Sync)>,
    /// What the first worker that panicked said.
    panic: Mutex<Option<String>>,
}

/// What a worker has for itself. What it used before lies in its own core's cache, and what
/// another used would have to be fetched from there, line by line.
struct Worker<'a> {
    reader: Reader<'a>,
    /// Buffers and empty tallies, to be used again.
    buffers: Vec<Vec<u8>>,
    tallies: Vec<HistogramBuilder>,
}

impl Worker<'_> {
    /// An empty tally.
    fn tally(&mut self, dtype: FloatType) -> HistogramBuilder {
        let mut tally = self.tallies.pop().unwrap_or_else(|| HistogramBuilder::new(dtype));
        tally.reset_type(dtype);
        tally
    }
}

/// A tensor of several chunks, measured by several workers.
struct Shared<'a> {
    id: TensorId,
    measurement: TensorAnalyzer<'a>,
    steps: Mutex<Steps>,
    /// Chunks that wait for the next pass.
    kept: Mutex<HashMap<u64, Chunk<'a>>>,
    first: Mutex<OrderedFold<FirstPassResult, AnalysisState>>,
    /// What no worker counts into now.
    tallies: Mutex<Vec<HistogramBuilder>>,
    /// For each pass but the last, what is known after it.
    known: Vec<OnceLock<AnalysisState>>,
    /// For each pass after the first.
    found: Vec<Mutex<OrderedFold<FurtherPassResult, FurtherPassResult>>>,
    failed: Mutex<bool>,
}

/// What of a tensor's work has been claimed: every chunk of the first pass, then of the next.
#[derive(Debug, Default)]
struct Steps {
    claimed: u64,
    /// How many passes are over.
    over: u64,
}

#[allow(clippy::large_enum_variant, reason = "few live at a time")]
enum Step<'a> {
    Small(TensorId, TensorAnalyzer<'a>),
    Chunks { of: Arc<Shared<'a>>, pass: u64, chunks: Range<u64> },
}

impl<'a> Scan<'a> {
    fn work(&self) {
        let reader = self.checkpoint.reader();
        let mut worker = Worker { reader, buffers: Vec::new(), tallies: Vec::new() };
        let mut last = None;
        while let Some(step) = self.claim(last.as_ref()) {
            // A panic costs one tensor and not the rest. What the reader held may be half
            // done, and so it begins anew.
            match step {
                Step::Small(id, measurement) => {
                    let small = || {
                        self.reached(id).and_then(|()| self.small(&mut worker, id, &measurement))
                    };
                    let found = catch_unwind(AssertUnwindSafe(small)).unwrap_or_else(|panic| {
                        worker.reader = self.checkpoint.reader();
                        Err(self.panicked(id, panic.as_ref()))
                    });
                    self.finish(id, found);
                }
                Step::Chunks { of, pass, chunks } => {
                    let look = || match (self.reached(of.id), pass) {
                        (Err(error), _) => self.fail(&of, error),
                        (Ok(()), 0) => self.first(&mut worker, &of, chunks),
                        (Ok(()), _) => self.again(&mut worker, &of, pass, chunks),
                    };
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(look)) {
                        worker.reader = self.checkpoint.reader();
                        self.fail(&of, self.panicked(of.id, panic.as_ref()));
                    }
                    last = Some(of);
                }
            }
        }
        // Who waits for what will not be done any more finds that out.
        self.wake();
    }

    /// A step with a tensor begins.
    fn reached(&self, id: TensorId) -> Result<(), CheckpointError> {
        reach(Failpoint::Scan).map_err(|error| self.error(id, error))
    }

    fn error(&self, id: TensorId, problem: impl Into<Problem>) -> CheckpointError {
        CheckpointError::of_tensor(
            self.checkpoint.path(),
            &self.checkpoint.tensor(id).name,
            problem,
        )
    }

    /// What is said of a tensor over which a worker panicked; the first panic is told at the
    /// end of all work too.
    fn panicked(&self, id: TensorId, panic: &(dyn Any + Send)) -> CheckpointError {
        let why = panic_message(panic);
        lock(&self.panic).get_or_insert_with(|| why.clone());
        self.error(id, Problem::Panicked(why))
    }

    /// The next thing to do for the worker that had a part in `last`: it stays with that
    /// tensor, so that what is counted of it need not be put together from several, begins
    /// another while there are fewer than workers, and then helps with the one that was
    /// begun first. It waits only where nothing else is left to do.
    fn claim(&self, last: Option<&Arc<Shared<'a>>>) -> Option<Step<'a>> {
        if let Some(step) = last.filter(|_| !self.progress.is_cancelled()).and_then(Shared::step) {
            return Some(step);
        }
        let mut open = lock(&self.open);
        while !self.progress.is_cancelled() {
            open.retain(|shared| !shared.is_claimed());
            let may_begin = open.len() < self.workers;
            let begin = may_begin.then(|| self.next()).flatten();
            if begin.is_none()
                && let Some(step) = open.iter().find_map(Shared::step)
            {
                return Some(step);
            }
            match begin.or_else(|| self.next()) {
                Some((id, measurement)) if measurement.chunks() <= 1 => {
                    return Some(Step::Small(id, measurement));
                }
                Some((id, measurement)) => {
                    let shared = Arc::new(Shared::new(id, measurement));
                    let step = Shared::step(&shared);
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
    fn next(&self) -> Option<(TensorId, TensorAnalyzer<'a>)> {
        loop {
            let id = self.order.next()?;
            let Some(dtype) = self.checkpoint.float_type(id) else { continue };
            let shape = &self.checkpoint.tensor(id).shape;
            let learned = self.checkpoint.learned(id);
            return Some((id, TensorAnalyzer::new(self.questions, dtype, shape, learned)));
        }
    }

    /// Wakes those who wait for a tensor's next pass.
    fn wake(&self) {
        // Whoever found nothing to do is waiting, or has not looked yet.
        drop(lock(&self.open));
        self.ready.notify_all();
    }

    fn small(
        &self,
        worker: &mut Worker,
        id: TensorId,
        m: &TensorAnalyzer,
    ) -> Result<Analysis, CheckpointError> {
        let mut tally = m.histogram_type().map(|dtype| worker.tally(dtype));
        let mut read_bytes = 0;
        let found = m.run(tally.as_mut(), |elements, look| {
            let seen = worker.reader.look(id, elements, |_, bytes| {
                read_bytes += bytes.len() as u64;
                look(bytes);
            });
            seen.map(drop)
        });
        self.progress.advance(read_bytes / m.passes());
        // One that has counted and was not asked is not empty.
        worker.tallies.extend(tally.filter(|_| found.is_ok()));
        found
    }

    fn first(&self, worker: &mut Worker<'a>, shared: &Shared<'a>, chunks: Range<u64>) {
        let m = &shared.measurement;
        let mut tally = m.histogram_type().map(|dtype| {
            let waiting = lock(&shared.tallies).pop();
            waiting.unwrap_or_else(|| worker.tally(dtype))
        });
        let look = |k, bytes: &[u8]| m.first_pass(k, bytes, tally.as_mut());
        let looked = self.look(worker, shared, 0, chunks.clone(), look);
        // Before the chunks are added, so that after the last all are there.
        lock(&shared.tallies).extend(tally);
        let looked = match looked {
            Ok(looked) => looked,
            Err(error) => return self.fail(shared, error),
        };
        let calibrate = |all: &mut AnalysisState, next| m.add_first(all, next);
        let whole = lock(&shared.first).add_all(chunks.zip(looked), m.chunks(), calibrate);
        let Some(mut known) = whole else { return };
        m.end_first_pass(&mut known, counted(worker, shared));
        self.pass_is_over(shared, 0, known);
    }

    fn again(&self, worker: &mut Worker<'a>, shared: &Shared<'a>, pass: u64, chunks: Range<u64>) {
        let m = &shared.measurement;
        let known = shared.known.get(pass as usize - 1).and_then(OnceLock::get);
        let Some(known) = known else { return };
        let look = |k, bytes: &[u8]| m.further_pass(known, pass, k, bytes);
        let looked = match self.look(worker, shared, pass, chunks.clone(), look) {
            Ok(looked) => looked,
            Err(error) => return self.fail(shared, error),
        };
        let Some(found) = shared.found.get(pass as usize - 1) else { return };
        let whole =
            lock(found).add_all(chunks.zip(looked), m.chunks(), TensorAnalyzer::add_further);
        if let Some(found) = whole {
            let mut known = known.clone();
            m.end_pass(&mut known, pass, found);
            self.pass_is_over(shared, pass, known);
        }
    }

    fn pass_is_over(&self, shared: &Shared, pass: u64, known: AnalysisState) {
        match shared.known.get(pass as usize) {
            Some(place) => {
                let _ = place.set(known);
                lock(&shared.steps).over = pass + 1;
                self.wake();
            }
            None => self.finish(shared.id, Ok(shared.measurement.finish(known))),
        }
    }

    /// Looks at chunks of a tensor, one after the other: where they lie if that can be, and else
    /// in memory, where they are kept if they will be looked at again.
    fn look<T>(
        &self,
        worker: &mut Worker<'a>,
        shared: &Shared<'a>,
        pass: u64,
        chunks: Range<u64>,
        mut look: impl FnMut(u64, &[u8]) -> T,
    ) -> Result<Vec<T>, CheckpointError> {
        let m = &shared.measurement;
        // Progress counts each byte of the checkpoint once, however many passes it takes.
        let mut look = |k, bytes: &[u8]| {
            self.progress.advance(bytes.len() as u64 / m.passes());
            look(k, bytes)
        };
        let kept: Vec<_> = {
            let mut kept = lock(&shared.kept);
            chunks.clone().map(|k| kept.remove(&k)).collect()
        };
        if kept.iter().all(Option::is_none) {
            let first = chunks.start;
            let elements = m.chunk(first).start..m.chunk(chunks.end.saturating_sub(1)).end;
            if let Some(place) = worker.reader.in_place(shared.id, elements)? {
                return place.look(|bytes| {
                    let chunk = |k| bytes.get(m.chunk_bytes(first, k)).unwrap_or_default();
                    chunks.map(|k| look(k, chunk(k))).collect()
                });
            }
        }
        let looks = chunks.zip(kept).map(|(k, kept)| {
            let chunk = match kept {
                Some(chunk) => chunk,
                None => {
                    let mut chunk = self.chunks.chunk(worker.buffers.pop().unwrap_or_default());
                    worker.reader.elements_into(shared.id, m.chunk(k), &mut chunk.bytes)?;
                    chunk
                }
            };
            let seen = look(k, &chunk.bytes);
            match chunk.kept_if(pass + 1 < m.passes()) {
                Ok(chunk) => drop(lock(&shared.kept).insert(k, chunk)),
                Err(buffer) => worker.buffers.push(buffer),
            }
            Ok(seen)
        });
        looks.collect()
    }

    /// Gives a tensor up; the first error is the one reported.
    fn fail(&self, shared: &Shared, error: CheckpointError) {
        lock(&shared.steps).claimed = u64::MAX;
        if !std::mem::replace(&mut *lock(&shared.failed), true) {
            self.finish(shared.id, Err(error));
        }
        self.wake();
    }

    fn finish(&self, id: TensorId, found: Result<Analysis, CheckpointError>) {
        lock(&self.report)((id, found));
    }
}

/// What all workers counted of a tensor together.
fn counted(worker: &mut Worker, shared: &Shared) -> Option<ValueHistogram> {
    let mut tallies = std::mem::take(&mut *lock(&shared.tallies));
    let (whole, parts) = tallies.split_first_mut()?;
    parts.iter_mut().for_each(|part| whole.merge(part));
    let counted = whole.take();
    worker.tallies.append(&mut tallies);
    Some(counted)
}

impl<'a> Shared<'a> {
    fn new(id: TensorId, measurement: TensorAnalyzer<'a>) -> Self {
        let further = measurement.passes() as usize - 1;
        Shared {
            id,
            steps: Mutex::default(),
            kept: Mutex::default(),
            first: Mutex::new(OrderedFold::new(measurement.start())),
            tallies: Mutex::default(),
            known: (0..further).map(|_| OnceLock::new()).collect(),
            found: (0..further)
                .map(|_| Mutex::new(OrderedFold::new(FurtherPassResult::default())))
                .collect(),
            failed: Mutex::new(false),
            measurement,
        }
    }

    /// Claims the next step; `None` if there is none, or none before others have ended their
    /// part of a pass.
    fn step(shared: &Arc<Self>) -> Option<Step<'a>> {
        let mut steps = lock(&shared.steps);
        let chunks = shared.measurement.chunks();
        let (pass, k) = (steps.claimed / chunks, steps.claimed % chunks);
        if pass > steps.over || pass >= shared.measurement.passes() {
            return None;
        }
        let chunks = k..chunks.min(k + TOGETHER);
        steps.claimed += chunks.end - chunks.start;
        Some(Step::Chunks { of: shared.clone(), pass, chunks })
    }

    /// Whether no step is left.
    fn is_claimed(&self) -> bool {
        let claimed = lock(&self.steps).claimed;
        claimed / self.measurement.chunks() >= self.measurement.passes()
    }
}
