//! A query: a job with one answer, which becomes one event.

use crate::app::Event;
use crate::job::{Job, JobEvent, Progress};

/// The kind of a query. A new query replaces a running one of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryKind {
    Values,
    Histogram,
    Clip,
    Schemes,
    Channels,
    Duplicates,
    Diff,
    Report,
    Models,
    LoadCheck,
}

/// A running query with an answer of any type. Dropping it cancels the job.
pub(super) trait Query {
    /// `None` while the job runs; afterwards the event for the answer, if it has one.
    fn poll(&mut self) -> Option<Option<Event>>;

    fn progress(&self) -> &Progress;
}

/// Creates a query whose answer `to_event` converts to an event.
pub(super) fn query<T: Send + 'static>(
    job: Job<T>,
    to_event: impl Fn(Result<T, String>) -> Option<Event> + 'static,
) -> Box<dyn Query> {
    Box::new(RunningQuery { job, to_event })
}

struct RunningQuery<T, F> {
    job: Job<T>,
    to_event: F,
}

impl<T, F> Query for RunningQuery<T, F>
where
    T: Send + 'static,
    F: Fn(Result<T, String>) -> Option<Event>,
{
    fn poll(&mut self) -> Option<Option<Event>> {
        let answer = match self.job.poll() {
            JobEvent::Finding(answer) => Ok(answer),
            JobEvent::Nothing => return None,
            JobEvent::Ended => Err("cancelled before it was finished".to_owned()),
            JobEvent::Panicked(why) => Err(why),
        };
        Some((self.to_event)(answer))
    }

    fn progress(&self) -> &Progress {
        self.job.progress()
    }
}
