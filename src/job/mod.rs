//! Work in the background: the only threads of the program.
//!
//! A job has progress that can be read at any time, can be cancelled, and sends what it
//! finds through one channel. Dropping a job cancels it.

mod background_sync;
pub mod cache;
pub mod channels;
mod chunk_store;
pub mod clip;
pub(crate) mod diff;
mod done_latch;
pub mod duplicates;
pub mod element_window;
mod error;
mod executor;
mod ordered_fold;
pub mod output;
mod progress;
pub mod save;
pub mod scan;
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

/// Work under way, whose findings are of type `T`.
#[derive(Debug)]
pub struct Job<T> {
    progress: Arc<Progress>,
    findings: Receiver<T>,
    over: Arc<DoneLatch>,
    thread: Option<JoinHandle<()>>,
}

/// How long findings gather while they are waited for. To wake who waits for each would take
/// its time from the work.
const GATHER: Duration = Duration::from_millis(10);

/// How long a cancelled job is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is new of a job.
#[derive(Debug, PartialEq)]
pub enum News<T> {
    Finding(T),
    /// Nothing now; the work goes on.
    Nothing,
    /// All findings have been given.
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

/// What a job does: it advances the progress and sends what it finds.
type Work<T> = dyn FnOnce(&Progress, &Sender<T>) + Send;

impl<T: Send + 'static> PendingJob<T> {
    pub fn new(
        name: &'static str,
        progress: Arc<Progress>,
        work: impl FnOnce(&Progress, &Sender<T>) + Send + 'static,
    ) -> PendingJob<T> {
        PendingJob { name, progress, work: Box::new(work) }
    }

    /// Starts the job on a thread of its own.
    pub fn start(self) -> std::io::Result<Job<T>> {
        self.start_on(&mut ThreadExecutor)
    }

    /// Starts the job wherever `executor` runs it.
    pub fn start_on(self, executor: &mut dyn Executor) -> std::io::Result<Job<T>> {
        let PendingJob { name, progress, work } = self;
        let (sender, findings) = channel();
        let (shared, over) = (progress.clone(), Arc::new(DoneLatch::default()));
        let latch = over.clone();
        let run = move || {
            // Declared before the sender, so that the channel is closed when the latch opens.
            let _open = latch.at_the_end();
            let sender = sender;
            work(&shared, &sender);
        };
        let thread = executor.execute(name, Box::new(run))?;
        Ok(Job { progress, findings, over, thread })
    }
}

impl<T: Send + 'static> Job<T> {
    /// Starts `work` on a thread of its own.
    pub fn start(
        name: &'static str,
        progress: Arc<Progress>,
        work: impl FnOnce(&Progress, &Sender<T>) + Send + 'static,
    ) -> std::io::Result<Job<T>> {
        PendingJob::new(name, progress, work).start()
    }

    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    pub fn cancel(&self) {
        self.progress.cancel();
    }

    /// The next finding, without waiting.
    pub fn poll(&mut self) -> News<T> {
        match self.findings.try_recv() {
            Ok(finding) => News::Finding(finding),
            Err(TryRecvError::Empty) => News::Nothing,
            Err(TryRecvError::Disconnected) => self.ended(),
        }
    }

    /// The next finding, waiting for it no longer than `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> News<T> {
        let until = Instant::now() + timeout;
        loop {
            match self.poll() {
                News::Nothing => {}
                news => return news,
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return News::Nothing;
            }
            self.over.wait(left.min(GATHER));
        }
    }

    /// Cancels the work, and waits a moment for it to put away what it has.
    pub fn finish(mut self) {
        self.cancel();
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let News::Ended | News::Panicked(_) = self.wait(PATIENCE) {
                return;
            }
        }
    }

    fn ended(&mut self) -> News<T> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => News::Panicked(panic_message(panic.as_ref())),
            _ => News::Ended,
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
    // A pool of its own: a save need not wait until a scan is over.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .thread_name(|n| format!("worker {n}"))
        .build()
        .map_err(|e| Stopped::NoThreads(e.to_string()))?;
    pool.broadcast(|_| work());
    Ok(())
}

/// Calls a worker for every chunk `k` of every piece of work, in order, on all cores;
/// `counts` are the chunks of each piece. `worker` makes one for each thread. The first
/// error ends it.
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
            let piece = starts.partition_point(|&start| start <= step) - 1;
            if let Err(error) = work(piece, step - starts[piece]) {
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

/// A panic elsewhere must not become a second one here: the data under these locks is
/// whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a panic said.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "no message".to_owned())
}
