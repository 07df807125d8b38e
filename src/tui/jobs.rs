//! The jobs that are running, and the events that come from them.

use crate::app::{Event, Meter, outputs};
use crate::job::{Job, JobEvent, Progress, save, scan};
use crate::quantization::ScaleStorage;
use crate::tui::query::{Query, QueryKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The maximum number of calibration findings processed between two frames: enough to keep up with
/// the workers, few enough to react to keys immediately.
const MAX_FINDINGS_PER_POLL: usize = 4096;
/// How long a cancelled save may take to remove its temporary files.
const SAVE_CLEANUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two looks at a save that is being cancelled.
const SAVE_CLEANUP_POLL: Duration = Duration::from_millis(33);

/// A job with the time it was started at.
pub(super) struct Timed<T> {
    pub(super) job: Job<T>,
    pub(super) started: Duration,
}

/// A query with the time it was started at.
pub(super) struct TimedQuery {
    pub(super) kind: QueryKind,
    pub(super) query: Box<dyn Query>,
    pub(super) started: Duration,
}

/// The calibration that is running.
pub(super) struct RunningCalibration {
    pub(super) generation: u64,
    pub(super) order: Arc<scan::Order>,
    pub(super) scan: Timed<scan::Finding>,
}

/// A scan that measures the error of single marks.
pub(super) struct RunningMarks {
    pub(super) scale_storage: ScaleStorage,
    pub(super) scan: Job<scan::Finding>,
}

/// The save that is running.
pub(super) struct RunningSave {
    /// The output path as the user typed it.
    pub(super) out: PathBuf,
    pub(super) save: Timed<save::SaveEvent>,
}

/// Every job that is running.
#[derive(Default)]
pub(super) struct Jobs {
    pub(super) calibration: Option<RunningCalibration>,
    pub(super) save: Option<RunningSave>,
    pub(super) queries: Vec<TimedQuery>,
    pub(super) mark_errors: Vec<RunningMarks>,
    pub(super) outputs: Option<Timed<outputs::OutputsEvent>>,
}

/// The events since the last poll.
#[derive(Default)]
pub(super) struct Polled {
    pub(super) events: Vec<Event>,
    /// Whether a job has ended, or a query has its answer: worth a frame of its own.
    pub(super) job_ended: bool,
}

impl Jobs {
    pub(super) fn are_running(&self) -> bool {
        self.calibration.is_some()
            || self.save.is_some()
            || !self.queries.is_empty()
            || !self.mark_errors.is_empty()
            || self.outputs.is_some()
    }

    /// Cancels the query of a kind.
    pub(super) fn cancel_query(&mut self, kind: QueryKind) {
        self.queries.retain(|query| query.kind != kind);
    }

    /// Collects the findings of all jobs, and removes jobs that have ended.
    pub(super) fn poll(&mut self, now: Duration) -> Polled {
        let mut polled = Polled::default();
        self.poll_calibration(now, &mut polled);
        self.poll_save(now, &mut polled);
        self.poll_queries(&mut polled);
        self.poll_mark_errors(&mut polled);
        self.poll_outputs(&mut polled);
        polled
    }

    fn poll_calibration(&mut self, now: Duration, polled: &mut Polled) {
        let Some(RunningCalibration { generation, scan, .. }) = &mut self.calibration else {
            return;
        };
        let generation = *generation;
        for _ in 0..MAX_FINDINGS_PER_POLL {
            let end = match scan.job.poll() {
                JobEvent::Finding((tensor, found)) => {
                    polled.events.push(Event::Analyzed { generation, tensor, found });
                    continue;
                }
                JobEvent::Nothing => return,
                JobEvent::Ended => {
                    let meter = meter(scan.job.progress(), scan.started, now);
                    Event::CalibrationEnded { generation, meter }
                }
                JobEvent::Panicked(why) => Event::CalibrationFailed { generation, why },
            };
            polled.events.push(end);
            polled.job_ended = true;
            self.calibration = None;
            return;
        }
    }

    fn poll_save(&mut self, now: Duration, polled: &mut Polled) {
        while let Some(RunningSave { out, save }) = &mut self.save {
            match save.job.poll() {
                JobEvent::Finding(mut news) => {
                    if let save::SaveEvent::Finished(finished) = &mut news
                        && let Ok(receipt) = finished.as_mut()
                    {
                        receipt.out.clone_from(out);
                        // By the clock of the progress bar.
                        receipt.elapsed = now.saturating_sub(save.started);
                    }
                    polled.events.push(Event::Save(news));
                }
                JobEvent::Nothing => return,
                JobEvent::Ended => self.save = None,
                JobEvent::Panicked(why) => {
                    self.save = None;
                    polled.events.push(Event::SaveFailed(why));
                }
            }
            polled.job_ended |= self.save.is_none();
        }
    }

    fn poll_queries(&mut self, polled: &mut Polled) {
        self.queries.retain_mut(|query| match query.query.poll() {
            Some(answer) => {
                polled.events.extend(answer);
                polled.job_ended = true;
                false
            }
            None => true,
        });
    }

    fn poll_mark_errors(&mut self, polled: &mut Polled) {
        self.mark_errors.retain_mut(|RunningMarks { scale_storage, scan }| {
            let scale_storage = *scale_storage;
            loop {
                match scan.poll() {
                    JobEvent::Finding((tensor, found)) => {
                        polled.events.push(Event::MarkMeasured { tensor, scale_storage, found });
                        polled.job_ended = true;
                    }
                    JobEvent::Nothing => return true,
                    JobEvent::Ended | JobEvent::Panicked(_) => return false,
                }
            }
        });
    }

    fn poll_outputs(&mut self, polled: &mut Polled) {
        while let Some(outputs) = &mut self.outputs {
            match outputs.job.poll() {
                JobEvent::Finding(news) => polled.events.push(Event::Outputs(news)),
                JobEvent::Nothing => return,
                ended => {
                    if let JobEvent::Panicked(why) = ended {
                        polled.events.push(Event::Outputs(outputs::OutputsEvent::Ended(Err(why))));
                    }
                    self.outputs = None;
                    polled.job_ended = true;
                }
            }
        }
    }

    /// The event that reports the progress of the jobs.
    pub(super) fn tick(&self, now: Duration) -> Event {
        let diff = self.queries.iter().find(|query| query.kind == QueryKind::Diff);
        Event::Tick {
            now,
            calibration: self.calibration.as_ref().map(|running| running.scan.meter(now)),
            save: self.save.as_ref().map(|running| running.save.meter(now)),
            diff: diff.map(|diff| meter(diff.query.progress(), diff.started, now)),
            outputs: self.outputs.as_ref().map(|outputs| outputs.meter(now)),
        }
    }

    /// Cancels every job. Waits until a save has removed its temporary files and the calibration has
    /// written its cache.
    pub(super) fn finish(self) {
        if let Some(RunningSave { save: Timed { mut job, .. }, .. }) = self.save {
            job.cancel();
            let cancelled = Instant::now();
            while cancelled.elapsed() < SAVE_CLEANUP_TIMEOUT
                && !matches!(job.poll(), JobEvent::Ended | JobEvent::Panicked(_))
            {
                std::thread::sleep(SAVE_CLEANUP_POLL);
            }
        }
        if let Some(calibration) = self.calibration {
            calibration.scan.job.finish();
        }
    }
}

impl<T> Timed<T>
where
    T: Send + 'static,
{
    fn meter(&self, now: Duration) -> Meter {
        meter(self.job.progress(), self.started, now)
    }
}

fn meter(progress: &Progress, started: Duration, now: Duration) -> Meter {
    let elapsed = now.saturating_sub(started);
    Meter { done: progress.done(), total: progress.total(), elapsed, rate: None }
}
