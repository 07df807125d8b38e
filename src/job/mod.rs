//! Background work. All threads of the program are started here.
//!
//! A job has progress that can be read at any time, can be cancelled, and sends its findings
//! through one channel. Dropping a job cancels it. Imports everything below it (`checkpoint`,
//! `activations`, `plan`, `export`); `cli` and `tui` start jobs.

mod background_sync;
pub mod cache;
mod calibration;
pub mod channels;
mod chunk_store;
pub mod clip;
pub(crate) mod diff;
mod done_latch;
pub mod duplicates;
pub mod element_window;
mod entry_chunks;
mod error;
mod executor;
mod finished_pieces;
pub(crate) mod join;
mod ordered_fold;
pub mod output;
pub(crate) mod partition;
mod progress;
mod recorded_inputs;
pub(crate) mod sample;
pub mod save;
pub mod scan;
mod scan_order;
pub mod verify;
mod writers;

pub use error::JobError;
pub use executor::{Executor, ThreadExecutor};
pub use progress::{Progress, Stopped};

use done_latch::DoneLatch;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running job, which sends findings of type `T`.
#[derive(Debug)]
pub struct Job<T> {
    progress: Arc<Progress>,
    findings: Receiver<T>,
    done: Arc<DoneLatch>,
    thread: Option<JoinHandle<()>>,
}

/// How long a waiting receiver sleeps before it checks for findings again. Waking it for each
/// finding would slow the workers down.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long to wait for a cancelled job to clean up.
const FINISH_TIMEOUT: Duration = Duration::from_millis(500);

/// The next report of a job.
#[derive(Debug, PartialEq)]
pub enum JobEvent<T> {
    /// The next finding.
    Finding(T),
    /// No finding yet; the job is still running.
    Nothing,
    /// The job has ended, and all findings were received.
    Ended,
    /// The work's thread panicked, with this message.
    Panicked(String),
}

/// A job that has not started yet.
pub struct PendingJob<T> {
    name: &'static str,
    progress: Arc<Progress>,
    work: Box<Work<T>>,
}

/// The function of a job. It advances the progress and sends findings.
type Work<T> = dyn FnOnce(&Progress, &Sender<T>) + Send;

impl<T: Send + 'static> PendingJob<T> {
    /// A job that will run `work`. Debuggers and panic messages show `name`.
    pub fn new(
        name: &'static str,
        progress: Arc<Progress>,
        work: impl FnOnce(&Progress, &Sender<T>) + Send + 'static,
    ) -> PendingJob<T> {
        PendingJob { name, progress, work: Box::new(work) }
    }

    /// Starts the job on a new thread.
    pub fn start(self) -> std::io::Result<Job<T>> {
        self.start_on(&mut ThreadExecutor)
    }

    /// Starts the job with an executor.
    pub fn start_on(self, executor: &mut dyn Executor) -> std::io::Result<Job<T>> {
        let PendingJob { name, progress, work } = self;
        let (sender, findings) = channel();
        let (shared, done) = (progress.clone(), Arc::new(DoneLatch::default()));
        let latch = done.clone();
        let run = move || {
            // Declared before the sender, so that the channel is closed before the latch is set.
            let _done = latch.set_on_drop();
            let sender = sender;
            work(&shared, &sender);
        };
        let thread = executor.execute(name, Box::new(run))?;
        Ok(Job { progress, findings, done, thread })
    }
}

impl<T: Send + 'static> Job<T> {
    /// Starts `work` on a new thread.
    pub fn start(
        name: &'static str,
        progress: Arc<Progress>,
        work: impl FnOnce(&Progress, &Sender<T>) + Send + 'static,
    ) -> std::io::Result<Job<T>> {
        PendingJob::new(name, progress, work).start()
    }

    /// The job's progress, shared with its workers.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Asks the job to stop.
    pub fn cancel(&self) {
        self.progress.cancel();
    }

    /// The next finding, without waiting.
    pub fn poll(&mut self) -> JobEvent<T> {
        match self.findings.try_recv() {
            Ok(finding) => JobEvent::Finding(finding),
            Err(TryRecvError::Empty) => JobEvent::Nothing,
            Err(TryRecvError::Disconnected) => self.ended(),
        }
    }

    /// The next finding, waiting at most `timeout` for it.
    pub fn wait(&mut self, timeout: Duration) -> JobEvent<T> {
        let until = Instant::now() + timeout;
        loop {
            match self.poll() {
                JobEvent::Nothing => {}
                news => return news,
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return JobEvent::Nothing;
            }
            self.done.wait(left.min(POLL_INTERVAL));
        }
    }

    /// Cancels the job, and waits a moment for it to clean up.
    pub fn finish(mut self) {
        self.cancel();
        let until = Instant::now() + FINISH_TIMEOUT;
        while Instant::now() < until {
            if let JobEvent::Ended | JobEvent::Panicked(_) = self.wait(FINISH_TIMEOUT) {
                return;
            }
        }
    }

    fn ended(&mut self) -> JobEvent<T> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => JobEvent::Panicked(panic_message(panic.as_ref())),
            _ => JobEvent::Ended,
        }
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.progress.cancel();
    }
}

/// Runs `work` once on each of `threads` threads, all cores if `None`, and waits.
pub(crate) fn on_all_cores(threads: Option<usize>, work: impl Fn() + Sync) -> Result<(), Stopped> {
    // Each job has its own pool, so that a save does not wait for a scan to finish.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .thread_name(|n| format!("worker {n}"))
        .build()
        .map_err(|e| Stopped::NoThreads(e.to_string()))?;
    pool.broadcast(|_| work());
    Ok(())
}

/// Calls a worker for every chunk of every item, in order, on all cores. `counts` has the
/// number of chunks of each item; the worker is called with the index of the item and of the
/// chunk. `worker` creates one worker per thread. The first error ends the work.
fn each_chunk<W>(
    counts: impl Iterator<Item = u64>,
    threads: Option<usize>,
    progress: &Progress,
    worker: impl Fn() -> W + Sync,
) -> Result<(), JobError>
where
    W: FnMut(usize, u64) -> Result<(), JobError>,
{
    let mut starts = vec![0u64];
    for count in counts {
        starts.push(starts[starts.len() - 1] + count);
    }
    let total = starts[starts.len() - 1];
    let next = AtomicU64::new(0);
    let failed: Mutex<Option<JobError>> = Mutex::new(None);
    on_all_cores(threads, || {
        let mut work = worker();
        while !progress.is_cancelled() {
            let step = next.fetch_add(1, Relaxed);
            if step >= total {
                return;
            }
            let item = starts.partition_point(|&start| start <= step) - 1;
            if let Err(error) = work(item, step - starts[item]) {
                next.store(total, Relaxed);
                lock(&failed).get_or_insert(error);
                return;
            }
        }
    })?;
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(progress.check()?),
    }
}

/// Locks a mutex even if a thread panicked while holding it: the data under these locks is
/// consistent between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The message of a panic.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "no message".to_owned())
}
