//! Calibrating and measuring every tensor of a checkpoint on all cores.
//!
//! Workers claim chunks from one queue, in an order that can be changed while they work,
//! so that what a person looks at comes first and one huge tensor still uses every core.

use super::in_order::InOrder;
use super::{Job, Progress, Stopped, lock};
use crate::checkpoint::{Checkpoint, CheckpointError, Reader};
use crate::quantization::{Analysis, Calibrated, First, Measurement, Questions, Second};
use crate::tensor::TensorId;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

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

/// Starts measuring in the background. `threads`: how many workers, all cores if `None`.
pub fn start(
    checkpoint: Arc<Checkpoint>,
    questions: Questions,
    order: Arc<Order>,
    threads: Option<usize>,
) -> std::io::Result<Job<Finding>> {
    let total = float_bytes(&checkpoint, lock(&order.pending).waiting.iter().copied());
    Job::start("scan", Arc::new(Progress::new(total)), move |progress, sender| {
        let report = |finding| {
            // A receiver that is gone means that nobody wants the rest.
            if sender.send(finding).is_err() {
                progress.cancel();
            }
        };
        // Cancellation needs no word: whoever cancelled knows.
        let _ = run(&checkpoint, &questions, &order, threads, progress, &report);
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
    questions: &Questions,
    order: &Order,
    threads: Option<usize>,
    progress: &Progress,
    report: &(dyn Fn(Finding) + Sync),
) -> Result<(), Stopped> {
    let scan = Scan {
        checkpoint,
        questions,
        order,
        progress,
        current: Mutex::default(),
        report: Mutex::new(report),
    };
    super::on_all_cores(threads, || scan.work())?;
    progress.check()
}

struct Scan<'a> {
    checkpoint: &'a Checkpoint,
    questions: &'a Questions,
    order: &'a Order,
    progress: &'a Progress,
    /// The large tensor that workers share now.
    current: Mutex<Option<Arc<Shared<'a>>>>,
    report: Mutex<&'a (dyn Fn(Finding) + Sync)>,
}

/// A tensor of several chunks, measured by several workers.
struct Shared<'a> {
    id: TensorId,
    measurement: Measurement<'a>,
    /// The next step nobody has claimed: first passes, then second passes.
    claimed: Mutex<u64>,
    first: Mutex<InOrder<First, Calibrated>>,
    calibrated: OnceLock<Calibrated>,
    ready: (Mutex<bool>, Condvar),
    second: Mutex<InOrder<Second, Second>>,
    failed: Mutex<bool>,
}

enum Step<'a> {
    Small(TensorId, Measurement<'a>),
    First(Arc<Shared<'a>>, u64),
    Second(Arc<Shared<'a>>, u64),
}

impl<'a> Scan<'a> {
    fn work(&self) {
        let mut reader = self.checkpoint.reader();
        while !self.progress.is_cancelled() {
            let Some(step) = self.claim() else { return };
            match step {
                Step::Small(id, measurement) => {
                    let found = self.small(&mut reader, id, &measurement);
                    self.finish(id, found);
                }
                Step::First(shared, k) => self.first(&mut reader, &shared, k),
                Step::Second(shared, k) => self.second(&mut reader, &shared, k),
            }
        }
    }

    fn claim(&self) -> Option<Step<'a>> {
        let mut current = lock(&self.current);
        if let Some(shared) = current.as_ref() {
            if let Some(step) = Shared::claim(shared) {
                return Some(step);
            }
            *current = None;
        }
        loop {
            let id = self.order.next()?;
            let Some(dtype) = self.checkpoint.float_type(id) else { continue };
            let shape = &self.checkpoint.tensor(id).shape;
            let measurement = Measurement::new(self.questions, dtype, shape);
            if measurement.chunks() <= 1 {
                return Some(Step::Small(id, measurement));
            }
            let shared = Arc::new(Shared::new(id, measurement));
            let step = Shared::claim(&shared);
            *current = Some(shared);
            return step;
        }
    }

    fn small(
        &self,
        reader: &mut Reader,
        id: TensorId,
        m: &Measurement,
    ) -> Result<Analysis, CheckpointError> {
        let mut calibrated = m.start();
        let mut second = Second::new();
        for k in 0..m.chunks() {
            let bytes = read(reader, id, m, k)?;
            m.calibrate(&mut calibrated, m.first(k, bytes));
            if m.second_pass() {
                Measurement::accumulate(&mut second, m.second(&calibrated, k, bytes));
            }
            self.progress.advance(bytes.len() as u64);
        }
        Ok(m.finish(&calibrated, second))
    }

    fn first(&self, reader: &mut Reader, shared: &Shared, k: u64) {
        let _wake_if_this_panics = WakeOnPanic(shared);
        let m = &shared.measurement;
        let first = match read(reader, shared.id, m, k) {
            Ok(bytes) => {
                self.advance(m, bytes);
                m.first(k, bytes)
            }
            Err(error) => return self.fail(shared, error),
        };
        let whole =
            lock(&shared.first).add(k, first, m.chunks(), |all, next| m.calibrate(all, next));
        let Some(calibrated) = whole else { return };
        if m.second_pass() {
            let _ = shared.calibrated.set(calibrated);
            shared.wake();
        } else {
            self.finish(shared.id, Ok(m.finish(&calibrated, Second::new())));
        }
    }

    fn second(&self, reader: &mut Reader, shared: &Shared, k: u64) {
        let m = &shared.measurement;
        let Some(calibrated) = shared.wait() else { return };
        let second = match read(reader, shared.id, m, k) {
            Ok(bytes) => {
                self.advance(m, bytes);
                m.second(calibrated, k, bytes)
            }
            Err(error) => return self.fail(shared, error),
        };
        let whole = lock(&shared.second).add(k, second, m.chunks(), Measurement::accumulate);
        if let Some(second) = whole {
            self.finish(shared.id, Ok(m.finish(calibrated, second)));
        }
    }

    /// Progress counts each byte of the checkpoint once, however many passes it takes.
    fn advance(&self, m: &Measurement, bytes: &[u8]) {
        let passes = if m.second_pass() { 2 } else { 1 };
        self.progress.advance(bytes.len() as u64 / passes);
    }

    /// Gives a tensor up; the first error is the one reported.
    fn fail(&self, shared: &Shared, error: CheckpointError) {
        *lock(&shared.claimed) = u64::MAX;
        if !std::mem::replace(&mut *lock(&shared.failed), true) {
            self.finish(shared.id, Err(error));
        }
        shared.wake();
    }

    fn finish(&self, id: TensorId, found: Result<Analysis, CheckpointError>) {
        lock(&self.report)((id, found));
    }
}

/// The elements of chunk `k`.
fn read<'r>(
    reader: &'r mut Reader,
    id: TensorId,
    m: &Measurement,
    k: u64,
) -> Result<&'r [u8], CheckpointError> {
    let read = reader.elements(id, m.chunk(k))?;
    Ok(read.map_or(&[], |(_, bytes)| bytes))
}

/// Every claimed step is carried out, so a calibration that is waited for comes, unless
/// the worker that owes a part of it panics.
struct WakeOnPanic<'s, 'a>(&'s Shared<'a>);

impl Drop for WakeOnPanic<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.wake();
        }
    }
}

impl<'a> Shared<'a> {
    fn new(id: TensorId, measurement: Measurement<'a>) -> Self {
        Shared {
            id,
            claimed: Mutex::new(0),
            first: Mutex::new(InOrder::new(measurement.start())),
            calibrated: OnceLock::new(),
            ready: Default::default(),
            second: Mutex::new(InOrder::new(Second::new())),
            failed: Mutex::new(false),
            measurement,
        }
    }

    fn claim(shared: &Arc<Self>) -> Option<Step<'a>> {
        let mut claimed = lock(&shared.claimed);
        let k = *claimed;
        let chunks = shared.measurement.chunks();
        let steps = if shared.measurement.second_pass() { chunks * 2 } else { chunks };
        if k >= steps {
            return None;
        }
        *claimed += 1;
        Some(match k < chunks {
            true => Step::First(shared.clone(), k),
            false => Step::Second(shared.clone(), k - chunks),
        })
    }

    fn wake(&self) {
        *lock(&self.ready.0) = true;
        self.ready.1.notify_all();
    }

    /// The calibration, once all first passes are in; `None` if it will never come.
    fn wait(&self) -> Option<&Calibrated> {
        let mut ready = lock(&self.ready.0);
        while !*ready {
            ready = self.ready.1.wait(ready).unwrap_or_else(PoisonError::into_inner);
        }
        self.calibrated.get()
    }
}
